"""How long a node takes to answer, of late."""

from __future__ import annotations

import math
from typing import Final

#: Seconds after which what was measured counts for a third.
MEMORY: Final = 10.0


class Latency:
    """A mean of what was measured, in seconds, that forgets with time; None while nothing was."""

    __slots__ = ("_at", "mean")

    def __init__(self) -> None:
        self.mean: float | None = None
        self._at = 0.0

    def measured(self, now: float, seconds: float) -> None:
        if self.mean is None:
            self.mean = seconds
        else:
            # However many come at once, together they count for what they are: the latest.
            weight = max(0.1, 1 - math.exp(-(now - self._at) / MEMORY))
            self.mean += weight * (seconds - self.mean)
        self._at = now
