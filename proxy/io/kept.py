"""Connections to nodes between two requests.

A node may hang up at any moment, and the next request is on its way then: so nothing is kept for
longer than the node is known to wait, each one is watched by the splicer, where there is one, and
looked at before a request that cannot be sent twice is put on it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Protocol

import trio

from proxy.wire.head import Lines

from .splicer import IN, Splicer
from .timers import Timer, Timers
from .transport import SocketTransport


class Asker(Protocol):
    """Whoever waits for an answer."""

    def answered(self) -> None: ...


class Line:
    """A connection to a node, in the splicer while it is idle, and while an `asker` waits."""

    __slots__ = ("_kept", "asker", "events", "lines", "node", "transport", "until")

    def __init__(self, kept: Kept, node: Hashable, transport: SocketTransport) -> None:
        self._kept = kept
        self.node = node
        self.until = 0.0
        self.asker: Asker | None = None
        #: Of its last answer: the next one's are mostly the same.
        self.lines: Lines | None = None
        self.transport = transport
        self.events = 0

    def ready(self, _: int) -> None:
        """Take notice that something has come: an answer, or the end."""
        if self.asker is not None:
            self.asker.answered()
        elif not self.transport.is_quiet():
            self._kept.drop(self)

    def leave(self) -> SocketTransport:
        """Take it out of the splicer, for a task to use."""
        self.asker = None
        self._kept.watch(self, 0)
        return self.transport

    def close(self) -> None:
        """Hang up."""
        self.leave().close()


class Kept:
    """Idle connections, by node; the one that was used last goes first."""

    def __init__(self, timers: Timers) -> None:
        self._idle: dict[Hashable, deque[Line]] = {}
        self.splicer: Splicer | None = None
        #: Raised when all are closed: one that was in use then is not kept afterwards.
        self.generation = 0
        self._timer: Timer = timers.timer(self._tidy)

    def __len__(self) -> int:
        return sum(map(len, self._idle.values()))

    def watch(self, line: Line, events: int) -> None:
        """Have the splicer watch for these events of a line, if there is a splicer."""
        if self.splicer is not None:
            self.splicer.watch(line, events)

    def take(self, node: Hashable, now: float, *, quiet: bool = True) -> Line | None:
        """Return a connection to a node on which a request may be sent, None if there is none.

        `quiet`: it is looked whether the node has hung up on it in this very moment.
        """
        idle = self._idle.get(node)
        while idle:
            line = idle.pop()
            if not idle:
                del self._idle[node]
            if line.until > now and (not quiet or line.transport.is_quiet()):
                return line
            line.close()
        return None

    def keep(
        self, node: Hashable, stream: SocketTransport, most: int, until: float, generation: int
    ) -> None:
        """Keep a connection until then, unless there are so many for this node already.

        `generation` is what it was when the connection was made, or taken.
        """
        self.put_back(Line(self, node, stream), most, until, generation)

    def put_back(self, line: Line, most: int, until: float, generation: int) -> None:
        """Keep one that was taken, as `keep` does."""
        idle = self._idle.get(line.node)
        if generation != self.generation or (idle is not None and len(idle) >= most):
            line.close()
            return
        if idle is None:
            idle = self._idle[line.node] = deque()
        line.asker, line.until = None, until
        idle.append(line)
        self.watch(line, IN)
        self._timer.hasten(until)

    def drop(self, line: Line) -> None:
        """Close one that is idle."""
        idle = self._idle.get(line.node)
        if idle is not None and line in idle:
            idle.remove(line)
            if not idle:
                del self._idle[line.node]
        line.close()

    def _tidy(self) -> float:
        """Close what was idle for too long; return when to look again."""
        now = trio.current_time()
        for node, idle in [*self._idle.items()]:
            while idle and idle[0].until <= now:
                idle.popleft().close()
            if not idle:
                del self._idle[node]
        return min((idle[0].until for idle in self._idle.values()), default=math.inf)

    def close(self) -> None:
        """Close them all, and those that are in use as soon as they are given back."""
        self.generation += 1
        for idle in self._idle.values():
            for line in idle:
                line.close()
        self._idle.clear()
