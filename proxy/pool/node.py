"""One node: what is known of it, and who holds on to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import attrs

from proxy.config.address import Address
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import DialError, NodeError

from .drain import DrainDetector
from .health import Health
from .latency import Latency

#: What an operator wants of it; `drain`: no new sessions, and those it has leave at a pace.
Admin = Literal["ready", "drain", "down"]
#: Why it is asked or not, in the order in which the reasons are looked at.
NodeState = Literal[
    "down by hand", "drain by hand", "gone", "unknown", "down", "resting", "draining", "up"
]
#: The share with which a node begins that comes back.
FIRST_SHARE = 0.1


@attrs.frozen
class NodeStatistics:
    """What an operator sees of a node.  Times are of the pool's clock, 0 where there is none."""

    address: str
    weight: int
    backup: bool
    state: NodeState
    sessions: int
    failures_in_a_row: int
    rests_until: float
    #: Of its full share, while it starts slowly.
    share: float
    latency: float | None


class Lease:
    """One session's or request's hold on a node; also a context manager."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node: Node | None = node
        node.sessions += 1

    def release(self) -> None:
        """Let go; once is enough, more often is no harm."""
        if self.node is not None:
            node, self.node = self.node, None
            node.sessions -= 1
            if node.config.max_sessions and node.room == 1:
                node.freed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Node:
    """State of one address in an upstream.

    `joined` is when it was found, by its name or in a new configuration; None for one that was
    there from the beginning.
    `freed` is called when others may be asked than before: it takes sessions or does not any more,
    or it was full and has room again.
    """

    def __init__(
        self,
        config: NodeConfig,
        upstream: UpstreamConfig,
        *,
        address: Address | None = None,
        joined: float | None = None,
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address or config.address
        self.name = str(self.address)
        #: How it is called in a request that does not say what host it means.
        self.authority = self.address.authority
        #: Sessions and requests under way.
        self.sessions = 0
        self.admin: Admin = "ready"
        #: It is in the configuration, or in an answer to one of its names.
        self.wanted = True
        #: It was, and takes no sessions any more.
        self.gone = False
        #: Since when the sessions it has should leave; None while they need not.
        self.empties_since: float | None = None
        self.health = Health(upstream.probe, upstream.rest)
        self.health.back_since = joined
        self.drain = DrainDetector(upstream.detect_drain)
        self.latency = Latency()
        self.freed = freed
        self._configure(config, upstream)
        #: Smooth weighted round robin's running credit, see `pool.policy`.
        self.credit = 0.0

    def _configure(self, config: NodeConfig, upstream: UpstreamConfig) -> None:
        self.config = config
        self.weight = config.weight
        self.backup = config.backup
        self._slow_start = upstream.slow_start

    def reconfigure(self, config: NodeConfig, upstream: UpstreamConfig, now: float) -> None:
        """Go by other settings; what is known of it, and who holds on to it, stays."""
        self._configure(config, upstream)
        self.health.reconfigure(upstream.probe, upstream.rest, now)
        self.drain.reconfigure(upstream.detect_drain)

    def takes(self, now: float) -> bool:
        """Whether it may be given a session, if it has room for one."""
        return (
            self.admin == "ready"
            and not self.gone
            and self.health.available(now)
            and not self.drain.draining(now)
        )

    @property
    def has_room(self) -> bool:
        """Whether it may have one more."""
        limit = self.config.max_sessions
        return not limit or self.sessions < limit

    @property
    def room(self) -> int:
        """How many more it may have; a large number where there is no limit."""
        limit = self.config.max_sessions
        return max(0, limit - self.sessions) if limit else 2**31

    def is_warm(self, now: float) -> bool:
        """Whether it is past its slow start, and has not failed since it answered last."""
        return not self.health.rests and self._has_its_share(now)

    def _has_its_share(self, now: float) -> bool:
        since = self.health.back_since
        return since is None or now >= since + self._slow_start

    def share(self, now: float) -> float:
        """Return its weight as it counts now: a node that came back works up to it."""
        since = self.health.back_since
        if since is None or self._has_its_share(now):
            return float(self.weight)
        return self.weight * max(FIRST_SHARE, (now - since) / self._slow_start)

    def load(self, now: float) -> float:
        """Return the sessions that it would have with one more, for its share."""
        return (self.sessions + 1) / self.share(now)

    def failed(self, now: float, *, unreachable: bool) -> None:
        """Take notice that a request failed by its fault."""
        self.health.failed(now, unreachable=unreachable)
        if unreachable:
            self.drain.over()

    def probed(
        self,
        now: float,
        *,
        well: bool,
        error: NodeError | None = None,
        seconds: float | None = None,
    ) -> None:
        """Take a probe's result: that it is well, after so many seconds, or what was wrong."""
        took = self.takes(now)
        if isinstance(error, DialError):
            if self.drain.draining(now):
                # It has gone, as it said it would: nobody asks it before it is found well.
                self.health.failed(now, unreachable=True)
            self.drain.over()
        self.health.probed(now, well=well)
        if seconds is not None:
            self.latency.measured(now, seconds)
        self._tell_if_changed(now, took=took)

    @property
    def empties(self) -> bool:
        """Whether the sessions it has should leave."""
        return self.admin == "drain" or self.gone

    def want(self, now: float, *, admin: Admin | None = None, gone: bool | None = None) -> None:
        """Have it as the operator, or the name that stands for it, wants it from now on."""
        emptied = self.empties
        self.admin = self.admin if admin is None else admin
        self.gone = self.gone if gone is None else gone
        if self.empties != emptied:
            self.empties_since = now if self.empties else None

    def answered(self, now: float, seconds: float | None = None, *, session: bool = True) -> None:
        """Take notice that it answered a handshake, or a plain request, in so many seconds."""
        if seconds is None and self.health.is_well:
            return
        took = self.takes(now)
        self.health.answered(now, session=session)
        if seconds is not None:
            self.latency.measured(now, seconds)
        self._tell_if_changed(now, took=took)

    def _tell_if_changed(self, now: float, *, took: bool) -> None:
        if self.takes(now) != took or self.health.suspect:
            self.freed()

    def lease(self) -> Lease:
        """Hold on to it for one session or request, until the lease is released."""
        return Lease(self)

    def state(self, now: float) -> NodeState:
        """Return why it is asked, or is not."""
        if self.admin != "ready":
            return "down by hand" if self.admin == "down" else "drain by hand"
        if self.gone:
            return "gone"
        if self.health.state != "up":
            return self.health.state
        if now < self.health.rests_until:
            return "resting"
        return "draining" if self.drain.draining(now) else "up"

    def statistics(self, now: float) -> NodeStatistics:
        return NodeStatistics(
            address=self.name,
            weight=self.weight,
            backup=self.backup,
            state=self.state(now),
            sessions=self.sessions,
            failures_in_a_row=self.health.rests,
            rests_until=self.health.rests_until,
            share=self.share(now) / self.weight,
            latency=self.latency.mean,
        )
