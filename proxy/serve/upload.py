"""A request's body on its way to the node: with the head, or piece by piece behind it."""

from __future__ import annotations

from typing import Final

import trio

from proxy.errors import BodyTooLarge, RequestTimeout, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.io.patience import PATIENCE
from proxy.observe.record import Record
from proxy.wire.body import ChunkedBody, SizedBody, chunk, last_chunk
from proxy.wire.head import Request
from proxy.wire.headers import trailers_to_send

#: RFC 9110 section 9.2.2.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
#: Of which hardly anybody expects a body.
_BODILESS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))
#: A body up to this, in bytes, is sent with its head if it came with that.
_SMALL: Final = 16 * 1024


class Upload:
    """A request's body, of at most `most` bytes, each piece within `limit` seconds."""

    def __init__(
        self, client: ClientHttp, request: Request, record: Record, *, most: int, limit: float
    ) -> None:
        self._client = client
        self._request = request
        self._record = record
        self._most = most
        self._limit = limit
        self.chunked = isinstance(client.body, ChunkedBody)
        #: The whole body if it is here; None: it is still to come.
        self.whole: bytes | None = None
        # A node may think that there is none, and take it for the next request.
        self.is_odd = request.method in _BODILESS and not client.body.done

    @property
    def is_harmless(self) -> bool:
        """Whether the request can be sent twice, and does no harm then."""
        return self.whole is not None and self._request.method in _IDEMPOTENT

    def take(self) -> None:
        """Take the body if it is small, and came with the head.

        Raises:
            BodyTooLarge: it is too long, and says so.
        """
        body = self._client.body
        if isinstance(body, SizedBody) and body.size > self._most:
            raise BodyTooLarge
        self.whole = self._client.whole_body(_SMALL)

    async def wait(self) -> None:
        """Take the body if it is small, and comes soon after the head."""
        if not self.chunked and self._request.get(b"expect") is None:
            with trio.move_on_after(PATIENCE):
                await self._client.wait_whole_body(_SMALL)
            self.whole = self._client.whole_body(_SMALL)

    async def run(self, node: NodeHttp) -> None:
        """Send it as it comes.

        Raises:
            BodyTooLarge, RequestTimeout, BadRequest: it is too long, too slow, or malformed.
            ClientGone: the client hung up within it.
            ClosedEarly, ResponseTimeout: the node did, or has stopped reading.
        """
        sent = 0
        while piece := await self._read_piece():
            sent += len(piece)
            if sent > self._most:
                raise BodyTooLarge
            self._record.bytes_from_client = sent
            if not node.send_nowait(chunk(piece) if self.chunked else piece):
                await self.flush(node)
        if self.chunked:
            end = last_chunk(trailers_to_send(self._client.body.trailers))
            if not node.send_nowait(end):
                await self.flush(node)

    async def _read_piece(self) -> bytes:
        with trio.move_on_after(self._limit):
            return await self._client.read_body()
        raise RequestTimeout("The request body did not come in time.")

    async def flush(self, node: NodeHttp) -> None:
        """Send what did not go out at once."""
        with trio.move_on_after(self._limit) as scope:
            await node.flush()
        if scope.cancelled_caught:
            raise ResponseTimeout(node.node, "The node has stopped reading.")
