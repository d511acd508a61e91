"""Whether the two sides of a session are still there: pings, silence, idleness, stalls.

Theory.  One look every now and then, at counters that are kept anyway, decides it all; between two
looks nothing is done, so a message costs nothing.

  - Each leg is pinged by itself.  Any byte from it since the ping is a sign of life, since a long
    message may stand before the pong.  While we do not read a leg, because the other one does not
    take what it sends, its silence is our own doing and is not held against it.
  - A leg that does not take what it is sent is stalled once nothing has moved for `write_stall`
    seconds: not our backlog, and not what the kernel holds for it.  It is not pinged meanwhile.
  - A session without data frames, either way, is idle.  One of which a side has ended its stream,
    and is still sent to, may have less time for that.

Times are those of the caller's clock, in seconds.
"""

from __future__ import annotations

from typing import Final

import attrs

from .closing import Ending
from .frames import Scanner
from .tunnel import Side, Tunnel

#: What a ping of ours says; peers, and their captures, may see whose it is.
_TAG: Final = b"tidegate"
#: How often a ping is tried that could not be sent within a frame.
_RETRY: Final = 0.25
#: A stalled leg is looked at so many times within `write_stall`.
_LOOKS: Final = 4


@attrs.frozen
class Patience:
    """How long is waited for what, in seconds; 0: for ever, or never."""

    #: Between two pings of the client, and of the node.
    ping: tuple[float, float] = (0.0, 0.0)
    ping_timeout: float = 15.0
    idle: float = 0.0
    #: As `idle`, once a side has ended its stream; 0: as `idle` all the same.
    half_close: float = 0.0
    write_stall: float = 0.0


@attrs.frozen
class LegView:
    """What a relay knows of a leg and the tunnel does not."""

    #: Its bytes are being read.
    reads: bool = True
    #: Changes whenever the peer takes something of what it was sent; None: it has taken all.
    backlog: object = None


@attrs.frozen
class Verdict:
    """A session has to end: how, and what an operator may want to know."""

    ending: Ending
    detail: str


class Pulse:
    """What is known of one leg's life."""

    __slots__ = ("backlog", "bytes", "due", "heard", "moved", "pinged", "rtt")

    def __init__(self, due: float) -> None:
        #: When to send the next ping.
        self.due = due
        #: When the unanswered one was sent, None if there is none; and when there was, after that,
        #: a sign of life: another number of bytes.
        self.pinged: float | None = None
        self.heard = 0.0
        self.bytes = 0
        #: From the last ping to its pong.
        self.rtt: float | None = None
        self.backlog: object = None
        #: When the backlog was seen to move.
        self.moved = 0.0


class Liveness:
    """The life of one session; `first` staggers its pings: a fraction of the first interval.

    `scanners` see what comes from the client and from the node.
    """

    __slots__ = ("_data", "_data_at", "_patience", "_pings", "_scanners", "_tunnel", "legs")

    def __init__(
        self,
        tunnel: Tunnel,
        scanners: tuple[Scanner, Scanner],
        patience: Patience,
        now: float,
        first: float = 1.0,
    ) -> None:
        self._tunnel = tunnel
        self._scanners = scanners
        self._patience = patience
        self._pings = 0
        self._data = 0
        self._data_at = now
        self.legs = tuple(Pulse(now + interval * first) for interval in patience.ping)

    def ponged(self, side: Side, now: float) -> float:
        """Take notice that our ping was answered; return when to look again."""
        pulse = self.legs[side]
        if pulse.pinged is not None:
            pulse.rtt = now - pulse.pinged
            pulse.pinged = None
            pulse.due = now + self._patience.ping[side]
        return pulse.due

    def doubt(self, side: Side, now: float) -> bool:
        """Make a leg's ping due; return whether it is one that is pinged, and waits for no pong."""
        if not self._patience.ping[side] or self.legs[side].pinged is not None:
            return False
        self.legs[side].due = now
        return True

    def check(self, now: float, legs: tuple[LegView, LegView]) -> Verdict | float:
        """Look at all of it, and ping who is due; return a verdict, or when to look again."""
        due = _NEVER
        looks = [self._idle(now, legs[Side.CLIENT])]
        for side in Side:
            looks += self._stalled(side, now, legs[side]), self._silent(side, now, legs[side])
        for found in looks:
            if isinstance(found, Verdict):
                return found
            due = min(due, found)
        # Only now: nobody should be pinged who is told goodbye.
        return min(due, *(self._ping(side, now, legs[side]) for side in Side))

    def half_closed(self, now: float) -> float:
        """Take notice that a side has ended its stream, and the other not; return when to look."""
        self._data, self._data_at = self._count(), now
        return now + self._idle_limit()

    def blocked(self, now: float) -> float:
        """Return when to look at a leg that has just begun not to take what it is sent."""
        return now + self._patience.write_stall / _LOOKS if self._patience.write_stall else _NEVER

    def _idle(self, now: float, client: LegView) -> Verdict | float:
        limit, data = self._idle_limit(), self._count()
        ended = self._tunnel.legs[Side.CLIENT].ended
        if data != self._data or not (client.reads or ended):
            # Or who is paused for sending too much: that is not idle.
            self._data, self._data_at = data, now
        elif now >= self._data_at + limit:
            return Verdict("idle", f"no data for {limit:g} s")
        return self._data_at + limit

    def _idle_limit(self) -> float:
        idle, half_close = self._patience.idle or _NEVER, self._patience.half_close
        half = half_close and any(leg.ended for leg in self._tunnel.legs)
        return min(idle, half_close) if half else idle

    def _count(self) -> int:
        return sum(scanner.bytes - scanner.control_bytes for scanner in self._scanners)

    def _stalled(self, side: Side, now: float, view: LegView) -> Verdict | float:
        pulse, limit = self.legs[side], self._patience.write_stall
        if not limit or view.backlog is None:
            pulse.backlog = None
            return _NEVER
        if view.backlog != pulse.backlog:
            pulse.backlog, pulse.moved = view.backlog, now
        elif now >= pulse.moved + limit:
            ending: Ending = "node_stalled" if side else "client_stalled"
            return Verdict(ending, f"nothing was read for {limit:g} s")
        return min(now + limit / _LOOKS, pulse.moved + limit)

    def _silent(self, side: Side, now: float, view: LegView) -> Verdict | float:
        pulse, timeout = self.legs[side], self._patience.ping_timeout
        if pulse.pinged is None:
            return _NEVER
        seen = self._scanners[side].bytes
        if seen != pulse.bytes or not view.reads:
            pulse.bytes, pulse.heard = seen, now
        elif now >= pulse.heard + timeout:
            if pulse.heard > pulse.pinged:
                # It has lived since; a peer may answer the latest of several pings alone (RFC 6455
                # section 5.5.3), so this one's pong need not come.
                self._tunnel.legs[side].ping = b""
                pulse.pinged, pulse.due = None, now
                return _NEVER
            ending: Ending = "node_silent" if side else "client_silent"
            return Verdict(ending, f"no answer to a ping for {timeout:g} s")
        return pulse.heard + timeout

    def _ping(self, side: Side, now: float, view: LegView) -> float:
        """Send a ping if it is time; return when to look again."""
        pulse, interval = self.legs[side], self._patience.ping[side]
        if not interval or pulse.pinged is not None:
            return _NEVER
        if now < pulse.due:
            return pulse.due
        if view.backlog is not None:
            pulse.due = now + interval
        elif self._tunnel.ping(side, b"%s%d" % (_TAG, self._pings + 1)):
            self._pings += 1
            pulse.pinged = pulse.heard = now
            pulse.bytes = self._scanners[side].bytes
            return now + self._patience.ping_timeout
        else:
            pulse.due = now + _RETRY
        return pulse.due


_NEVER: Final = float("inf")
