"""Notice that a node is shutting down, from the Closes it sends.

A deepstream node that got SIGINT sends a Close to every client at once.  If a single one of them
does not hang up, it lives on for up to 30 s, answers every probe and takes new sessions, which are
cut off from its cluster: only this burst tells.  It is over when the node has gone and come back,
which its health tells, or after a time-out.
"""

from __future__ import annotations

from typing import Final

from proxy.config.upstream import DetectDrain

_SLICES: Final = 10
#: Closes that are about one client, not about the node: protocol error, data, policy, size.
PERSONAL: Final = frozenset((1002, 1003, 1007, 1008, 1009, 1010))


class DrainDetector:
    """One node's Closes of late, and what it had, counted in slices of the window."""

    def __init__(self, config: DetectDrain) -> None:
        self._config = config
        self._closes = [0] * _SLICES
        self._sessions = [0] * _SLICES
        self._latest = 0
        self._since: float | None = None

    def reconfigure(self, config: DetectDrain) -> None:
        """Go by other settings; a node that was found draining still is, unless nobody looks."""
        if not config.closes:
            self.over()
        elif config.window != self._config.window:
            # What was counted is in slices of another length.
            self._closes = [0] * _SLICES
            self._sessions = [0] * _SLICES
            self._latest = 0
        self._config = config

    def closed_by_node(self, now: float, code: int, sessions: int) -> bool:
        """Count a Close that the node sent first, of a session that is one of `sessions`.

        Those that it closed just before may still be among them, or not: what it had is the most
        that was seen within the window.  Returns whether this makes it a draining node.
        """
        if not self._config.closes or code in PERSONAL:
            return False
        self._advance(now)
        place = self._latest % _SLICES
        self._closes[place] += 1
        self._sessions[place] = max(self._sessions[place], sessions)
        enough = max(self._config.closes, self._config.share * max(self._sessions))
        if sum(self._closes) < enough or self.draining(now):
            return False
        self._since = now
        return True

    def draining(self, now: float) -> bool:
        return self._since is not None and now < self._since + self._config.timeout

    def until(self) -> float:
        """Return when it is a node like any other again, should nothing else happen; 0: it is."""
        return 0.0 if self._since is None else self._since + self._config.timeout

    def over(self) -> None:
        """Forget it all: the node has gone."""
        self._since = None
        self._closes = [0] * _SLICES
        self._sessions = [0] * _SLICES

    def _advance(self, now: float) -> None:
        latest = int(now / self._config.window * _SLICES)
        for passed in range(min(latest - self._latest, _SLICES)):
            self._closes[(latest - passed) % _SLICES] = 0
            self._sessions[(latest - passed) % _SLICES] = 0
        self._latest = max(self._latest, latest)
