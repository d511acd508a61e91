"""HTTP/1.1 over a stream: h11 parses and writes, this reads and sends.

`ClientHttp` is the side towards clients and gives h11 only what `wire.headers` has found to be
readable in one way; `NodeHttp` is the side towards nodes.  Both give up the stream, and the bytes
that came early, for a WebSocket.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus

import h11
import trio

from proxy.errors import (
    BadRequest,
    BadResponse,
    ClientGone,
    ClosedEarly,
    HeadTooLarge,
    NotImplementedCoding,
    Refusal,
)
from proxy.wire.headers import Headers, HeadLimits, check_head, check_request, find_head

from .transport import SocketTransport

#: The head of a node's answer; nginx's default is 4 to 8 KiB, Node.js and HAProxy take 16.
RESPONSE_HEAD_BYTES = 32 * 1024

#: What a client may send ahead while its request waits for a node.
EARLY_BYTES = 64 * 1024

REASONS = {
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


class _Http:
    """What both sides share: h11 and a stream under it."""

    def __init__(self, stream: trio.abc.Stream, conn: h11.Connection) -> None:
        self.stream = stream
        self.conn = conn
        self.bytes_in = 0

    async def _receive(self) -> bytes:
        data = bytes(await self.stream.receive_some())
        self.bytes_in += len(data)
        return data

    async def _send(self, event: h11.Event) -> None:
        """Send an event; afterwards, if that was cut short, nothing more can be sent."""
        if self.conn.our_state is h11.ERROR:
            # Another task's sending was cut short: to the peer this stream is as good as broken.
            raise trio.BrokenResourceError("an earlier send was cut short")
        data = self.conn.send(event)
        if data:
            try:
                await self.stream.send_all(data)
            except BaseException:
                self.conn.send_failed()
                raise

    async def _next_event(self) -> object:
        """Return h11's next event, reading for it as needed."""
        while (event := self.conn.next_event()) is h11.NEED_DATA:
            self.conn.receive_data(await self._receive())
        return event

    def early_data(self) -> bytes:
        """Return what came behind the head and belongs to whatever follows HTTP here."""
        return bytes(self.conn.trailing_data[0])


class ClientHttp(_Http):
    """A client's connection, one request after the other.

    Every method raises `ClientGone` if it turns out to be broken.
    """

    def __init__(self, stream: trio.abc.Stream, limits: HeadLimits) -> None:
        super().__init__(stream, _server(limits))
        self._limits = limits
        self._unread = b""
        #: The current request as h11 read it, also if it was refused then.
        self.request: h11.Request | None = None

    async def _receive(self) -> bytes:
        try:
            return await super()._receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def send(self, event: h11.Event) -> None:
        """Send an event; afterwards, if that was cut short, nothing more can be sent."""
        try:
            await self._send(event)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone(str(exc)) from exc

    async def wait_request(self) -> bool:
        """Wait for the first byte of a request; return False if the client hung up instead."""
        if not self._unread:
            self._unread = await self._receive()
        return bool(self._unread)

    async def read_request(self) -> h11.Request:
        """Return the next request's head, its target in origin form.

        Raises:
            BadRequest: or what else refuses a head.
        """
        buffer = bytearray(self._unread)
        while (end := find_head(buffer, self._limits)) is None:
            data = await self._receive()
            if not data:
                raise ClientGone("It hung up within a request head.")
            buffer += data
        check_head(bytes(buffer[:end]), self._limits)
        self.conn.receive_data(bytes(buffer))
        try:
            request = self.conn.next_event()
        except h11.RemoteProtocolError as exc:
            raise _refusal(exc) from exc
        assert isinstance(request, h11.Request)
        self.request = request
        headers = request.headers.raw_items()
        target = check_request(request.method, request.target, request.http_version, headers)
        if target != request.target:
            self.request = h11.Request(
                method=request.method,
                target=target,
                headers=request.headers,
                http_version=request.http_version,
            )
        return self.request

    async def read_body(self) -> bytes | None:
        """Return the next piece of the request's body, None at its end.

        Raises:
            BadRequest: its framing is broken, or the client hung up within it.
        """
        if self.conn.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self.send(go_on)
        try:
            event = await self._next_event()
        except h11.RemoteProtocolError as exc:
            raise _refusal(exc) from exc
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def wait_hang_up(self, *, unread_body: bool = False) -> None:
        """Return when the client has hung up; what it sends meanwhile is kept, up to a bound.

        Of an `unread_body` nothing is read, and so over a socket only it is found out.
        """
        if unread_body:
            if isinstance(self.stream, SocketTransport):
                await self.stream.wait_hang_up()
                return
            await trio.sleep_forever()
        kept = 0
        while kept < EARLY_BYTES:
            try:
                data = await self._receive()
            except ClientGone:
                return
            if not data:
                return
            kept += len(data)
            self.conn.receive_data(data)
        await trio.sleep_forever()

    def next_request(self) -> bool:
        """Get ready for another request; return False if this connection carries no more."""
        if not self._has_whole_request() or self.conn.our_state is not h11.DONE:
            return False
        self._unread = self.early_data()
        self.conn = _server(self._limits)
        self.request = None
        return True

    async def refuse(self, refusal: Refusal, request_id: str) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        reason = REASONS.get(refusal.status) or _phrase(refusal.status)
        headers, body = _content(refusal, reason, request_id)
        if refusal.status != 204:
            # RFC 9110 section 8.6
            headers.append((b"Content-Length", b"%d" % len(body)))
        headers += [
            (b"Proxy-Status", b"tidegate; error=" + refusal.token.encode()),
            *refusal.headers,
        ]
        # A body that nobody read would be taken for the next request.
        if refusal.closes or not self._has_whole_request():
            headers.append((b"Connection", b"close"))
        await self.send(h11.Response(status_code=refusal.status, headers=headers, reason=reason))
        if self.request is None or self.request.method != b"HEAD":
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

    def _has_whole_request(self) -> bool:
        if self.conn.their_state is h11.SEND_BODY:
            # Of a request without a body, h11 has the end up its sleeve.
            with suppress(h11.RemoteProtocolError):
                self.conn.next_event()
        return self.conn.their_state not in (h11.IDLE, h11.SEND_BODY, h11.ERROR)


class NodeHttp(_Http):
    """One request to a node, `node` for errors, and its answer."""

    def __init__(self, stream: trio.abc.Stream, node: str) -> None:
        conn = h11.Connection(h11.CLIENT, max_incomplete_event_size=RESPONSE_HEAD_BYTES)
        super().__init__(stream, conn)
        self.node = node

    async def send(self, event: h11.Event) -> None:
        """Send an event.

        Raises:
            ClosedEarly: the node hung up; it may have answered all the same.
        """
        try:
            await self._send(event)
        except trio.BrokenResourceError as exc:
            raise ClosedEarly(self.node) from exc

    async def read_response(self) -> h11.Response | h11.InformationalResponse:
        """Return the head of the final answer, or of a 101.

        Raises:
            ClosedEarly: the node hung up before the first byte.
            BadResponse: what came is not an HTTP/1.1 head.
        """
        while True:
            try:
                event = await self._next_event()
            except (h11.RemoteProtocolError, trio.BrokenResourceError) as exc:
                if not self.bytes_in:
                    raise ClosedEarly(self.node) from exc
                raise BadResponse(self.node) from exc
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise BadResponse(self.node)

    async def read_body(self) -> bytes | None:
        """Return the next piece of the answer's body, None at its end.

        Raises:
            BadResponse: its framing is broken, or the node hung up within it.
        """
        try:
            event = await self._next_event()
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as exc:
            raise BadResponse(self.node, "The node's answer was cut short.") from exc
        return bytes(event.data) if isinstance(event, h11.Data) else None


def _server(limits: HeadLimits) -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)


def _content(refusal: Refusal, reason: bytes, request_id: str) -> tuple[Headers, bytes]:
    """Return an answer's body, and the headers that are about it."""
    if refusal.body is not None:
        return [], refusal.body
    facts = refusal.status, reason, refusal.detail.encode(), request_id.encode()
    headers = [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Cache-Control", b"no-store"),
    ]
    return headers, b"%d %s: %s (%s)\n" % facts


def _phrase(status: int) -> bytes:
    with suppress(ValueError):
        return HTTPStatus(status).phrase.encode()
    return b""


def _refusal(exc: h11.RemoteProtocolError) -> Refusal:
    if exc.error_status_hint == 501:
        return NotImplementedCoding()
    if exc.error_status_hint == 431:
        return HeadTooLarge()
    # What h11 says behind a colon quotes the request, which may hold secrets.
    return BadRequest(f"The request is malformed: {str(exc).partition(':')[0]}.")
