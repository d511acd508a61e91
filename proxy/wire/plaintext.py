"""What a connection to a TLS port begins with, if not with TLS.

Whoever speaks HTTP to it has a wrong URL, and can be told so in words that are understood.  All
others are misconfigured, or look what is here: the record says what they began with, and they are
sent an alert.
"""

from __future__ import annotations

import re
from typing import Final

#: A method, as far as it has come: those of all registers are in capitals.
_METHOD: Final = re.compile(rb"(?!PROXY )[A-Z][A-Z-]*( |\Z)")
_KINDS: Final = (
    (
        re.compile(rb"PROXY |\r\n\r\n\0\r\nQUIT\n"),
        "a PROXY header, which this listener expects none of",
    ),
    (
        re.compile(rb"[\x80-\xff].\x01[\0\x02\x03]", re.DOTALL),
        "a ClientHello in the format of SSL 2",
    ),
    (re.compile(rb"[\x14\x15\x17\x18]\x03"), "a TLS record of something else than a handshake"),
    (re.compile(rb"SSH-"), "SSH"),
)
#: How much of what nobody knows is shown.
_SHOWN: Final = 16


def begins_as_http(data: bytes | bytearray) -> bool:
    """Whether a stream that begins with this may be one of HTTP/1 requests."""
    return _METHOD.match(data) is not None


def name_protocol(data: bytes | bytearray) -> str:
    """Return what a stream that begins with this is, in words for a log."""
    for pattern, name in _KINDS:
        if pattern.match(data):
            return name
    return f"0x{data[:_SHOWN].hex()}"
