"""So much a second, and no more than a burst of it at once: for what comes, not for what leaves.

It is the generic cell rate algorithm (ITU-T I.371): one number, the time at which all that came
would be paid for at the rate.  How far that lies ahead of now, beyond the burst, is for how long
nothing more should come; so what has come already, however large, is allowed and then paid for.
"""

from __future__ import annotations

from typing import Final

from .frames import Scanner

#: A shorter pause is what is left of rounding: far from 0, a clock's floats are coarse.
_LEAST: Final = 1e-6


class Rate:
    """A limit of `rate` a second, with `burst` seconds' worth at once.  Times are in seconds."""

    __slots__ = ("_burst", "_paid_at", "_rate", "pace")

    def __init__(self, rate: float, burst: float) -> None:
        self.pace = rate, burst
        self._rate = rate
        # One is always allowed at once.
        self._burst = max(burst, 1 / rate)
        self._paid_at = 0.0

    def spend(self, now: float, amount: float = 1) -> float:
        """Account for what has come; return for how long nothing more should, 0 if it may."""
        self._paid_at = max(self._paid_at, now) + amount / self._rate
        return _pause(self._paid_at - now - self._burst)

    def allows(self, now: float) -> float:
        """Return how long one more should wait, 0 if it may come now; nothing is spent."""
        return _pause(max(self._paid_at, now) + 1 / self._rate - now - self._burst)

    def idle(self, now: float) -> bool:
        """Whether all is paid: a new one would be the same."""
        return self._paid_at <= now


def _pause(seconds: float) -> float:
    return seconds if seconds > _LEAST else 0.0


class Meter:
    """How fast one side of a session may send: messages and bytes a second, 0: any number."""

    __slots__ = ("_bytes", "_messages", "_scanner", "_seen")

    def __init__(self, scanner: Scanner, messages: float, size: float, burst: float) -> None:
        self._scanner = scanner
        self._messages = Rate(messages, burst) if messages else None
        self._bytes = Rate(size, burst) if size else None
        self._seen = (0, 0)

    def pause(self, now: float) -> float:
        """Account for what has come since the last time; return for how long nothing more should.

        Times are in seconds.
        """
        scanner, (messages, size) = self._scanner, self._seen
        self._seen = scanner.messages, scanner.bytes
        pause = 0.0
        if self._messages is not None and scanner.messages > messages:
            pause = self._messages.spend(now, scanner.messages - messages)
        if self._bytes is not None and scanner.bytes > size:
            pause = max(pause, self._bytes.spend(now, scanner.bytes - size))
        return pause
