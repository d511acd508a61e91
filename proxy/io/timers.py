"""Many deadlines, one task: what is to be looked at when.

A Trio deadline of its own for every session would cost each a task or a cancel scope, which weighs
more than all else that an idle session has.  Here each has an entry in a heap.

An entry that is nobody's any more, since its timer was hastened or cancelled, stays where it is
until it comes up, or until half of all are such: then they are swept out, which costs each of them
no more than a push did.
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
#: So many entries that are nobody's are not worth a sweep.
_FEW: Final = 64
LOG: Final = logging.getLogger("tidegate.timers")


class Timer:
    """Calls `action` when it is due; that returns when it is due again, infinity: not by itself."""

    __slots__ = ("_action", "_due", "_timers", "entry")

    def __init__(self, timers: Timers, action: Callable[[], float]) -> None:
        self._timers = timers
        self._action: Callable[[], float] | None = action
        self._due = math.inf
        #: The number of its entry, 0: it has none.
        self.entry = 0

    def hasten(self, due: float) -> None:
        """Have it called at `due` at the latest."""
        if due < self._due and self._action is not None:
            left, self._due = self.entry, due
            self.entry = self._timers.push(due, self)
            if left:
                self._timers.leave()

    def cancel(self) -> None:
        """Never call it again, and let go of what it would call."""
        self._action = None
        if self.entry:
            self.entry = 0
            self._timers.leave()

    def fire(self) -> None:
        """Call it: its entry has come up."""
        self._due, self.entry = math.inf, 0
        assert self._action is not None
        self.hasten(self._action())


class Timers:
    """The heap, and the task that serves it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count(1)
        #: How many entries are nobody's.
        self._left = 0
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def timer(self, action: Callable[[], float]) -> Timer:
        """Return a timer that is not set yet."""
        return Timer(self, action)

    def push(self, due: float, timer: Timer) -> int:
        """Make an entry; return its number."""
        number = next(self._numbers)
        heapq.heappush(self._heap, (due, number, timer))
        if self._heap[0][1] == number:
            self._sooner.set()
        return number

    def leave(self) -> None:
        """Take notice that an entry is nobody's any more."""
        self._left += 1
        if self._left > _FEW and 2 * self._left > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].entry]
            heapq.heapify(self._heap)
            self._left = 0

    async def run(self) -> None:
        """Call what is due, until cancelled; a bug in one is the log's and ends nothing."""
        while True:
            await self._wait()
            now = trio.current_time()
            for _ in range(_BATCH):
                if not self._heap or self._heap[0][0] > now:
                    break
                _, number, timer = heapq.heappop(self._heap)
                if number != timer.entry:
                    self._left -= 1
                    continue
                try:
                    timer.fire()
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
