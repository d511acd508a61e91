"""A WebSocket handshake: to a node, and its answer to the client.

The client has its 101 only after the node's own was checked; until then all that goes wrong is an
ordinary answer, or another node's turn.
"""

from __future__ import annotations

from functools import partial

import attrs
import h11
import trio

from proxy.config.route import Route
from proxy.errors import Draining, NodeUnwilling, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire import handshake
from proxy.wire.handshake import Upgrade, client_response, node_request
from proxy.wire.head import Request, Response
from proxy.wire.headers import ClientFacts
from proxy.wire.tunnel import Tunnel

from .admission import Place
from .download import Download
from .hooked import Way, consult
from .hooks import Hooks
from .reach import Attempt, Reach, key_of
from .service import Service

Answer = Response | h11.InformationalResponse


@attrs.frozen
class Established:
    """A handshake that both sides have finished: all that a session needs of what went before."""

    record: Record
    node: trio.abc.Stream
    early: tuple[bytes, bytes]
    tunnel: Tunnel
    route: Route
    #: Has the lease and the node's connection.
    attempt: Attempt
    place: Place
    hooks: Hooks | None


@attrs.frozen
class Upgrading:
    """One handshake of a client's, that was read and has a route."""

    service: Service
    http: ClientHttp
    request: Request
    record: Record
    route: Route
    upstream: Upstream
    facts: ClientFacts

    async def run(self) -> Established | None:
        """Put it to a node; return what is established, None if the client was answered otherwise.

        Raises:
            Refusal: what to tell the client.
            ClientGone: there is nobody to tell.
        """
        request = self.request
        upgrade = handshake.check_upgrade(
            request.method,
            request.target,
            request.http_version,
            request.headers,
            self.route.origins,
        )
        place = self.service.admit(self.route, self.facts.address)
        established = None
        try:
            established = await self._establish(upgrade, place)
        finally:
            if established is None:
                place.release()
        return established

    async def _establish(self, upgrade: Upgrade, place: Place) -> Established | None:
        service, hung_up = self.service, self.http.wait_hang_up
        way = Way(upgrade, self.upstream)
        if (hooks := service.hooks.get(self.route.name)) is not None:
            way = await consult(service, hooks, way, self.record, self.facts, hung_up)
            # A reload may have come meanwhile.
            upstream = service.upstreams.get(way.upstream.name, way.upstream)
            way = attrs.evolve(way, upstream=upstream)
        key = key_of(way.upstream, self.request, self.record.target, self.facts)
        reach = Reach(service, way.upstream, self.record, key=key, hung_up=hung_up, only=way.only)
        ask = partial(ask_node, upgrade=way.upgrade, facts=self.facts)
        attempt, (node, answer) = await reach.ask(ask)
        established = None
        try:
            self._note(attempt, answer.status_code)
            if isinstance(answer, Response):
                limit = service.config.timeouts.body
                way_back = self.http, self.record, self.facts
                download = Download(node, answer, *way_back, limit=limit)
                if not download.begin():
                    await download.go_on()
                return None
            if service.draining:
                raise Draining
            early = (self.http.early_data(), node.early_data())
            self.record.status = 101
            await self.http.inform(101, answer.reason, answer.headers.raw_items())
            reserved = handshake.reserved_bits(answer.headers.raw_items())
            tunnel = service.terms(self.route).make_tunnel(reserved)
            established = Established(
                self.record, node.stream, early, tunnel, self.route, attempt, place, hooks
            )
            return established
        finally:
            if established is None:
                await attempt.release()

    def _note(self, attempt: Attempt, status: int) -> None:
        """Tell the pool how the node has answered."""
        now = trio.current_time()
        if status >= 500:
            attempt.upstream.note(attempt.node, NodeUnwilling(attempt.node.name), now)
        else:
            attempt.node.answered(now, self.record.asked_time, session=status == 101)


async def ask_node(
    attempt: Attempt, upgrade: Upgrade, facts: ClientFacts
) -> tuple[NodeHttp, Answer]:
    """Ask one node for the upgrade; return its refusal, or the client's 101.

    Raises:
        NodeError: it cannot be asked, or its answer is none to this, or the next one may be better.
    """
    node = await attempt.dial(facts.source)
    started = trio.current_time()
    response: Response | None = None
    with trio.move_on_after(attempt.limit(attempt.service.config.timeouts.upgrade)):
        request = node_request(upgrade, facts)
        await node.ask(request.method, request.target, request.headers.raw_items())
        response = await node.read_response()
    if response is None:
        raise ResponseTimeout(node.node)
    attempt.record.upgrade_time = trio.current_time() - started
    if response.status_code == 101:
        return node, client_response(upgrade, response.headers, node.node, facts)
    if response.status_code in (502, 503, 504) and attempt.others():
        raise NodeUnwilling(node.node, f"The node answered with {response.status_code}.")
    return node, response
