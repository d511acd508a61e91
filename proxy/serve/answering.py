"""Waiting for a node's answer, for as long as its client is there.

Most answers come soon, and a look whether the client is still there costs as much as a small
request: so nobody looks before `PATIENCE` is over.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio
from outcome import Outcome, acapture

from proxy.errors import BadResponse, ClientGone, ClosedEarly, Refusal, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.io.patience import PATIENCE
from proxy.wire.head import Response
from proxy.wire.headers import ClientFacts, interim_headers

from .reach import gone_before

T = TypeVar("T")


class Answering:
    """One answer that is waited for, with `timeout` seconds for its head.

    What comes before it, 1xx, goes on to the client, whose reading has `limit` seconds.
    """

    def __init__(
        self, client: ClientHttp, facts: ClientFacts, *, timeout: float, limit: float
    ) -> None:
        self._client = client
        self._facts = facts
        self._timeout = timeout
        self._limit = limit
        #: By when there has to be a head: known once the node has the whole request.
        self.due = math.inf
        self._scope: trio.CancelScope | None = None
        #: The client waits with its body for a 100 of the node's.
        self.tells_100 = True

    def reset(self) -> None:
        """Wait for another node's."""
        self.due = math.inf

    def start(self, now: float) -> None:
        """Take notice that the node has the whole request."""
        if self.due == math.inf:
            self.due = now + self._timeout
            if self._scope is not None:
                self._scope.deadline = self.due

    async def watched_head(self, node: NodeHttp) -> Response:
        """Return the head of the final answer; the client is watched if that takes longer.

        Raises:
            NodeError: there is none in time, or in order.
            ClientGone: the client has hung up, or has stopped reading.
        """
        patience = min(self.due, self.due - self._timeout + PATIENCE)
        with trio.CancelScope(deadline=patience) as self._scope:
            return await self._read_head(node)
        return await self.while_there(partial(self.head, node))

    async def head(self, node: NodeHttp) -> Response:
        """Return the head of the final answer; somebody else watches the client."""
        with trio.CancelScope(deadline=self.due) as self._scope:
            return await self._read_head(node)
        raise ResponseTimeout(node.node)

    async def _read_head(self, node: NodeHttp) -> Response:
        response = await node.read_response(self._inform)
        if response.status_code == 101:
            raise BadResponse(node.node, "The node switched protocols without being asked.")
        return response

    async def _inform(self, response: Response) -> None:
        """Pass on what comes before the answer."""
        if not self._client.is_modern or (response.status_code == 100 and not self.tells_100):
            return
        headers = interim_headers(response.headers, self._facts)
        if self._client.inform_nowait(response.status_code, response.reason, headers):
            return
        # Cut short it would be the end of the connection: that is no matter of patience.
        assert self._scope is not None
        self._scope.deadline = self.due
        await self._client.flush_within(self._limit)

    async def body(self, node: NodeHttp) -> bytes:
        """Return the next piece of the answer, for as long as the client is there."""
        with trio.move_on_after(PATIENCE):
            return await node.read_body()
        return await self.while_there(node.read_body)

    async def while_sending(
        self, send: Callable[[], Awaitable[object]], take: Callable[[], Awaitable[object]]
    ) -> None:
        """Take the answer while the request's body is still sent, for as long as that is needed.

        Raises:
            Refusal, ClientGone: of either.
        """
        fault: Refusal | ClientGone | None = None

        async def upload() -> None:
            nonlocal fault
            try:
                # When it has hung up, what it answered before, if anything, decides.
                with suppress(ClosedEarly):
                    await send()
                self.start(trio.current_time())
                await self._client.wait_hang_up(unread_body=not self._client.body.done)
                raise ClientGone("It hung up before it was answered.")
            except (Refusal, ClientGone) as exc:
                fault = exc
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            try:
                await take()
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

    async def while_there(self, do: Callable[[], Awaitable[T]]) -> T:
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
