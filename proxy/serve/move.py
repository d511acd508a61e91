"""Move sessions to other nodes: off a node that is to be empty, off one that is too full, or old.

Nothing can move a WebSocket but its client: it gets a Close and comes back, at once, to the node
that the policy chooses then.  That is why they leave at a pace.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Final

import trio

from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.pool.node import Node
from proxy.pool.rebalance import choose, surplus
from proxy.pool.upstream import Upstream

from .service import Service, Session

#: How often it is looked whether there is anything to move; what is, leaves evenly over this time.
_TURN: Final = 1.0


class Mover:
    """The task that moves sessions of one upstream."""

    def __init__(self, service: Service, upstream: Upstream) -> None:
        self._service = service
        self._upstream = upstream
        self._random = Random()
        #: Of a rate below one a turn, what is left over for the next.
        self._owed: defaultdict[str, float] = defaultdict(float)

    @property
    def _config(self) -> UpstreamConfig:
        return self._upstream.config

    async def run(self) -> None:
        """Move, until cancelled."""
        while True:
            started = trio.current_time()
            leaving = self._leaving(started)
            for index, (session, reason) in enumerate(leaving):
                await trio.sleep_until(started + _TURN * index / len(leaving))
                # What was true at the beginning of the turn may have changed.
                if session.is_between_messages and not session.is_ending:
                    session.move(reason)
            self._upstream.forget_gone()
            await trio.sleep_until(started + _TURN)

    def _leaving(self, now: float) -> list[tuple[Session, str]]:
        """Return who should leave in this turn, and why."""
        emptying = [node for node in self._upstream.nodes if node.empties and node.sessions]
        if not (emptying or self._config.rebalance or self._config.max_session_age):
            return []
        by_node: defaultdict[Node, list[Session]] = defaultdict(list)
        for session in self._service.sessions:
            if session.upstream is self._upstream and not session.is_ending:
                session.observe(now)
                by_node[session.node].append(session)
        left = self._allowance("drain", self._config.drain.rate)
        leaving: list[tuple[Session, str]] = []
        for node in emptying:
            chosen = choose(by_node.pop(node, []), left, now)
            left -= len(chosen)
            leaving += [(session, "node is drained") for session in chosen]
        leaving += self._aged(by_node, now)
        leaving += self._surplus(by_node, now)
        return list(dict(leaving).items())

    def _aged(self, by_node: dict[Node, list[Session]], now: float) -> list[tuple[Session, str]]:
        limit = self._config.max_session_age
        if not limit:
            return []
        old = [s for sessions in by_node.values() for s in sessions if s.age(now) > limit]
        left = self._allowance("age", self._config.drain.rate)
        return [(session, "session is old") for session in choose(old, left, now)]

    def _surplus(self, by_node: dict[Node, list[Session]], now: float) -> list[tuple[Session, str]]:
        if self._config.rebalance is None:
            return []
        excess = surplus(self._upstream.nodes, now, self._config.rebalance.tolerance)
        if not excess:
            return []
        left = self._allowance("rebalance", self._config.rebalance.rate)
        leaving: list[tuple[Session, str]] = []
        for node in sorted(excess, key=lambda node: -excess[node]):
            chosen = choose(by_node.get(node, []), min(left, excess[node]), now)
            left -= len(chosen)
            leaving += [(session, "rebalancing") for session in chosen]
        return leaving

    def _allowance(self, what: str, rate: float) -> int:
        owed = min(self._owed[what] + rate * _TURN, max(1.0, rate * _TURN))
        self._owed[what] = owed - int(owed)
        return int(owed)
