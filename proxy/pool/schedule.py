"""When sessions leave: so many a second, evenly, or nearly so.

Beside `Pace`, which says how many of those who wait may go now and lets a few go together, this
says beforehand when the next ones go: their clients come back at once, to the other nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable


class Schedule:
    """The times at which sessions leave, in seconds of the caller's clock.

    Their places are even, and each leaves, by chance, up to `jitter` of the time to the next place
    after its own: so they stay in order, and as many a second as they should be.  Only the first,
    and one that comes when it is long past its time, leave at once.  `chance` returns a number from
    0 to 1.
    """

    __slots__ = ("_chance", "_jitter", "_last", "_moved")

    def __init__(self, jitter: float, chance: Callable[[], float]) -> None:
        self._jitter = jitter
        self._chance = chance
        #: The place of the last that has left, and how far the next is moved from its own.
        self._last = -math.inf
        self._moved = jitter * chance()

    def rate(self, count: int, now: float, until: float) -> float:
        """Return the rate at which so many would just have left by then, which is after now."""
        # The first may leave now, unless that would be too soon after the last of before.
        return max(count / (until - now), (count + 1) / (until - self._last))

    def take(self, now: float, until: float, rate: float, most: int) -> list[float]:
        """Return up to `most` times from now on and before `until`; they are given away.

        What `rate` is may change from one call to the next, and holds at once.  A time at which
        nobody wanted to leave is not made up for.
        """
        gap = 1 / rate
        times: list[float] = []
        while len(times) < most:
            place = self._last + gap
            time = place + gap * self._moved
            if time < now:
                place = time = now
            if time >= until:
                break
            times.append(time)
            self._last, self._moved = place, self._jitter * self._chance()
        return times
