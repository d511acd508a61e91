"""Connections to nodes between two requests.

A node may hang up at any moment, and the next request is on its way then: so nothing is kept for
longer than the node is known to wait, and each one is looked at before it is used again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

import attrs
import trio

from .timers import Timer, Timers
from .transport import SocketTransport


@attrs.frozen
class _Kept:
    stream: SocketTransport
    until: float


class Kept:
    """Idle connections, by node; the one that was used last goes first."""

    def __init__(self, timers: Timers) -> None:
        self._idle: dict[Hashable, deque[_Kept]] = {}
        #: Raised when all are closed: one that was in use then is not kept afterwards.
        self.generation = 0
        self._timer: Timer = timers.timer(self._tidy)

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def take(self, node: Hashable) -> SocketTransport | None:
        """Return a connection to a node on which a request may be sent, None if there is none."""
        idle = self._idle.get(node)
        now = trio.current_time()
        while idle:
            kept = idle.pop()
            if not idle:
                del self._idle[node]
            if kept.until > now and kept.stream.is_quiet():
                return kept.stream
            kept.stream.close()
        return None

    def keep(
        self, node: Hashable, stream: SocketTransport, most: int, seconds: float, generation: int
    ) -> None:
        """Keep a connection for so long, unless there are so many for this node already.

        `generation` is what it was when the connection was made, or taken.
        """
        idle = self._idle.get(node)
        if generation != self.generation or (idle is not None and len(idle) >= most):
            stream.close()
            return
        if idle is None:
            idle = self._idle[node] = deque()
        until = trio.current_time() + seconds
        idle.append(_Kept(stream, until))
        self._timer.hasten(until)

    def _tidy(self) -> float:
        """Close what was idle for too long; return when to look again."""
        now = trio.current_time()
        for node, idle in [*self._idle.items()]:
            while idle and idle[0].until <= now:
                idle.popleft().stream.close()
            if not idle:
                del self._idle[node]
        return min((idle[0].until for idle in self._idle.values()), default=math.inf)

    def close(self) -> None:
        """Close them all, and those that are in use as soon as they are given back."""
        self.generation += 1
        for idle in self._idle.values():
            for kept in idle:
                kept.stream.close()
        self._idle.clear()
