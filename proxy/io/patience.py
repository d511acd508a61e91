"""Many who wait equally long: one queue and one timer, whoever has begun first is due first."""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio

from .timers import Timers

#: How long a node's answer is waited for, in seconds, before somebody looks whether the client is
#: still there: a look costs as much as a small request.
PATIENCE: Final = 0.1


class Waiting(Protocol):
    """Somebody who waits."""

    def give_up(self) -> None: ...


class Patience:
    """Those who wait for something, each for so many seconds."""

    def __init__(self, timers: Timers, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Waiting, float] = {}
        self._timer = timers.timer(self._look)

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, one: Waiting, now: float) -> None:
        """Have it give up when it has waited for long enough."""
        self._waiting[one] = until = now + self._seconds
        self._timer.hasten(until)

    def end(self, one: Waiting) -> None:
        """It waits no more; that it did not is no matter."""
        self._waiting.pop(one, None)

    def _look(self) -> float:
        now = trio.current_time()
        while self._waiting:
            one, until = next(iter(self._waiting.items()))
            if until > now:
                return until
            del self._waiting[one]
            one.give_up()
        return math.inf
