"""A second opinion on HTTP/1.1: a strict reader of whole messages, which shares nothing with ours.

Of a message it takes what RFC 9112 has a sender write, and not what it lets a recipient put up
with: whatever goes through it can be read in one way.
"""

from __future__ import annotations

import re

import attrs

Headers = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[^"\\]*"))?)*)'
)


class Incomplete(Exception):
    """More has to come."""


class Malformed(Exception):
    """No strict sender has written this."""


@attrs.frozen
class Message:
    """A request, whose `start` is method and target, or an answer: status and reason."""

    start: tuple[bytes, bytes]
    headers: Headers
    body: bytes
    trailers: Headers
    #: Where the next one begins.
    end: int

    def get(self, name: bytes) -> bytes | None:
        """Return the one value under a name (in lower case)."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) < 2, (name, values)
        return values[0] if values else None


def read_request(data: bytes, start: int = 0) -> Message:
    """Return the request that begins there.

    Raises:
        Incomplete, Malformed: it isn't there, or isn't one.
    """
    line, at = _line(data, start)
    if not (found := _REQUEST_LINE.fullmatch(line)):
        raise Malformed(line)
    headers, at = _fields(data, at)
    body, trailers, at = _body(data, at, headers, otherwise=0)
    return Message((found[1], found[2]), headers, body, trailers, at)


def read_answer(data: bytes, method: str, start: int = 0, *, ended: bool = False) -> Message:
    """Return the answer to a method that begins there, or the interim one before it.

    `ended` says that nothing more comes.

    Raises:
        Incomplete, Malformed: it isn't there, or isn't one.
    """
    line, at = _line(data, start)
    if not (found := _STATUS_LINE.fullmatch(line)):
        raise Malformed(line)
    headers, at = _fields(data, at)
    if method == "HEAD" or found[1][0:1] == b"1" or found[1] in (b"204", b"304"):
        return Message((found[1], found[2]), headers, b"", [], at)
    rest = len(data) - at if ended else None
    body, trailers, at = _body(data, at, headers, otherwise=rest)
    return Message((found[1], found[2]), headers, body, trailers, at)


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise Incomplete
    return data[at:end], end + 2


def _fields(data: bytes, at: int) -> tuple[Headers, int]:
    fields: Headers = []
    while True:
        line, at = _line(data, at)
        if not line:
            return fields, at
        if not (found := _FIELD.fullmatch(line)):
            raise Malformed(line)
        fields.append((found[1], found[2]))


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _body(
    data: bytes, at: int, headers: Headers, *, otherwise: int | None
) -> tuple[bytes, Headers, int]:
    """Return a body, its trailers and where they end; `otherwise`: its length if it has none."""
    lengths, codings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Malformed("two lengths")
    if codings:
        if codings[0].lower() != b"chunked":
            raise Malformed(codings[0])
        return _chunks(data, at)
    if lengths and not re.fullmatch(rb"\d{1,18}", lengths[0]):
        raise Malformed(lengths[0])
    length = int(lengths[0]) if lengths else otherwise
    if length is None or len(data) - at < length:
        raise Incomplete
    return data[at : at + length], [], at + length


def _chunks(data: bytes, at: int) -> tuple[bytes, Headers, int]:
    body = b""
    while True:
        line, at = _line(data, at)
        if not (found := _CHUNK.fullmatch(line)):
            raise Malformed(line)
        size = int(found[1], 16)
        if not size:
            trailers, at = _fields(data, at)
            return body, trailers, at
        if len(data) < at + size + 2:
            raise Incomplete
        if data[at + size : at + size + 2] != b"\r\n":
            raise Malformed(data[at + size : at + size + 2])
        body += data[at : at + size]
        at += size + 2
