"""An ordinary HTTP request, to a node and back.

One request per node connection.  Bodies are streamed both ways, a piece at a time and at the pace
of the slower side; a node may answer before it has read the whole body.
"""

from __future__ import annotations

import math
from functools import partial

import h11
import trio

from proxy.config.model import Config
from proxy.errors import (
    BadResponse,
    BodyTooLarge,
    ClientGone,
    ClosedEarly,
    DialError,
    NodeError,
    Refusal,
    RequestTimeout,
    ResponseTimeout,
)
from proxy.io.http1 import ClientHttp, NodeHttp
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire.headers import ClientFacts, Headers, get, request_headers, response_headers

from .reach import Attempt, Reach
from .service import Service

_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Forward:
    """One request and its answer."""

    def __init__(
        self, service: Service, client: ClientHttp, request: h11.Request, record: Record
    ) -> None:
        self._service = service
        self._config: Config = service.config
        self._client = client
        self._request = request
        self._record = record
        self._chunked = get(request.headers, b"transfer-encoding") is not None
        self._length = int(get(request.headers, b"content-length") or 0)
        self._has_body = self._chunked or self._length > 0
        self._repeatable = request.method in _SAFE and not self._has_body
        self._response: h11.Response | None = None
        # Its deadline is set once the node has the whole request.
        self._answering = trio.CancelScope()

    async def run(self, upstream: Upstream, facts: ClientFacts, key: bytes = b"") -> None:
        """Serve the request; `key` is what the policy `hash` goes by.

        Raises:
            Refusal: what to tell the client, if nothing was sent to it yet.
            ClientGone: there is nobody to tell.
        """
        self._facts = facts
        if self._length > self._config.limits.body_bytes:
            raise BodyTooLarge

        async def ask(attempt: Attempt) -> NodeHttp:
            return await self._ask(attempt, facts)

        reach = Reach(
            self._service,
            upstream,
            self._record,
            key=key,
            # What comes behind the head may be a body, which stays unread while the request waits.
            hung_up=partial(self._client.wait_hang_up, unread_body=self._has_body),
            repeatable=lambda error: (
                error.retry and (self._repeatable or isinstance(error, DialError))
            ),
        )
        attempt, node = await reach.ask(ask)
        try:
            await self._exchange(node)
            if self._record.status < 500:
                attempt.node.answered(trio.current_time(), session=False)
        except NodeError as error:
            upstream.note(attempt.node, error, trio.current_time())
            raise
        finally:
            await attempt.release()

    async def _ask(self, attempt: Attempt, facts: ClientFacts) -> NodeHttp:
        """Connect to a node; if the request may be repeated, send it and wait for the answer."""
        node = await attempt.dial()
        self._answering = trio.CancelScope()
        await self._send_piece(node, self._node_request(facts, attempt.node.name))
        if self._repeatable:
            await self._send_piece(node, h11.EndOfMessage())
            self._start_waiting()
            await self._read_head(node)
        return node

    def _node_request(self, facts: ClientFacts, node: str) -> h11.Request:
        headers: Headers = [
            pair
            for pair in request_headers(self._request.headers.raw_items(), facts)
            # 100-continue was between the client and the proxy.
            if pair[0].lower() != b"expect"
        ]
        if get(headers, b"host") is None:
            headers.insert(0, (b"Host", node.encode()))
        if self._chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"Connection", b"close"))
        return h11.Request(
            method=self._request.method, target=self._request.target, headers=headers
        )

    async def _exchange(self, node: NodeHttp) -> None:
        """Send the body, if there is one, while the answer may come already."""
        if self._response is not None:
            await self._download(node)
            return
        fault: Refusal | ClientGone | None = None

        async def upload() -> None:
            nonlocal fault
            try:
                await self._upload(node)
            except ClosedEarly:
                # It has hung up; what it answered before, if anything, decides.
                self._start_waiting()
            except (Refusal, ClientGone) as exc:
                fault = exc
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            try:
                await self._read_head(node)
                await self._download(node)
            except (Refusal, ClientGone) as exc:
                fault = exc
            # The answer is complete: nobody wants what may be left of the body.
            nursery.cancel_scope.cancel()
        try:
            if fault is not None:
                raise fault
        finally:
            # Its traceback has this frame: together they would be a cycle.
            fault = None

    async def _upload(self, node: NodeHttp) -> None:
        sent = 0
        while (piece := await self._read_piece()) is not None:
            sent += len(piece)
            if sent > self._config.limits.body_bytes:
                raise BodyTooLarge
            self._record.bytes_from_client = sent
            await self._send_piece(node, h11.Data(data=piece))
        await self._send_piece(node, h11.EndOfMessage())
        self._start_waiting()

    async def _send_piece(self, node: NodeHttp, event: h11.Event) -> None:
        with trio.move_on_after(self._config.timeouts.body) as scope:
            await node.send(event)
        if scope.cancelled_caught:
            raise ResponseTimeout(node.node, "The node has stopped reading.")

    async def _read_piece(self) -> bytes | None:
        with trio.move_on_after(self._config.timeouts.body):
            return await self._client.read_body()
        raise RequestTimeout("The request body did not come in time.")

    def _start_waiting(self) -> None:
        if self._answering.deadline == math.inf:
            self._answering.deadline = trio.current_time() + self._config.timeouts.response

    async def _read_head(self, node: NodeHttp) -> None:
        with self._answering:
            response = await node.read_response()
            if not isinstance(response, h11.Response):
                raise BadResponse(node.node, "The node switched protocols without being asked.")
            self._response = response
        if self._response is None:
            raise ResponseTimeout(node.node)

    async def _download(self, node: NodeHttp) -> None:
        assert self._response is not None
        limit = self._config.timeouts.body
        await relay_response(
            node, self._response, self._client, self._record, self._facts, limit=limit
        )


async def relay_response(
    node: NodeHttp,
    response: h11.Response,
    client: ClientHttp,
    record: Record,
    facts: ClientFacts,
    *,
    limit: float,
) -> None:
    """Send a node's answer to the client, piece by piece, each within `limit` seconds.

    Raises:
        BadResponse, ResponseTimeout: the node did not send all of it.
        ClientGone: or it has stopped reading.
    """
    record.status = response.status_code
    head = h11.Response(
        status_code=response.status_code,
        headers=response_headers(response.headers.raw_items(), facts, response.http_version),
        reason=response.reason,
    )
    await _send(client, head, limit)
    while True:
        piece = None
        with trio.move_on_after(limit) as scope:
            piece = await node.read_body()
        if scope.cancelled_caught:
            raise ResponseTimeout(node.node, "The node's answer stopped half-way.")
        if piece is None:
            break
        record.bytes_from_node += len(piece)
        await _send(client, h11.Data(data=piece), limit)
    await _send(client, h11.EndOfMessage(), limit)


async def _send(client: ClientHttp, event: h11.Event, limit: float) -> None:
    with trio.move_on_after(limit) as scope:
        await client.send(event)
    if scope.cancelled_caught:
        raise ClientGone("The client has stopped reading.")
