"""Time that passes from one event to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["Clock"]

#: The time, a number that keeps events of one time in their order, what happens, and to whom.
_Event = tuple[float, int, Callable[..., object], tuple[object, ...]]


class Clock:
    """The events to come.  None is ever taken back: one that is out of date has to do nothing."""

    __slots__ = ("_events", "_made", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[_Event] = []
        self._made = 0

    def at(self, time: float, happens: Callable[..., object], *arguments: object) -> None:
        """Have something happen at a time; what is past happens now."""
        self._made += 1
        event = (max(time, self.now), self._made, happens, arguments)
        heapq.heappush(self._events, event)

    def after(self, seconds: float, happens: Callable[..., object], *arguments: object) -> None:
        """Have something happen after so many seconds."""
        self.at(self.now + seconds, happens, *arguments)

    def run(self, until: float) -> int:
        """Let time pass; return how many events that was."""
        events, before = self._events, len(self._events)
        made = self._made
        while events and events[0][0] <= until:
            self.now, _, happens, arguments = heapq.heappop(events)
            happens(*arguments)
        self.now = until
        return before + self._made - made - len(events)
