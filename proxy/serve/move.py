"""Who has to leave while the proxy goes on: what `leave` sends away, and for which reason.

All sessions of a node that is to be empty, and of a route that is there no more; those that are
too old; and so many of a node that has more than its share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

from proxy.pool.node import Node
from proxy.pool.rebalance import choose, choose_surplus, surplus
from proxy.pool.schedule import Schedule
from proxy.pool.upstream import Upstream
from proxy.wire.closing import Ending

from .leave import Drain, Leave, turns
from .service import Service
from .session import Session

#: By the reason, and by the jitter, which a reload may change.
_Trickles = dict[tuple[str, float], Leave]


class Cause(NamedTuple):
    """What has all its sessions leave: a node, a route, or an upstream that is no more."""

    upstream: Upstream
    #: A route by its name: a reload makes everything anew.
    of: Node | Upstream | str
    #: When the node began to be emptied.
    since: float | None = None

    @property
    def what(self) -> str:
        if isinstance(self.of, str):
            return f"route {self.of}"
        return f"{'node' if isinstance(self.of, Node) else 'upstream'} {self.of.name}"

    @property
    def goodbye(self) -> tuple[Ending, str]:
        """The ending, and what clients are told."""
        if isinstance(self.of, Node) and not self.of.gone:
            return "moved", "node is drained"
        return "removed", f"{self.what.partition(' ')[0]} was removed"

    @property
    def is_there(self) -> bool:
        return not isinstance(self.of, Node) or self.of.empties


def _cause(session: Session) -> Cause | None:
    """Return what has a session leave, None if it may stay."""
    keep = session.route.on_removed == "keep"
    if session.removed and not keep:
        upstream = session.upstream
        return Cause(upstream, upstream if session.is_homeless else session.route.name)
    node = session.node
    if node.admin == "drain" or (node.gone and not keep):
        return Cause(session.upstream, node, node.empties_since)
    return None


class Mover:
    """The task that moves sessions."""

    def __init__(self, service: Service) -> None:
        self._service = service
        #: Of each upstream, what goes on from day to day.
        self._trickles: WeakKeyDictionary[Upstream, _Trickles] = WeakKeyDictionary()

    async def run(self) -> None:
        """Move, until cancelled."""
        await turns(self._plan)

    def _plan(self, now: float, until: float) -> list[Leave]:
        """Decide who leaves, but when all do: then that is not decided here."""
        service = self._service
        upstreams = service.upstreams.values()
        for upstream in upstreams:
            upstream.forget_gone(now)
        if service.draining:
            return []
        drained: defaultdict[Cause, list[Session]] = defaultdict(list)
        # This is done every second, whether anybody has to leave or not, so that the end of the
        # process, when it comes, knows who is quiet: 5 ms for 10,000 sessions.
        for session in service.sessions:
            session.observe(now)
            if (session.removed or session.node.empties) and (cause := _cause(session)):
                drained[cause].append(session)
        leaves = self._drain(drained, now, until)
        for upstream, sessions in self._staying(drained).items():
            leaves += self._everyday(upstream, sessions, now, until)
        return leaves

    def _drain(self, drained: dict[Cause, list[Session]], now: float, until: float) -> list[Leave]:
        """Have the drains of an upstream share its pace, by what each has left."""
        under_way = self._service.leaving
        for over in under_way.keys() - drained.keys():
            under_way.pop(over).end(now)
        waiting: dict[Cause, int] = {}
        of_all: Counter[Upstream] = Counter()
        for cause, sessions in drained.items():
            if cause not in under_way:
                under_way[cause] = self._begin(cause, now)
            waiting[cause] = under_way[cause].look(sessions)
            of_all[cause.upstream] += waiting[cause]
        for cause, count in waiting.items():
            rate = cause.upstream.config.drain.rate
            under_way[cause].turn(now, until, rate * count / max(1, of_all[cause.upstream]))
        return [under_way[cause] for cause in waiting]

    def _begin(self, cause: Cause, now: float) -> Drain:
        service, pace = self._service, cause.upstream.config.drain
        started = now if cause.since is None else cause.since
        return Drain(
            cause.what,
            cause.goodbye,
            Schedule(pace.jitter, service.random.random),
            service.sessions,
            started=started,
            deadline=started + pace.deadline,
            still=lambda: cause.is_there and service.goes_on(),
        )

    def _staying(self, drained: dict[Cause, list[Session]]) -> dict[Upstream, list[Session]]:
        """Return those who stay, of the upstreams where some may have to leave all the same."""
        staying: dict[Upstream, list[Session]] = {
            upstream: []
            for upstream in self._service.upstreams.values()
            if upstream.config.rebalance or upstream.config.max_session_age
        }
        if staying:
            for session in self._service.sessions.difference(*drained.values()):
                if session.upstream in staying and not session.is_ending:
                    staying[session.upstream].append(session)
        return staying

    def _everyday(
        self, upstream: Upstream, sessions: list[Session], now: float, until: float
    ) -> Iterator[Leave]:
        """Have those leave that are too old, and what a node has above its share."""
        config = upstream.config
        if limit := config.max_session_age:
            old = [session for session in sessions if session.age(now) > limit]
            leave = self._trickle(upstream, "session is old")
            leave.plan(now, until, config.drain.rate, len(old), partial(choose, old, now=now))
            yield leave
        if config.rebalance:
            excess = surplus(upstream.nodes, now, config.rebalance.tolerance)
            by_node: defaultdict[Node, list[Session]] = defaultdict(list)
            for session in sessions if excess else ():
                by_node[session.node].append(session)
            pick = partial(choose_surplus, by_node, excess, now=now)
            leave = self._trickle(upstream, "rebalancing")
            leave.plan(now, until, config.rebalance.rate, sum(excess.values()), pick)
            yield leave

    def _trickle(self, upstream: Upstream, reason: str) -> Leave:
        trickles, jitter = self._trickles.setdefault(upstream, {}), upstream.config.drain.jitter
        if (reason, jitter) not in trickles:
            schedule = Schedule(jitter, self._service.random.random)
            trickles[reason, jitter] = Leave("moved", reason, schedule, self._service.goes_on)
        return trickles[reason, jitter]
