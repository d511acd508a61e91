"""Who waits for a node, in the order in which they came.

A request waits here when no node may be asked: all are down, or full.  Nothing has been sent to its
client, for whom this is one slow try in place of a failed one.  Once there is room the first in the
queue are let go, at a pace: a node that has just started is not met by all of them at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from proxy.config.upstream import Hold

from .pace import Pace

#: What tells somebody who waits that it may go; its identity is who waits.
Waiter = Callable[[], object]


class HoldQueue:
    """A bounded queue; whoever is let go is told by the call of its waiter."""

    def __init__(self, config: Hold) -> None:
        self.reconfigure(config)
        self._pace = Pace(config.rate)
        # A dict, since who leaves is anywhere in the queue.
        self._waiters: dict[Waiter, None] = {}
        #: Since the beginning: let go, and gone before that.
        self.released = 0
        self.left = 0
        #: Let go, and not yet where they were let go to.
        self.under_way = 0

    def reconfigure(self, config: Hold) -> None:
        """Go by other settings; those who wait keep their places, be they more than may join."""
        self._limit = config.waiting if config.timeout else 0
        self._rate = config.rate

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> bool:
        """Take the last place; return False if there is none."""
        if len(self._waiters) >= self._limit:
            return False
        self._waiters[waiter] = None
        return True

    def leave(self, waiter: Waiter) -> None:
        """Forget a waiter; one that was let go is forgotten already."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            self.left += 1

    def arrived(self) -> None:
        """Note that somebody who was let go has taken its place, or given it up."""
        self.under_way -= 1

    def admit(self, now: float, nodes: int) -> bool:
        """Whether somebody who has just come need not wait: nobody does, and the pace allows it."""
        self._pace.rate = self._rate * nodes
        return not self._waiters and self._pace.take(now, 1) == 1

    def release(self, now: float, room: int, nodes: int = 1) -> int:
        """Let go those who may go now, at most `room`, first come first; return how many.

        With `nodes` that take them, so many times the rate: each is met by its own part only.
        """
        self._pace.rate = self._rate * nodes
        count = self._pace.take(now, min(room, len(self._waiters)))
        self._let_go(count)
        return count

    def release_all(self) -> None:
        """Let everybody go at once: there is nothing to wait for any more."""
        self._let_go(len(self._waiters))

    def _let_go(self, count: int) -> None:
        for waiter in list(itertools.islice(self._waiters, count)):
            # One that was told before it may have had it leave.
            if waiter in self._waiters:
                del self._waiters[waiter]
                self.released += 1
                self.under_way += 1
                waiter()

    def wait(self, now: float) -> float:
        """Return the seconds until the pace lets another go."""
        return self._pace.wait(now)
