"""What a client reads where the proxy itself answers with an error."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Final

from proxy.errors import Refusal

from .headers import Headers

#: RFC 9110 section 15, in its words; Python's are those of older ones.
REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


def answer_to(refusal: Refusal, request_id: str) -> tuple[bytes, Headers, bytes]:
    """Return the reason phrase, headers and body of an error's answer."""
    reason = reason_phrase(refusal.status)
    headers, body = _content(refusal, reason, request_id)
    if refusal.status != 204:
        # RFC 9110 section 8.6
        headers.append((b"Content-Length", b"%d" % len(body)))
    if refusal.is_fault:
        headers.append((b"Proxy-Status", b"tidegate; error=" + refusal.token.encode()))
    headers += refusal.headers
    return reason, headers, body


def _content(refusal: Refusal, reason: bytes, request_id: str) -> tuple[Headers, bytes]:
    """Return an answer's body, and the headers that are about it."""
    if refusal.body is not None:
        return [], refusal.body
    facts = refusal.status, reason, refusal.told.encode(), request_id.encode()
    headers = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
    ]
    return headers, b"%d %s: %s (%s)\n" % facts


def reason_phrase(status: int) -> bytes:
    """Return what stands behind a status, nothing if that is none of HTTP's."""
    if status in REASONS:
        return REASONS[status]
    with suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b""
