"""One live session, a WebSocket's or of TCP, as those who look after all of them see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import trio

from proxy.config.route import Route
from proxy.io.relay import Relay
from proxy.observe.live import Look, SessionStatistics
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.wire.closing import NO_STATUS, Ending
from proxy.wire.tunnel import Side

if TYPE_CHECKING:
    from .service import Service

#: How sessions end with the process: for clients there may be another one.
SHUTDOWN: Final[tuple[Ending, str]] = ("shutdown", "shutting down")


class Session:
    """One live session."""

    __slots__ = (
        "_age_factor",
        "_look",
        "_seen",
        "_service",
        "node",
        "opened",
        "quiet_since",
        "record",
        "relay",
        "removed",
        "route",
        "route_key",
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
        #: As it was when the session began, and what it is for.
        self.route = route
        self.route_key = service.routes.key(route)
        self.upstream = upstream
        self.node = node
        #: Its route, or the upstream, is in the configuration no more.
        self.removed = False
        #: Times of the clock; `quiet_since` is as `observe` has found it.
        self.opened = trio.current_time()
        self.quiet_since = self.opened
        self._seen = 0
        # Made when somebody looks.
        self._look: Look | None = None
        # Sessions that began together should not be moved together.
        self._age_factor = service.random.uniform(0.9, 1.1)

    def __enter__(self) -> Self:
        self._service.sessions.add(self)
        self._service.under_way.__enter__()
        self.relay.on_ending = self._ending
        if self._service.draining:
            self.leave(*SHUTDOWN)
        return self

    def __exit__(self, *_: object) -> None:
        self._service.sessions.discard(self)
        self._service.under_way.__exit__()
        # Else each session would be a cycle, for the garbage collector to find.
        self.relay.on_ending = None

    def _ending(self) -> None:
        """Tell the pool what the node did, when it does it: all its sessions may be next."""
        tunnel, now = self.relay.tunnel, trio.current_time()
        if tunnel.ending == "node_closed" and self.route.kind == "tcp":
            # Many a protocol has the server hang up first: that is no sign of a shutdown.  But one
            # that has said nothing at all may be broken.
            if not tunnel.scanners[Side.NODE].bytes:
                self.upstream.lost_by_node(self.node)
        elif tunnel.ending == "node_closed":
            code = tunnel.legs[Side.NODE].received or NO_STATUS
            self.upstream.closed_by_node(self.node, code, now)
        elif tunnel.ending == "node_lost":
            self.upstream.lost_by_node(self.node)

    @property
    def is_ending(self) -> bool:
        return self.relay.tunnel.ending is not None

    @property
    def is_homeless(self) -> bool:
        """Whether its upstream is not in the configuration any more."""
        return self._service.upstreams.get(self.upstream.name) is not self.upstream

    @property
    def is_between_messages(self) -> bool:
        """Whether a Close now would cut no message short."""
        return self.relay.is_between_messages

    def observe(self, now: float) -> None:
        """Look at its counters, to know later how long they have stood still."""
        client, node = self.relay.tunnel.scanners
        # A pong is no reason to think that somebody is busy.
        seen = client.bytes - client.control_bytes + node.bytes - node.control_bytes
        if seen != self._seen:
            self._seen, self.quiet_since = seen, now

    def statistics(self, now: float) -> SessionStatistics:
        """Return what can be seen of it at this moment."""
        self.observe(now)
        relay, record = self.relay, self.record
        if self._look is None:
            self._look = Look(self.opened)
        held = relay.held(Side.CLIENT), relay.held(Side.NODE)
        client, node = self._look.legs(relay.tunnel, now, held, relay.rtts)
        return SessionStatistics(
            id=record.id,
            client=record.client,
            listener=record.listener,
            route=record.route,
            upstream=self.upstream.name,
            node=self.node.name,
            age=now - self.opened,
            quiet=now - self.quiet_since,
            ending=relay.tunnel.ending,
            from_client=client,
            from_node=node,
        )

    def age(self, now: float) -> float:
        """Return the seconds since it began, give or take a tenth, always the same for one."""
        return (now - self.opened) * self._age_factor

    def leave(self, ending: Ending, reason: str) -> None:
        """Ask both sides to leave: the client to come back, elsewhere, and the node for good."""
        self.relay.close(ending, 1012, 1001, reason)
