"""A node's answer on its way to the client, piece by piece at the pace of the slower side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from proxy.errors import ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.wire.body import SizedBody
from proxy.wire.head import Response
from proxy.wire.headers import (
    ClientFacts,
    Fields,
    end_to_end,
    response_headers,
    trailers_to_send,
)


class Download:
    """A node's answer, whose head is there, to be sent on: each piece within `limit` seconds.

    `close` ends the client's connection behind it.  Most answers are small, and are sent by `begin`
    alone.
    """

    def __init__(
        self,
        node: NodeHttp,
        response: Response,
        client: ClientHttp,
        record: Record,
        facts: ClientFacts,
        *,
        limit: float,
        close: bool = False,
    ) -> None:
        self._node = node
        self._response = response
        self._client = client
        self._record = record
        self._facts = facts
        self._limit = limit
        self._close = close
        #: What has come and was not sent; None: all was, or is on its way.
        self._piece: bytes | None = b""

    def begin(self) -> bool:
        """Begin the answer; return whether all of it was there, and has gone out.

        If not, call `go_on`.

        Raises:
            BadResponse: its framing is broken.
            ClientGone: the client has hung up.
        """
        node, response, record = self._node, self._response, self._record
        record.status = response.status_code
        kept = response.once(end_to_end)
        headers = response_headers(response.headers, self._facts, response.http_version, kept)
        length = node.body.size if isinstance(node.body, SizedBody) else None
        self._client.begin(
            response.status_code, response.reason, headers, length, close=self._close
        )
        # The head goes out with the first piece if that is here already.
        self._piece = piece = node.body_nowait()
        record.bytes_from_node += len(piece)
        return node.body.done and self._end_nowait(piece)

    def _end_nowait(self, piece: bytes) -> bool:
        self._piece = None
        trailers: Fields = ()
        if self._client.takes_trailers:
            trailers = trailers_to_send(self._node.body.trailers)
        return self._client.write_nowait(piece, last=True, trailers=trailers)

    async def go_on(
        self, read: Callable[[NodeHttp], Awaitable[bytes]] = NodeHttp.read_body
    ) -> None:
        """Send what `begin` has left; `read` is how more is read.

        Raises:
            BadResponse, ResponseTimeout: the node did not send all of it.
            ClientGone: or it has stopped reading.
        """
        node = self._node
        if (piece := self._piece) is None:
            await self._client.flush_within(self._limit)
            return
        while not node.body.done:
            if not self._client.write_nowait(piece):
                await self._client.flush_within(self._limit)
            with trio.move_on_after(self._limit) as scope:
                piece = await read(node)
            if scope.cancelled_caught:
                raise ResponseTimeout(node.node, "The node's answer stopped half-way.")
            self._record.bytes_from_node += len(piece)
        if not self._end_nowait(piece):
            await self._client.flush_within(self._limit)
