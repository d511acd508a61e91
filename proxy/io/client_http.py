"""A client's HTTP connection: requests are read, and answered.

It takes only what `wire.headers` has found to be readable in one way, and what it answers is framed
here.  It gives up the stream, and the bytes that came early, for a WebSocket.
"""

from __future__ import annotations

from contextlib import suppress

import h11
import trio

from proxy.errors import BadRequest, ClientGone, HeadTooLarge, NotImplementedCoding, Refusal
from proxy.wire.body import (
    Body,
    BodyCutShort,
    BodyError,
    SizedBody,
    chunk,
    last_chunk,
    request_body,
)
from proxy.wire.head import parse_request, write_response
from proxy.wire.headers import (
    Fields,
    Headers,
    HeadLimits,
    check_head,
    check_request,
    find_head,
    tokens,
)
from proxy.wire.refusal import answer_to

from .http1 import Http1
from .transport import SocketTransport

#: What a client may send ahead while its request waits for a node.
EARLY_BYTES = 64 * 1024


class ClientHttp(Http1):
    """A client's connection, one request after the other.

    Every method raises `ClientGone` if it turns out to be broken.
    """

    def __init__(self, stream: trio.abc.Stream, limits: HeadLimits) -> None:
        super().__init__(stream)
        self._limits = limits
        self._reset()

    def _reset(self) -> None:
        #: The current request as h11 read it, also if it was refused then.
        self.request: h11.Request | None = None
        self.body: Body = SizedBody(0)
        #: Of the answer: its head, until it goes out, and how its body is framed.
        self._head = b""
        self._chunked = self._bodiless = False
        self._begun = self._whole = self._closes = False

    async def _receive(self) -> bytes:
        try:
            return await super()._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def _send(self, data: bytes) -> None:
        try:
            await super()._send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def wait_request(self) -> bool:
        """Wait for the first byte of a request; return False if the client hung up instead."""
        if not self._buffer:
            self._buffer = await self._receive()
        return bool(self._buffer)

    async def read_request(self) -> h11.Request:
        """Return the next request's head, its target in origin form.

        Raises:
            BadRequest: or what else refuses a head.
        """
        while (end := find_head(self._buffer, self._limits)) is None:
            data = await self._receive()
            if not data:
                raise ClientGone("It hung up within a request head.")
            self._buffer += data
        head, self._buffer = self._buffer[:end], self._buffer[end:]
        check_head(head, self._limits)
        try:
            self.request = request = parse_request(head)
        except h11.RemoteProtocolError as exc:
            raise _refusal(exc) from exc
        headers = request.headers.raw_items()
        target = check_request(request.method, request.target, request.http_version, headers)
        self.body = request_body(headers)
        self._closes = request.http_version != b"1.1" or b"close" in tokens(headers, b"connection")
        if target != request.target:
            self.request = h11.Request(
                method=request.method,
                target=target,
                headers=request.headers,
                http_version=request.http_version,
            )
        return self.request

    @property
    def is_modern(self) -> bool:
        """Whether it understands what HTTP/1.1 has and 1.0 has not."""
        return self.request is None or self.request.http_version == b"1.1"

    @property
    def takes_trailers(self) -> bool:
        """Whether it has said that it knows what to do with them (RFC 9110 section 6.5.1)."""
        return self.request is not None and b"trailers" in tokens(self.request.headers, b"te")

    def whole_body(self, limit: int) -> bytes | None:
        """Return the request's body if all of it is here and it is no longer than `limit`."""
        size = self.body.size if isinstance(self.body, SizedBody) else None
        if size is None or size > limit or size > len(self._buffer):
            return None
        content, used = self.body.take(self._buffer)
        self._buffer = self._buffer[used:]
        return content

    async def read_body(self) -> bytes | None:
        """Return the next piece of the request's body, None at its end.

        Raises:
            BadRequest: its framing is broken.
            ClientGone: it hung up within it.
        """
        try:
            return await self._next_piece(self.body)
        except BodyCutShort as exc:
            raise ClientGone("It hung up within a request body.") from exc
        except BodyError as exc:
            raise BadRequest(f"The request body is malformed: {exc}.") from exc

    async def wait_hang_up(self, *, unread_body: bool = False) -> None:
        """Return when the client has hung up; what it sends meanwhile is kept, up to a bound.

        Of an `unread_body` nothing is read, and so over a socket only it is found out.
        """
        if unread_body:
            if isinstance(self.stream, SocketTransport):
                await self.stream.wait_hang_up()
                return
            await trio.sleep_forever()
        while len(self._buffer) < EARLY_BYTES:
            try:
                data = await self._receive()
            except ClientGone:
                return
            if not data:
                return
            self._buffer += data
        await trio.sleep_forever()

    def next_request(self) -> bool:
        """Get ready for another request; return False if this connection carries no more."""
        if self._closes or not self._whole or not self._has_whole_request():
            return False
        self._reset()
        return True

    def _has_whole_request(self) -> bool:
        """Whether what comes next is another request, with the rest of a body skipped."""
        if self.request is None:
            return False
        with suppress(BodyError):
            while not self.body.done and self._buffer:
                _, used = self.body.take(self._buffer)
                self._buffer = self._buffer[used:]
                if not used:
                    break
        return self.body.done

    async def inform(self, status: int, reason: bytes, headers: Headers) -> None:
        """Send an answer that is not the last one: 1xx."""
        await self._send(write_response(status, reason, headers))

    def begin(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        length: int | None,
        *,
        close: bool = False,
    ) -> None:
        """Begin an answer, whose body has a length, or None: as long as it gets.

        `close` ends the connection behind it.  Its head goes out with the next `write`.
        """
        method = self.request.method if self.request is not None else b""
        self._begun = True
        self._bodiless = method == b"HEAD" or status in (204, 304)
        if not self._bodiless:
            headers = _sized(headers, length)
            if length is None and self.is_modern:
                self._chunked = True
                headers.append((b"Transfer-Encoding", b"chunked"))
            self._closes |= length is None and not self._chunked
        self._closes |= close
        if self._closes:
            headers = [*headers, (b"Connection", b"close")]
        self._head = write_response(status, reason, headers)

    async def write(self, piece: bytes, *, last: bool = False, trailers: Fields = ()) -> None:
        """Send a piece of an answer's body, which may be none; `last`: all of it is there now."""
        data, self._head = [self._head], b""
        if piece and not self._bodiless:
            data.append(chunk(piece) if self._chunked else piece)
        if last and self._chunked:
            data.append(last_chunk(trailers))
        if together := b"".join(data):
            await self._send(together)
        self._whole = last

    async def refuse(self, refusal: Refusal, request_id: str) -> None:
        """Answer with an error, unless an answer has begun."""
        if self._begun:
            return
        reason, headers, body = answer_to(refusal, request_id)
        # A body that nobody read would be taken for the next request.
        close = refusal.closes or not self._has_whole_request()
        self.begin(refusal.status, reason, headers, len(body), close=close)
        await self.write(body, last=True)


def _sized(headers: Headers, length: int | None) -> Headers:
    """Return headers that say a body's length once, or not at all."""
    said = [value for name, value in headers if name.lower() == b"content-length"]
    if length is not None and said == [b"%d" % length]:
        return headers
    headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
    return headers if length is None else [*headers, (b"Content-Length", b"%d" % length)]


def _refusal(exc: h11.RemoteProtocolError) -> Refusal:
    if exc.error_status_hint == 501:
        return NotImplementedCoding()
    if exc.error_status_hint == 431:
        return HeadTooLarge()
    # What h11 says behind a colon quotes the request, which may hold secrets.
    return BadRequest(f"The request is malformed: {str(exc).partition(':')[0]}.")
