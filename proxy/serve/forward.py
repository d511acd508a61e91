"""An ordinary HTTP request, to a node and back.

Connections to nodes are kept and used again.  Bodies are streamed both ways, a piece at a time and
at the pace of the slower side; a node may answer before it has read the whole body.

Most requests are small and are answered soon: their body, if they have one, is here with the head,
goes to the node with the head, and comes back in one piece.  Nobody looks whether the client is
still there then.  A request that takes longer is watched: when its client hangs up, it ends.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import trio
from outcome import Outcome, acapture

from proxy.config.route import Route
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
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire.body import ChunkedBody, SizedBody, chunk, last_chunk
from proxy.wire.head import Request, Response
from proxy.wire.headers import (
    ClientFacts,
    Headers,
    interim_headers,
    request_headers,
    trailers_to_send,
)

from .download import relay_response
from .reach import Attempt, Reach, gone_before
from .service import Service

T = TypeVar("T")

#: RFC 9110 section 9.2.2.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
#: Of which hardly anybody expects a body.
_BODILESS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))
#: A body up to this, in bytes, is sent with its head if it came with that.
_SMALL: Final = 16 * 1024
#: Until a client is watched that waits: a look costs as much as a small request.  In seconds.
_PATIENCE: Final = 0.1


class Forward:
    """One request and its answer."""

    def __init__(
        self, service: Service, client: ClientHttp, request: Request, record: Record, route: Route
    ) -> None:
        self._service = service
        limits, timeouts = service.config.limits, service.config.timeouts
        self._body_bytes = limits.body_bytes if route.body_bytes is None else route.body_bytes
        self._body_timeout = route.body_timeout or timeouts.body
        self._response_timeout = route.response_timeout or timeouts.response
        self._client = client
        self._request = request
        self._record = record
        self._chunked = isinstance(client.body, ChunkedBody)
        #: The whole body if it is here; None: it is still to come.
        self._body: bytes | None = None
        # A node may think that there is none, and take it for the next request.
        self._has_odd_body = request.method in _BODILESS and not client.body.done
        self._harmless = False
        self._response: Response | None = None
        # By when there has to be an answer: known once the node has the whole request.
        self._answer_by = math.inf
        self._answering = trio.CancelScope()

    async def run(self, upstream: Upstream, facts: ClientFacts, key: bytes = b"") -> None:
        """Serve the request; `key` is what the policy `hash` goes by.

        Raises:
            Refusal: what to tell the client, if nothing was sent to it yet.
            ClientGone: there is nobody to tell.
        """
        self._facts = facts
        body = self._client.body
        if isinstance(body, SizedBody) and body.size > self._body_bytes:
            raise BodyTooLarge
        await self._take_body()
        retry = upstream.config.retry
        upstream.retries.earn(trio.current_time(), retry.share, retry.rate)
        reach = Reach(
            self._service,
            upstream,
            self._record,
            key=key,
            # What comes behind the head may be a body, which stays unread while the request waits.
            hung_up=partial(self._client.wait_hang_up, unread_body=self._body is None),
            repeatable=partial(self._is_repeatable, upstream),
        )
        attempt, node = await reach.ask(partial(self._ask, facts=facts))
        keep = False
        try:
            await self._exchange(node)
            if self._record.status < 500:
                attempt.node.answered(trio.current_time(), session=False)
            keep = node.reusable and self._answer_by < math.inf and not self._has_odd_body
        except NodeError as error:
            upstream.note(attempt.node, error, trio.current_time())
            raise
        finally:
            await attempt.release(keep=keep)

    async def _take_body(self) -> None:
        """Take the body if it is small, and comes with the head or soon after it."""
        self._body = self._client.whole_body(_SMALL)
        if self._body is None and not self._chunked and self._request.get(b"expect") is None:
            with trio.move_on_after(_PATIENCE):
                await self._client.wait_whole_body(_SMALL)
            self._body = self._client.whole_body(_SMALL)
        self._harmless = self._request.method in _IDEMPOTENT and self._body is not None

    def _is_repeatable(self, upstream: Upstream, error: NodeError) -> bool:
        if not error.retry or self._record.attempts >= upstream.config.retry.attempts:
            return False
        return isinstance(error, DialError) or (self._harmless and upstream.retries.spend())

    async def _ask(self, attempt: Attempt, facts: ClientFacts) -> NodeHttp:
        """Put the request to a node; if all of it is here, wait for the answer's head."""
        headers = self._node_headers(facts, attempt)
        # What cannot be put to a node twice, and is long, is better off with a new connection.
        if self._body is not None and (node := attempt.kept()) is not None:
            try:
                await self._send_request(node, headers)
            except ClosedEarly:
                # Nobody has seen the request, or it does no harm twice: the node has hung up on an
                # idle connection, which says nothing about the node.
                await attempt.hang_up()
                if node.sent and not self._harmless:
                    raise
            else:
                return node
        node = await attempt.dial(facts.source)
        await self._send_request(node, headers)
        return node

    async def _send_request(self, node: NodeHttp, headers: Headers) -> None:
        request, body = self._request, self._body
        self._answer_by = math.inf
        if not node.ask_nowait(request.method, request.target, headers, body or b""):
            await self._flush(node)
        if body is not None:
            self._record.bytes_from_client = len(body)
            self._start_waiting()
            await self._await_head(node)

    async def _flush(self, node: NodeHttp) -> None:
        with trio.move_on_after(self._body_timeout) as scope:
            await node.flush()
        if scope.cancelled_caught:
            raise ResponseTimeout(node.node, "The node has stopped reading.")

    def _node_headers(self, facts: ClientFacts, attempt: Attempt) -> Headers:
        headers = request_headers(self._request.headers, facts)
        if self._body is not None or not self._client.is_modern:
            # There is nothing to go on with: all of it is here, or it knows nothing of that.
            headers = [pair for pair in headers if pair[0].lower() != b"expect"]
        if self._request.get(b"host") is None:
            host = "localhost" if attempt.node.address.path else attempt.node.name
            headers.insert(0, (b"Host", host.encode()))
        if self._chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        options = [] if attempt.upstream.config.keeps_connections else [b"close"]
        if self._client.takes_trailers:
            headers.append((b"TE", b"trailers"))
            options.append(b"TE")
        if options:
            headers.append((b"Connection", b", ".join(options)))
        return headers

    async def _exchange(self, node: NodeHttp) -> None:
        """Send the body, if it is not sent yet, while the answer may come already."""
        if self._response is not None:
            await self._download(node)
            return
        fault: Refusal | ClientGone | None = None

        async def upload() -> None:
            nonlocal fault
            try:
                try:
                    await self._upload(node)
                except ClosedEarly:
                    # It has hung up; what it answered before, if anything, decides.
                    self._start_waiting()
                await self._client.wait_hang_up(unread_body=not self._client.body.done)
                raise ClientGone("It hung up before it was answered.")
            except (Refusal, ClientGone) as exc:
                fault = exc
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            try:
                await self._read_head(node)
                await self._download(node, watched=True)
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
        while piece := await self._read_piece():
            sent += len(piece)
            if sent > self._body_bytes:
                raise BodyTooLarge
            self._record.bytes_from_client = sent
            if not node.send_nowait(chunk(piece) if self._chunked else piece):
                await self._flush(node)
        if self._chunked:
            end = last_chunk(trailers_to_send(self._client.body.trailers))
            if not node.send_nowait(end):
                await self._flush(node)
        self._start_waiting()

    async def _read_piece(self) -> bytes:
        with trio.move_on_after(self._body_timeout):
            return await self._client.read_body()
        raise RequestTimeout("The request body did not come in time.")

    def _start_waiting(self) -> None:
        if self._answer_by == math.inf:
            self._answer_by = trio.current_time() + self._response_timeout
            self._answering.deadline = self._answer_by

    async def _await_head(self, node: NodeHttp) -> None:
        """Read the head of the answer, for as long as the client is there."""
        patient_until = self._answer_by - self._response_timeout + _PATIENCE
        patience = min(self._answer_by, patient_until)
        with trio.CancelScope(deadline=patience) as self._answering:
            self._response = await self._respond(node)
            return
        await self._while_there(partial(self._read_head, node))

    async def _read_head(self, node: NodeHttp) -> None:
        with trio.CancelScope(deadline=self._answer_by) as self._answering:
            self._response = await self._respond(node)
        if self._response is None:
            raise ResponseTimeout(node.node)

    async def _respond(self, node: NodeHttp) -> Response:
        response = await node.read_response(self._inform)
        if response.status_code == 101:
            raise BadResponse(node.node, "The node switched protocols without being asked.")
        return response

    async def _inform(self, response: Response) -> None:
        """Pass on what comes before the answer; one that waits with its body waits for that."""
        if self._client.is_modern and not (response.status_code == 100 and self._body is not None):
            headers = interim_headers(response.headers, self._facts)
            if self._client.inform_nowait(response.status_code, response.reason, headers):
                return
            # Cut short it would be the end of the connection: that is no matter of patience.
            self._answering.deadline = self._answer_by
            with trio.move_on_after(self._body_timeout) as scope:
                await self._client.flush()
            if scope.cancelled_caught:
                raise ClientGone("The client has stopped reading.")

    async def _download(self, node: NodeHttp, *, watched: bool = False) -> None:
        assert self._response is not None
        await relay_response(
            node,
            self._response,
            self._client,
            self._record,
            self._facts,
            limit=self._body_timeout,
            close=self._service.draining,
            read=NodeHttp.read_body if watched else self._read_body,
        )

    async def _read_body(self, node: NodeHttp) -> bytes:
        """Return the next piece of the answer, for as long as the client is there."""
        with trio.move_on_after(_PATIENCE):
            return await node.read_body()
        return await self._while_there(node.read_body)

    async def _while_there(self, do: Callable[[], Awaitable[T]]) -> T:
        """Do something, as long as the client is there.

        Raises:
            ClientGone: it has hung up.
        """
        result: Outcome[T] | None = None

        async def go_on() -> None:
            nonlocal result
            result = await acapture(do)

        hung_up = partial(self._client.wait_hang_up, unread_body=not self._client.body.done)
        if await gone_before(hung_up, go_on):
            raise ClientGone("It hung up before it was answered.")
        assert result is not None
        try:
            return result.unwrap()
        finally:
            # Its traceback has this frame: together they would be a cycle.
            result = None
