"""A connection to a node: a request is sent, its answer read, and then perhaps the next.

It gives up the stream, and the bytes that came early, for a WebSocket.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import h11
import trio

from proxy.errors import BadResponse, ClosedEarly
from proxy.wire.body import NO_BODY, Body, BodyError, EndlessBody, response_body
from proxy.wire.head import Lines, Response, find_response_head, read_response, write_request
from proxy.wire.headers import Headers

from .http1 import Http1
from .node_security import why_failed

#: The head of a node's answer; nginx's default is 4 to 8 KiB, Node.js and HAProxy take 16.
RESPONSE_HEAD_BYTES = 32 * 1024
#: Heads of one answer, those of 1xx before it counted; servers send one or two.
MAX_INTERIM = 100


class NodeHttp(Http1):
    """A connection to a node, `node` for errors; `kept` if it has carried a request before.

    `lines` are those of its last answer.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        node: str,
        *,
        kept: bool = False,
        lines: Lines | None = None,
    ) -> None:
        super().__init__(stream)
        self.lines = lines
        self.node = node
        self.kept = kept
        #: Of the answer, once its head is there.
        self.body: Body = NO_BODY
        self._method = b""
        self._heard = False
        self._stays = False

    def ask_nowait(
        self, method: bytes, target: bytes, headers: Headers, piece: bytes = b""
    ) -> bool:
        """Send the head of a request, and what there is of its body, framed as the head says.

        Returns whether all has gone out.  If not, call `flush`.

        Raises:
            ClosedEarly: the node hung up; it may have answered all the same.
        """
        self._method = method
        return self.send_nowait(write_request(method, target, headers) + piece)

    async def ask(self, method: bytes, target: bytes, headers: Headers) -> None:
        """Send the head of a request, as `ask_nowait` does, however long it takes."""
        if not self.ask_nowait(method, target, headers):
            await self.flush()

    def send_nowait(self, data: bytes) -> bool:
        """Send more of a request; return whether all has gone out.  If not, call `flush`.

        Raises:
            ClosedEarly: the node hung up; it may have answered all the same.
        """
        try:
            return self._send_nowait(data)
        except trio.BrokenResourceError as exc:
            raise ClosedEarly(self.node) from exc

    def push(self) -> bool:
        """Send what was put aside; return whether all has gone out.  If not, call `flush`.

        Raises:
            ClosedEarly: the node hung up.
        """
        try:
            return self._push()
        except trio.BrokenResourceError as exc:
            raise ClosedEarly(self.node) from exc

    async def flush(self) -> None:
        """Send what did not go out at once.

        Raises:
            ClosedEarly: the node hung up; it may have answered all the same.
        """
        try:
            await self._flush()
        except trio.BrokenResourceError as exc:
            raise ClosedEarly(self.node) from exc

    def receive_nowait(self) -> bool:
        """Take what has come; return False if nothing has, or the stream is over."""
        try:
            received = self._receive_nowait()
        except OSError:
            # Found again by whoever waits for more.
            return False
        self._heard |= received
        return received

    def response_nowait(self) -> Response | None:
        """Return the head of the final answer if it is here and in order; else `read_response`."""
        end = find_response_head(self._buffer)
        if end is None or end > RESPONSE_HEAD_BYTES:
            return None
        try:
            response = read_response(self._buffer[:end], self.lines)
        except h11.RemoteProtocolError:
            return None
        if response.status_code < 200:
            return None
        self._buffer = self._buffer[end:]
        return self._begin(response)

    async def read_response(
        self, inform: Callable[[Response], Awaitable[object]] | None = None
    ) -> Response:
        """Return the head of the final answer, or of a 101; `inform` is shown what comes before.

        Raises:
            ClosedEarly: the node hung up before the first byte.
            BadResponse: what came is not an HTTP/1.1 head.
        """
        for _ in range(MAX_INTERIM):
            response = await self._read_head()
            if response.status_code >= 200 or response.status_code == 101:
                break
            if inform is not None:
                await inform(response)
        else:
            raise BadResponse(self.node, "The node has sent too many answers of 1xx.")
        return self._begin(response)

    def _begin(self, response: Response) -> Response:
        self.lines = response.lines
        self.body = response_body(self._method, response)
        self._stays = (
            response.http_version == b"1.1"
            and not response.lists(b"connection", b"close")
            and not isinstance(self.body, EndlessBody)
        )
        return response

    async def _read_head(self) -> Response:
        try:
            while (end := find_response_head(self._buffer)) is None:
                if len(self._buffer) > RESPONSE_HEAD_BYTES:
                    raise BadResponse(self.node, "The head of the node's answer is too large.")
                data = await self._receive()
                if not data:
                    raise BadResponse(self.node) if self._heard else ClosedEarly(self.node)
                self._heard = True
                self._buffer += data
            head, self._buffer = self._buffer[:end], self._buffer[end:]
            if len(head) > RESPONSE_HEAD_BYTES:
                raise BadResponse(self.node, "The head of the node's answer is too large.")
            return read_response(head, self.lines)
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as exc:
            if not self._heard:
                raise self._never_answered(exc) from exc
            raise BadResponse(self.node) from exc

    def _never_answered(self, exc: Exception) -> ClosedEarly:
        """Return what has become of a connection without a byte of an answer.

        In TLS 1.3 a node refuses our certificate, or that there is none, when hands were shaken.
        """
        cause = exc.__cause__
        return ClosedEarly(self.node, why_failed(cause) if isinstance(cause, ssl.SSLError) else "")

    def body_nowait(self) -> bytes:
        """Return what is here already of the answer's body.

        Raises:
            BadResponse: its framing is broken.
        """
        try:
            return self._piece_nowait(self.body)
        except BodyError as exc:
            raise BadResponse(self.node, "The node's answer was cut short.") from exc

    async def read_body(self) -> bytes:
        """Return the next piece of the answer's body, b"" at its end.

        Raises:
            BadResponse: its framing is broken, or the node hung up within it.
        """
        try:
            return await self._next_piece(self.body)
        except (BodyError, trio.BrokenResourceError) as exc:
            raise BadResponse(self.node, "The node's answer was cut short.") from exc

    @property
    def reusable(self) -> bool:
        """Whether, the whole request having been sent, it can carry another one."""
        if self._socket is not None and (self._socket.pending or self._socket.backlog):
            # More than its answer, or in TLS a goodbye that came with it, or not all was sent.
            return False
        return self._stays and self.body.done and not self._buffer and not self._cut_short
