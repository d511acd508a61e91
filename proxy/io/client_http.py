"""A client's HTTP connection: requests are read, and answered.

It takes only what `wire.headers` has found to be readable in one way, and what it answers is framed
here.  It gives up the stream, and the bytes that came early, for a WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from proxy.errors import BadRequest, ClientGone, Refusal
from proxy.wire.body import (
    NO_BODY,
    Body,
    BodyCutShort,
    BodyError,
    SizedBody,
    chunk,
    last_chunk,
    request_body,
)
from proxy.wire.head import Lines, Request, check_request, read_request, write_response
from proxy.wire.headers import (
    Fields,
    Headers,
    HeadLimits,
    find_head,
)
from proxy.wire.refusal import answer_to

from .http1 import Http1
from .transport import translated

#: What a client may send ahead while its request waits for a node.
EARLY_BYTES = 64 * 1024


class ClientHttp(Http1):
    """A client's connection, one request after the other; `received` is what has come already.

    Every method raises `ClientGone` if it turns out to be broken.
    """

    def __init__(self, stream: trio.abc.Stream, limits: HeadLimits, received: bytes = b"") -> None:
        super().__init__(stream)
        self._buffer = received
        self._limits = limits
        #: Those of the last request: the next one's are mostly the same.
        self._lines: Lines | None = None
        self._reset()

    def _reset(self) -> None:
        #: The current request as it was read, also if it was refused then.
        self.request: Request | None = None
        self.body: Body = NO_BODY
        #: Of the answer: its head, until it goes out, and how its body is framed.
        self._head = b""
        self._chunked = self._bodiless = self._endless = False
        self._begun = self._whole = self._closes = False

    async def _receive(self) -> bytes:
        try:
            return await super()._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    def _send_nowait(self, data: bytes) -> bool:
        try:
            return super()._send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    def push(self) -> bool:
        """Send what was put aside; return whether all has gone out.  If not, call `flush`."""
        try:
            return self._push()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def flush(self) -> None:
        """Send what did not go out at once; if that is cut short, nothing more can be sent."""
        try:
            await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def flush_within(self, limit: float) -> None:
        """Do the same, in so many seconds at most.

        Raises:
            ClientGone: the client has stopped reading.
        """
        with trio.move_on_after(limit) as scope:
            await self.flush()
        if scope.cancelled_caught:
            raise ClientGone("The client has stopped reading.")

    @property
    def has_begun(self) -> bool:
        """Whether something of a request is here."""
        # Some clients send an empty line behind a body (RFC 9112 section 2.2).
        while self._buffer.startswith(b"\r\n"):
            self._buffer = self._buffer[2:]
        return self._buffer not in (b"", b"\r")

    async def wait_request(self) -> bool:
        """Wait for the first byte of a request; return False if the client hung up instead."""
        while not self.has_begun:
            data = await self._receive()
            if not data:
                return False
            self._buffer += data
        return True

    def receive_nowait(self) -> bool:
        """Take what has come over a socket; return False if nothing has."""
        try:
            received = self._receive_nowait()
        except BlockingIOError:
            return False
        except OSError as exc:
            raise ClientGone(str(translated(exc))) from exc
        if not received:
            raise ClientGone("It hung up.")
        return True

    def request_nowait(self) -> Request | None:
        """Return the next request's head if it is here, its target in origin form.

        Raises:
            BadRequest: or what else refuses a head.
        """
        end = find_head(self._buffer, self._limits)
        if end is None:
            return None
        head, self._buffer = self._buffer[:end], self._buffer[end:]
        self.request = request = read_request(head, self._limits, self._lines)
        self._lines = request.lines
        # Known before anything else is refused: else the body would be the next request.
        self.body = request_body(request)
        self._closes = request.http_version != b"1.1" or request.lists(b"connection", b"close")
        self.request = check_request(request)
        return self.request

    async def read_request(self) -> Request:
        """Return the next request's head, its target in origin form.

        Raises:
            BadRequest: or what else refuses a head.
        """
        while (request := self.request_nowait()) is None:
            data = await self._receive()
            if not data:
                raise ClientGone("It hung up within a request head.")
            self._buffer += data
        return request

    @property
    def is_modern(self) -> bool:
        """Whether it understands what HTTP/1.1 has and 1.0 has not."""
        return self.request is None or self.request.http_version == b"1.1"

    @property
    def takes_trailers(self) -> bool:
        """Whether it has said that it knows what to do with them (RFC 9110 section 6.5.1)."""
        return self.request is not None and self.request.lists(b"te", b"trailers")

    def whole_body(self, limit: int) -> bytes | None:
        """Return the request's body if all of it is here and it is no longer than `limit`."""
        if self.body is NO_BODY:
            return b""
        size = self.body.size if isinstance(self.body, SizedBody) else None
        if size is None or size > limit or size > len(self._buffer):
            return None
        content, used = self.body.take(self._buffer)
        self._buffer = self._buffer[used:]
        return content

    async def read_body(self) -> bytes:
        """Return the next piece of the request's body, b"" at its end.

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
            if self._socket is not None:
                await self._socket.wait_hang_up()
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

    async def wait_whole_body(self, limit: int) -> None:
        """Read a body of a known length, no longer than `limit`, until all of it is here."""
        while isinstance(self.body, SizedBody) and len(self._buffer) < self.body.size <= limit:
            data = await self._receive()
            if not data:
                raise ClientGone("It hung up within a request body.")
            self._buffer += data

    @property
    def lacks_its_end(self) -> bool:
        """Whether an answer has begun that only the connection's end ends, and not all is there."""
        return self._begun and not self._whole and self._endless

    def next_request(self) -> bool:
        """Get ready for another request; return False if this connection carries no more."""
        if self._closes or not self._whole or not self._has_whole_request():
            return False
        self._reset()
        return True

    def _has_whole_request(self) -> bool:
        """Whether what comes next is another request, with the rest of a body skipped."""
        return self.request is not None and (self.body.done or self._skip_body())

    def _skip_body(self) -> bool:
        with suppress(BodyError):
            while self._piece_nowait(self.body):
                pass
        return self.body.done

    def inform_nowait(self, status: int, reason: bytes, headers: Headers) -> bool:
        """Send an answer that is not the last one: 1xx.

        Returns whether all has gone out.  If not, call `flush`.
        """
        return self._send_nowait(write_response(status, reason, _sized(headers, None)))

    async def inform(self, status: int, reason: bytes, headers: Headers) -> None:
        """Send an answer that is not the last one, however long it takes."""
        if not self.inform_nowait(status, reason, headers):
            await self.flush()

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
        if status == 204:
            # RFC 9110 section 8.6
            headers = _sized(headers, None)
        if not self._bodiless:
            headers = _sized(headers, length)
            if length is None and self.is_modern:
                self._chunked = True
                headers.append((b"Transfer-Encoding", b"chunked"))
            self._endless = length is None and not self._chunked
            self._closes |= self._endless
        self._closes |= close
        if self._closes:
            headers = [*headers, (b"Connection", b"close")]
        self._head = write_response(status, reason, headers)

    def write_nowait(self, piece: bytes, *, last: bool = False, trailers: Fields = ()) -> bool:
        """Send a piece of an answer's body, which may be none; `last`: all of it is there now.

        Returns whether all has gone out.  If not, call `flush`.
        """
        data, self._head = [self._head], b""
        if piece and not self._bodiless:
            data.append(chunk(piece) if self._chunked else piece)
        if last and self._chunked:
            data.append(last_chunk(trailers))
        self._whole = last
        together = b"".join(data)
        return not together or self._send_nowait(together)

    async def write(self, piece: bytes, *, last: bool = False) -> None:
        """Send a piece of an answer's body, as `write_nowait` does, however long it takes."""
        if not self.write_nowait(piece, last=last):
            await self.flush()

    async def refuse(
        self, refusal: Refusal, request_id: str, finished: Callable[[Headers], Headers] = list
    ) -> None:
        """Answer with an error, its headers `finished`, unless an answer has begun."""
        if self._begun:
            return
        reason, headers, body = answer_to(refusal, request_id)
        # A body that nobody read would be taken for the next request.
        close = refusal.closes or not self._has_whole_request()
        self.begin(refusal.status, reason, finished(headers), len(body), close=close)
        await self.write(body, last=True)


def _sized(headers: Headers, length: int | None) -> Headers:
    """Return headers that say a body's length once, or not at all."""
    said = [value for name, value in headers if name.lower() == b"content-length"]
    if length is not None and said == [b"%d" % length]:
        return headers
    headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
    return headers if length is None else [*headers, (b"Content-Length", b"%d" % length)]
