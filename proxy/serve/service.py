"""What all connections of a process share: the configuration made ready, and who is here."""

from __future__ import annotations

import itertools
import secrets
import select
from collections.abc import Callable, Hashable
from functools import partial
from random import Random
from typing import Final

import trio

from proxy.config.model import Config
from proxy.config.route import Route
from proxy.io.dial import NodeSecurity, dial
from proxy.io.pump import PumpRelay
from proxy.io.relay import Relay
from proxy.io.splice import Splicer
from proxy.io.tls import listener_contexts, upstream_contexts
from proxy.io.transport import SocketTransport
from proxy.observe import log
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.schedule import Schedule
from proxy.pool.upstream import Upstream
from proxy.wire.frames import NO_STATUS
from proxy.wire.headers import HeadLimits
from proxy.wire.tunnel import Ending, Side, Tunnel

from .leave import Drain, DrainProgress, Leave, turns
from .routes import Routes

#: How sessions end with the process: for clients there may be another one.
_SHUTDOWN: Final[tuple[Ending, str]] = ("shutdown", "shutting down")


class Gauge:
    """How many are within its `with` block at this moment."""

    def __init__(self) -> None:
        self.count = 0
        self._none = trio.Event()

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()
            self._none = trio.Event()

    async def wait_none(self) -> None:
        """Wait until there is nobody within."""
        while self.count:
            await self._none.wait()


class Session:
    """One live WebSocket session."""

    __slots__ = (
        "_age_factor",
        "_seen",
        "_service",
        "node",
        "opened",
        "quiet_since",
        "record",
        "relay",
        "removed",
        "route",
        "upstream",
    )

    def __init__(
        self,
        service: Service,
        relay: Relay,
        record: Record,
        route: Route,
        upstream: Upstream,
        node: Node,
    ) -> None:
        self._service = service
        self.relay = relay
        self.record = record
        #: As it was when the session began.
        self.route = route
        self.upstream = upstream
        self.node = node
        #: Its route is in the configuration no more.
        self.removed = False
        #: Times of the clock; `quiet_since` is as `observe` has found it.
        self.opened = trio.current_time()
        self.quiet_since = self.opened
        self._seen = 0
        # Sessions that began together should not be moved together.
        self._age_factor = service.random.uniform(0.9, 1.1)

    def __enter__(self) -> None:
        self._service.sessions.add(self)
        self._service.under_way.__enter__()
        self.relay.on_ending = self._ending
        if self._service.draining:
            self.leave(*_SHUTDOWN)

    def __exit__(self, *_: object) -> None:
        self._service.sessions.discard(self)
        self._service.under_way.__exit__()
        # Else each session would be a cycle, for the garbage collector to find.
        self.relay.on_ending = None

    def _ending(self) -> None:
        """Tell the pool what the node did, when it does it: all its sessions may be next."""
        tunnel, now = self.relay.tunnel, trio.current_time()
        if tunnel.ending == "node_closed":
            code = tunnel.legs[Side.NODE].received or NO_STATUS
            self.upstream.closed_by_node(self.node, code, now)
        elif tunnel.ending == "node_lost":
            self.upstream.lost_by_node(self.node)

    @property
    def is_ending(self) -> bool:
        return self.relay.tunnel.ending is not None

    @property
    def is_between_messages(self) -> bool:
        """Whether a Close now would cut no message short."""
        client, node = self.relay.tunnel.scanners
        return not (client.left or client.fragmented or node.left or node.fragmented)

    def observe(self, now: float) -> None:
        """Look at its counters, to know later how long they have stood still."""
        client, node = self.relay.tunnel.scanners
        seen = client.bytes + node.bytes
        if seen != self._seen:
            self._seen, self.quiet_since = seen, now

    def age(self, now: float) -> float:
        """Return the seconds since it began, give or take a tenth, always the same for one."""
        return (now - self.opened) * self._age_factor

    def leave(self, ending: Ending, reason: str) -> None:
        """Ask both sides to leave: the client to come back, elsewhere, and the node for good."""
        self.relay.close(ending, 1012, 1001, reason)


class Service:
    """The shared state of a running proxy.

    `on_record` is called with every finished record; by default they go to the access log.

    Raises:
        ConfigError: a certificate, key or CA file cannot be used.
    """

    def __init__(
        self, config: Config, *, on_record: Callable[[Record], object] | None = None
    ) -> None:
        self.config = config
        self.routes = Routes(config.routes)
        self.listener_contexts = listener_contexts(config)
        self.random = Random()
        self.upstreams = {
            name: Upstream(name, one, self.random) for name, one in config.upstreams.items()
        }
        self.head_limits = HeadLimits(
            config.limits.head_bytes, config.limits.target_bytes, config.limits.headers
        )
        self.sessions: set[Session] = set()
        self.draining = False
        #: What is being emptied, by its cause.
        self.leaving: dict[Hashable, Drain] = {}
        self.on_record = on_record or log.access
        self._upstream_contexts = upstream_contexts(config)
        self._splicer: Splicer | None = None
        self._ids = map(partial("{}{:08x}".format, secrets.token_hex(4)), itertools.count(1))
        #: The requests and sessions that are being served; a drain waits for them.
        self.under_way = Gauge()

    def next_id(self) -> str:
        """Return a name for a request: unique, and not to be guessed from another process's."""
        return next(self._ids)

    def security(self, upstream: Upstream, node: Node) -> NodeSecurity | None:
        """Return the TLS towards a node; the name that it has to prove is the configured one."""
        if (tls := upstream.config.tls) is None:
            return None
        context = self._upstream_contexts[upstream.name]
        return NodeSecurity(context, tls.server_name or node.config.address.host)

    async def dial(self, upstream: Upstream, node: Node, limit: float) -> trio.abc.Stream:
        """Connect to a node, see `io.dial`."""
        return await dial(node.address, self.security(upstream, node), limit=limit)

    def relay(self, client: trio.abc.Stream, node: trio.abc.Stream, tunnel: Tunnel) -> Relay:
        """Return the best relay for two streams."""
        timeout = self.config.timeouts.close
        if (
            self._splicer is not None
            and isinstance(client, SocketTransport)
            and isinstance(node, SocketTransport)
        ):
            return self._splicer.splice(client, node, tunnel, close_timeout=timeout)
        return PumpRelay(client, node, tunnel, close_timeout=timeout)

    async def run_splicer(self) -> None:
        """Serve sessions over sockets the fast way, for as long as this runs.

        Where there is no epoll there is no fast way, and this returns.
        """
        if not hasattr(select, "epoll"):
            return
        self._splicer = Splicer()
        try:
            await self._splicer.run()
        finally:
            self._splicer = None

    def live(
        self, relay: Relay, record: Record, route: Route, upstream: Upstream, node: Node
    ) -> Session:
        """Return a session that is listed, and counted as under way, within its `with` block."""
        return Session(self, relay, record, route, upstream, node)

    def goes_on(self) -> bool:
        """Whether sessions are moved still, and not all sent away."""
        return not self.draining

    async def drain(self) -> None:
        """Refuse what is new, have all sessions leave, wait for all that is under way."""
        self.draining = True
        for upstream in self.upstreams.values():
            upstream.hold.release_all()
        shutdown, started = self.config.shutdown, trio.current_time()
        # The last closing handshakes should be over at the deadline.
        time = max(shutdown.deadline - self.config.timeouts.close, shutdown.deadline / 2)
        drain = Drain(
            "shutdown",
            _SHUTDOWN,
            Schedule(shutdown.jitter, self.random.random),
            self.sessions,
            started=started,
            deadline=started + time,
        )

        def plan(now: float, until: float) -> list[Leave]:
            for session in self.sessions:
                session.observe(now)
            drain.look(self.sessions)
            drain.turn(now, until, shutdown.rate)
            return [drain]

        self.leaving = {"shutdown": drain}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns, plan)
            await self.under_way.wait_none()
            nursery.cancel_scope.cancel()
        self.leaving.clear()
        drain.end(trio.current_time())

    def drains(self) -> list[DrainProgress]:
        """Return how far those drains have come that are under way."""
        return [drain.progress for drain in self.leaving.values()]
