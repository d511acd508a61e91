"""What TLS says to a client with which no handshake can be begun (RFC 8446 section 6)."""

from __future__ import annotations

import enum


class Alert(enum.IntEnum):
    """Why a handshake is refused before OpenSSL has seen anything of it."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    UNRECOGNIZED_NAME = 112


def alert_record(description: int) -> bytes:
    """Return a fatal alert in a record by itself (RFC 8446 sections 5.1 and 6.2).

    Its version is that of TLS 1.2, as in every record of TLS 1.3; before there is an agreement,
    older clients look at the major one only.
    """
    return bytes((21, 3, 3, 0, 2, 2, description))
