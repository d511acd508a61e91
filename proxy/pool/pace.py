"""So many a second: what is held, or tried as a last resort, is let go at a pace."""

from __future__ import annotations


class Pace:
    """A token bucket: `rate` a second, after a pause a twentieth of a second's worth at once.

    Times are those of the caller's clock, in seconds.
    """

    __slots__ = ("_allowance", "_updated", "rate")

    def __init__(self, rate: float) -> None:
        #: It may change from one time to the next.
        self.rate = rate
        self._allowance = self._burst
        self._updated = 0.0

    @property
    def _burst(self) -> float:
        return max(1.0, self.rate / 20)

    def take(self, now: float, wanted: int) -> int:
        """Return how many of those wanted may go now."""
        self._refill(now)
        taken = min(wanted, int(self._allowance))
        self._allowance -= taken
        return taken

    def wait(self, now: float) -> float:
        """Return the seconds until another may go."""
        self._refill(now)
        missing = 1 - self._allowance
        # A microsecond more, lest rounding leaves who waited so long just short of one, for ever.
        return missing / self.rate + 1e-6 if missing > 0 else 0.0

    def _refill(self, now: float) -> None:
        earned = max(0.0, now - self._updated) * self.rate
        self._allowance = min(self._burst, self._allowance + earned)
        self._updated = now
