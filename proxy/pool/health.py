"""Whether a node may be asked: what probes say of it, and what became of those who asked.

Theory.  Two witnesses.  A *probe* asks whether the node works: `rise` good answers in a row bring
it up, `fall` bad ones take it down.  *Passive* health is what requests have met: a node that could
not be reached is down at once; other failures have to come several times within a window, because
one of them may be about one request; a node that hung up before it answered is only *suspect*, for
that is what deepstream does about one client's wrong path, and it is probed at once.

A node that failed rests, for longer with each failure in a row.  With probes it is down until they
find it well; if it was unreachable, a probe that reaches it ends the rest too, and if its answers
were bad, it rests to the end, for a probe may not see what the requests have met.  Without probes
the first request after the rest is the probe.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from proxy.config.upstream import Probe, Rest

State = Literal["unknown", "up", "down"]


class Health:
    """What is known of one node."""

    def __init__(self, probe: Probe, rest: Rest) -> None:
        self._probe = probe
        self._rest = rest
        #: What the probes say; without probes a node is up.
        self.state: State = "up" if probe.kind == "none" else "unknown"
        self._in_a_row = 0
        self._recent: deque[float] = deque(maxlen=rest.failures)
        self.rests = 0
        self.rests_until = 0.0
        self.failed_at = 0.0
        self._unreachable = False
        #: A probe should not wait for its turn.
        self.suspect = False
        #: When it last came back from being down, None if it never was.
        self.back_since: float | None = None

    def reconfigure(self, probe: Probe, rest: Rest, now: float) -> None:
        """Go by other settings; what is known stays, as far as it means something to them."""
        if rest.failures != self._rest.failures:
            self._recent = deque(self._recent, maxlen=rest.failures)
        self._probe, self._rest = probe, rest
        self.rests_until = min(self.rests_until, now + rest.longest)
        if probe.kind == "none":
            # Nobody would ever find it well.
            self.state = "up"

    def available(self, now: float) -> bool:
        return self.state == "up" and now >= self.rests_until

    @property
    def is_well(self) -> bool:
        """Whether an answer tells nothing new: it is up, and has not failed since the last one."""
        return self.state == "up" and not self.rests and not self._recent

    def probed(self, now: float, *, well: bool) -> None:
        """Take a probe's result."""
        self.suspect = False
        good = self.state == "up"
        if self.state == "unknown":
            # The first answer decides: a proxy that starts should not refuse for long.
            self.state = "up" if well else "down"
            self._in_a_row = 0
            self.failed_at = self.failed_at if well else now
        elif well == good:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            if self._in_a_row >= (self._probe.fall if good else self._probe.rise):
                self._turn(now, up=well)

    def _turn(self, now: float, *, up: bool) -> None:
        self.state = "up" if up else "down"
        self._in_a_row = 0
        if up:
            self.back_since = now
            if self._unreachable:
                self.rests_until = 0.0
        else:
            self.failed_at = now

    def failed(self, now: float, *, unreachable: bool) -> None:
        """Take notice that a request failed, by the node's fault.

        Attempts that were under way together fail together; they count as one rest.
        """
        self.suspect = True
        self.failed_at = now
        if unreachable and self._probe.kind != "none":
            self.state = "down"
            self._in_a_row = 0
        self._recent.append(now)
        often = (
            len(self._recent) == self._rest.failures and now - self._recent[0] <= self._rest.window
        )
        if now < self.rests_until or not (unreachable or often):
            return
        # 2**16 times any rest is beyond `longest`; the exponent must not grow without bound.
        rest = self._rest.first * 2 ** min(self.rests, 16)
        self.rests_until = now + min(rest, self._rest.longest)
        self.rests += 1
        self._unreachable = unreachable
        self._recent.clear()

    def answered(self, now: float, *, session: bool = True) -> None:
        """Take notice that it answered a request: forget its failures.

        An answer to a plain request says less than one to a handshake: a node that starts has its
        HTTP ready before it takes sessions.
        """
        if self.rests and self._probe.kind == "none":
            self.back_since = now
        self.rests = 0
        self.rests_until = 0.0
        self._recent.clear()
        if self.state == "down" and session:
            # Asked as the last resort, and well: who asked knows better than a probe of before.
            self._turn(now, up=True)
        elif self.state == "down":
            self.suspect = True
