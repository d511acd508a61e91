"""`proxy.serve` as events: where that awaits, this is called later.

`Watch` is `Keeper._watch` of `serve/keep.py`, `Reach` is `Reach` of `serve/reach.py`: the probes of
one node, and one request on its way to a node.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proxy.errors import ClosedEarly, DialRefused, DialTimeout, NodeError, ResponseTimeout
from proxy.pool.node import Lease
from proxy.pool.node import Node as PoolNode

from .clients import Request
from .nodes import Node, Outcome, Patience

if TYPE_CHECKING:
    from .tidegate import Tidegate

__all__ = ["Reach", "Watch"]

_JITTER: Final = 0.1
_ERRORS: Final[dict[Outcome, type[NodeError]]] = {
    Outcome.REFUSED: DialRefused,
    Outcome.UNREACHED: DialTimeout,
    Outcome.CLOSED: ClosedEarly,
    Outcome.SILENT: ResponseTimeout,
}


class Watch:
    """The probes of one node; they take their place among the handshakes that it answers."""

    def __init__(self, tidegate: Tidegate, seen: PoolNode, node: Node) -> None:
        self._tidegate = tidegate
        self._config = tidegate.upstream.config.probe
        self._node = node
        self.seen = seen
        #: When the last probe was over, None while one is under way, or has been nudged.
        self._waits_since: float | None = None
        self._began = 0.0
        self._turns = 0

    def start(self) -> None:
        """Find the node well, and ask again in its turn: the first pauses spread the probes."""
        self.seen.probed(self._tidegate.clock.now, well=True)
        self._wait(self._config.interval * (self._node.index + 1) / len(self._tidegate.nodes))

    def nudge(self) -> None:
        """Ask before its turn, but not without end."""
        if self._waits_since is not None:
            asked, self._waits_since = self._waits_since, None
            self._ask_at(asked + self._config.down_interval)

    def _wait(self, pause: float) -> None:
        self._waits_since = self._tidegate.clock.now
        self._ask_at(self._waits_since + pause)

    def _ask_at(self, time: float) -> None:
        # The last call counts.
        self._turns += 1
        self._tidegate.clock.at(time, self._ask, self._turns)

    def _ask(self, turn: int) -> None:
        if turn == self._turns:
            self._waits_since, self._began = None, self._tidegate.clock.now
            limit = self._config.timeout
            self._node.dial(Patience(limit, limit), self._answered)

    def _answered(self, outcome: Outcome) -> None:
        now = self._tidegate.clock.now
        if well := outcome is Outcome.OPENED:
            self.seen.probed(now, well=True, seconds=now - self._began)
        else:
            self.seen.probed(now, well=False, error=_ERRORS[outcome](self.seen.name))
        settled = well and self.seen.state(now) == "up"
        pause = self._config.interval if settled else self._config.down_interval
        self._wait(pause * self._tidegate.random.uniform(1 - _JITTER, 1 + _JITTER))


class Reach:
    """One request on its way to a node."""

    __slots__ = ("_deadline", "_error", "_held_until", "_request", "_tidegate", "_tried", "_waits")

    def __init__(self, tidegate: Tidegate, request: Request) -> None:
        self._tidegate = tidegate
        self._request = request
        self._held_until: float | None = None
        self._tried: list[PoolNode] = []
        self._error: NodeError | None = None
        self._waits = 0
        self._restart()

    def _restart(self) -> None:
        self._deadline = self._tidegate.clock.now + self._tidegate.timeouts.reach
        self._tried.clear()

    def next(self, error: NodeError | None) -> None:
        """Ask the next node, or wait for one."""
        self._error = error
        if self._tried:
            self._choose()
        elif (node := self._tidegate.upstream.first(self._tidegate.clock.now)) is not None:
            self._try(node)
        else:
            self._hold()

    def _choose(self) -> None:
        upstream, now = self._tidegate.upstream, self._tidegate.clock.now
        if (node := upstream.choose(now, self._tried)) is not None:
            self._try(node)
        elif self._error is not None and upstream.any_left(now, ()):
            self._request.failed()
        else:
            self._hold()

    def _hold(self) -> None:
        upstream, now = self._tidegate.upstream, self._tidegate.clock.now
        limit = upstream.config.hold.timeout
        if self._held_until is None:
            self._held_until = now + limit
        if now >= self._held_until:
            self._in_vain()
        elif upstream.hold.join(self._let_go):
            self._waits += 1
            self._tidegate.clock.at(self._held_until, self._time_over, self._waits, limit)
            upstream.changed()
        else:
            self._request.failed()

    def _let_go(self) -> None:
        # It is only told that it may go: what it does, it does in its own turn.
        self._waits += 1
        self._tidegate.clock.after(0.0, self._go)

    def _go(self) -> None:
        # Whoever was let go in vain leaves its place to the next.
        self._tidegate.upstream.hold.arrived()
        self._tidegate.upstream.changed()
        self._restart()
        self._choose()

    def _time_over(self, wait: int, longer: float) -> None:
        """Have waited in vain, or wait so much longer."""
        if wait != self._waits:
            return
        tidegate = self._tidegate
        upstream, now = tidegate.upstream, tidegate.clock.now
        if longer and upstream.any_left(now, ()):
            # There is a node, and the queue moves: it would be a pity to lose one's place.
            tidegate.clock.after(longer, self._time_over, wait, 0.0)
        else:
            self._waits += 1
            upstream.hold.leave(self._let_go)
            self._restart()
            self._in_vain()

    def _in_vain(self) -> None:
        upstream, now = self._tidegate.upstream, self._tidegate.clock.now
        node = upstream.last_resort(now, self._tried) if upstream.config.panic == "try" else None
        if node is None:
            self._request.failed()
        else:
            self._try(node, last_resort=True)

    def _try(self, node: PoolNode, *, last_resort: bool = False) -> None:
        self._tried.append(node)
        tidegate, now = self._tidegate, self._tidegate.clock.now
        left, limits = max(0.0, self._deadline - now), tidegate.timeouts
        patience = Patience(min(limits.dial, left), min(limits.upgrade, left))
        then = partial(self._asked, node, node.lease(), now, last_resort)
        tidegate.nodes[node].dial(patience, then, wrong_path=self._request.wrong_path)

    def _asked(
        self, node: PoolNode, lease: Lease, began: float, last_resort: bool, outcome: Outcome
    ) -> None:
        tidegate, now = self._tidegate, self._tidegate.clock.now
        if outcome is Outcome.OPENED:
            node.answered(now, now - began)
            tidegate.opened(self._request, tidegate.nodes[node], lease)
            return
        lease.release()
        error, late = _ERRORS[outcome](node.name), now >= self._deadline
        if not late or len(self._tried) == 1:
            # The last of several may just have had too little time left.
            tidegate.upstream.note(node, error, now)
        if late or last_resort or not error.retry:
            self._request.failed()
        else:
            self.next(error)
