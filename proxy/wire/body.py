"""Where a message's body ends, and what of it has come (RFC 9112 sections 6 and 7).

A `Body` is given all the bytes that are there, and takes what belongs to it: it keeps none, so
whoever reads has one buffer, and what is left in that when the body is done belongs to the next
message.  Chunks are read strictly: a size is hexadecimal digits, an extension is printable and
dropped, lines end in CRLF and in nothing else.  What goes on is framed anew.
"""

from __future__ import annotations

import re
from typing import Final

from .head import Request, Response
from .headers import Fields, Headers

#: A chunk's size and extensions; no peer is known to send more than some 20 bytes.
MAX_LINE: Final = 256
#: All lines of a trailer section together, and their number: as much as a small head.
MAX_TRAILERS: Final = 8 * 1024
MAX_TRAILER_LINES: Final = 32
LAST_CHUNK: Final = b"0\r\n\r\n"

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIELD: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*"
    rb"[\x21-\x7e\x80-\xff])?)?[ \t]*"
)


class BodyError(ValueError):
    """The framing is broken; what comes behind cannot be told from it."""


class BodyCutShort(BodyError):
    """The stream has ended within it."""


class Body:
    """The body of one message, as it comes.

    It is no ABC, whose `isinstance` takes as long as all that most bodies are asked for.
    """

    #: All of it was taken.
    done: bool
    #: What came behind it, if it can have that.
    trailers: Headers

    def __init__(self) -> None:
        self.done = False
        self.trailers = []

    def take(self, data: bytes) -> tuple[bytes, int]:
        """Return content from the beginning of `data`, and how much of that is used up.

        What is not used up comes again, with more behind it.

        Raises:
            BodyError: the framing is broken.
        """
        raise NotImplementedError

    def end(self, *, clean: bool = True) -> None:
        """Take notice of the end of the stream; over TLS it is `clean` with a close_notify only.

        Raises:
            BodyCutShort: the body is not complete.
        """
        raise BodyCutShort("cut short")


class SizedBody(Body):
    """As many bytes as were said; none at all is a size, too."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = self._left = size
        self.done = not size

    def take(self, data: bytes) -> tuple[bytes, int]:
        content = data if len(data) <= self._left else data[: self._left]
        self._left -= len(content)
        self.done = not self._left
        return content, len(content)


class EndlessBody(Body):
    """All that comes until the stream ends: a node's answer only (section 6.3, rule 8).

    What ends without a close_notify may have been cut by anybody (RFC 9112 section 9.8).
    """

    def take(self, data: bytes) -> tuple[bytes, int]:
        return data, len(data)

    def end(self, *, clean: bool = True) -> None:
        if not clean:
            raise BodyCutShort("cut short")
        self.done = True


class ChunkedBody(Body):
    """Section 7.1."""

    def __init__(self) -> None:
        super().__init__()
        #: Of the current chunk, with the CRLF behind it; 0: a size line comes next.
        self._left = 0
        self._in_trailers = False

    def take(self, data: bytes) -> tuple[bytes, int]:
        content: list[bytes] = []
        position = 0
        while position < len(data) and not (self.done or self._in_trailers):
            if not self._left:
                line = _line(data, position, MAX_LINE)
                if line is None:
                    break
                position += len(line) + 2
                self._left = _size(line) + 2
                self._in_trailers = self._left == 2
            else:
                used = self._chunk(data, position, content)
                if not used:
                    break
                position += used
        if self._in_trailers:
            position = self._trailers(data, position)
        return content[0] if len(content) == 1 else b"".join(content), position

    def _chunk(self, data: bytes, position: int, content: list[bytes]) -> int:
        """Take of a chunk what is there; return how much that was."""
        room = self._left - 2
        piece = data[position : position + room]
        if piece:
            content.append(piece)
            self._left -= len(piece)
        if len(piece) < room:
            return len(piece)
        end = data[position + room : position + room + 2]
        if not b"\r\n".startswith(end):
            raise BodyError("a chunk is longer than its size")
        if len(end) < 2:
            return len(piece)
        self._left = 0
        return len(piece) + 2

    def _trailers(self, data: bytes, position: int) -> int:
        """Read lines up to the empty one; return where the rest begins."""
        while (line := _line(data, position, MAX_TRAILERS)) is not None:
            position += len(line) + 2
            if not line:
                self.done, self._in_trailers = True, False
                break
            field = _FIELD.fullmatch(line)
            if field is None:
                raise BodyError("a trailer is malformed")
            self.trailers.append((field[1], field[2] or b""))
            size = sum(len(name) + len(value) for name, value in self.trailers)
            if len(self.trailers) > MAX_TRAILER_LINES or size > MAX_TRAILERS:
                raise BodyError("the trailers are too large")
        return position


def _line(data: bytes, start: int, limit: int) -> bytes | None:
    """Return the line that begins at `start`, without its end; None if that has not come yet."""
    end = data.find(b"\r\n", start, start + limit)
    line = data[start : end if end >= 0 else start + limit]
    if end < 0:
        if len(line) == limit:
            raise BodyError("a line of the chunked body is too long")
        # A CR may be the first half of the end.
        line = line.removesuffix(b"\r")
    if b"\n" in line or b"\r" in line:
        raise BodyError("a line of the chunked body ends in CR or LF alone")
    return line if end >= 0 else None


def _size(line: bytes) -> int:
    match = _SIZE.fullmatch(line)
    if match is None:
        raise BodyError("a chunk has no size")
    return int(match[1], 16)


#: What most requests have: it is done from the beginning, and so it may be everybody's.
NO_BODY: Final = SizedBody(0)


def request_body(request: Request) -> Body:
    """Return the body of a request: it has one length, or is chunked."""
    if b"transfer-encoding" in request.names:
        return ChunkedBody()
    length = request.names.get(b"content-length")
    return NO_BODY if length is None else SizedBody(int(length))


def response_body(method: bytes, response: Response) -> Body:
    """Return the body of the answer to a request with this method (section 6.3)."""
    status = response.status_code
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NO_BODY
    if response.get(b"transfer-encoding") is not None:
        return ChunkedBody()
    length = response.get(b"content-length")
    return EndlessBody() if length is None else SizedBody(int(length))


def chunk(content: bytes) -> bytes:
    """Return content as a chunk; there must be some, for an empty one is the last."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def last_chunk(trailers: Fields = ()) -> bytes:
    """Return the end of a chunked body."""
    if not trailers:
        return LAST_CHUNK
    lines = b"".join(b"%b: %b\r\n" % pair for pair in trailers)
    return b"0\r\n%b\r\n" % lines
