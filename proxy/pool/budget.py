"""How many requests may be put to a second node.

When nodes fail because there is too much to do, every retry makes it worse: so retries are a share
of the requests that come, and a few a second, so that an upstream with little to do has some too.
"""

from __future__ import annotations

from typing import Final

#: Retries that are saved up at most, in seconds' worth of the rate and in requests' worth of the
#: share.
_SECONDS: Final = 10.0
_REQUESTS: Final = 1000


class RetryBudget:
    """Earns `share` of a retry with each request and `rate` a second; times are in seconds."""

    __slots__ = ("_saved", "_updated")

    def __init__(self) -> None:
        self._saved = 0.0
        self._updated: float | None = None

    def earn(self, now: float, share: float, rate: float) -> None:
        """Account for a request, and for the time since the last one."""
        if self._updated is None:
            # It starts with what it may save up by itself.
            self._saved, self._updated = rate * _SECONDS, now
        most = rate * _SECONDS + share * _REQUESTS
        earned = share + rate * max(0.0, now - self._updated)
        self._saved, self._updated = min(most, self._saved + earned), now

    def spend(self) -> bool:
        """Return whether a retry is allowed, which is then paid for."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
