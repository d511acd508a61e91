"""Many deadlines, one task: what is to be looked at when.

A Trio deadline of its own for every session would cost each a task or a cancel scope, which weighs
more than all else that an idle session has.  Here each has an entry in a heap.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable
from typing import Final

import trio

#: Called in a row before others have their turn.
_BATCH: Final = 64
LOG: Final = logging.getLogger("tidegate.timers")


class Timer:
    """Calls `action` when it is due; that returns when it is due again, infinity: not by itself."""

    __slots__ = ("_action", "_due", "_timers")

    def __init__(self, timers: Timers, action: Callable[[], float]) -> None:
        self._timers = timers
        self._action: Callable[[], float] | None = action
        self._due = math.inf

    def hasten(self, due: float) -> None:
        """Have it called at `due` at the latest."""
        if due < self._due and self._action is not None:
            self._due = due
            self._timers.push(due, self)

    def cancel(self) -> None:
        """Never call it again, and let go of what it would call."""
        self._action = None

    def fire(self, due: float) -> None:
        """Call it, if this is still its time."""
        if due == self._due and self._action is not None:
            self._due = math.inf
            self.hasten(self._action())


class Timers:
    """The heap, and the task that serves it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def timer(self, action: Callable[[], float]) -> Timer:
        """Return a timer that is not set yet."""
        return Timer(self, action)

    def push(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), timer))
        if self._heap[0][2] is timer:
            self._sooner.set()

    async def run(self) -> None:
        """Call what is due, until cancelled; a bug in one is the log's and ends nothing."""
        while True:
            await self._wait()
            now = trio.current_time()
            for _ in range(_BATCH):
                if not self._heap or self._heap[0][0] > now:
                    break
                due, _, timer = heapq.heappop(self._heap)
                try:
                    timer.fire(due)
                except Exception:
                    LOG.exception("bug")

    async def _wait(self) -> None:
        """Wait until the first is due; what is pushed meanwhile may come before it."""
        while not self._heap or self._heap[0][0] > trio.current_time():
            self._sooner = trio.Event()
            until = self._heap[0][0] if self._heap else math.inf
            with trio.move_on_at(until):
                await self._sooner.wait()
        await trio.lowlevel.checkpoint()
