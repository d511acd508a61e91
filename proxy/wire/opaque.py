"""A session whose bytes pass unseen: in TCP mode, and for what is not quite RFC 6455.

It has the face of a `Tunnel`, and no frames: nothing can be put between its bytes, so it is never
pinged and ends with a hang-up.

An end of stream passes through, and is no end of the session: a side that has ended its own may
still be sent to, until the other one ends its stream too, or is idle.  What breaks off passes as a
reset: without frames an end of stream is all that tells a peer that it has got everything.
"""

from __future__ import annotations

from typing import Final

import attrs

from .closing import Ending, FrameError
from .frames import Scan, Scanner
from .tunnel import Leg, Side, Tunnel

_CLOSED: Final[tuple[Ending, Ending]] = ("client_closed", "node_closed")
_LOST: Final[tuple[Ending, Ending]] = ("client_lost", "node_lost")


class Flow(Scanner):
    """One direction's bytes, counted."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(masked=False)

    def plain(self, data: bytes | bytearray, size: int) -> bool:
        if self.stopped:
            return False
        self.bytes += size
        return True

    def scan(self, data: bytes) -> Scan:
        if self.stopped:
            return Scan(b"")
        self.bytes += len(data)
        return Scan(data)


@attrs.define
class OpaqueLeg(Leg):
    @property
    def done(self) -> bool:
        return self.gone or (self.ended and self.finish)


class OpaqueTunnel(Tunnel):
    """Relay bytes between a client and a node."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.scanners = (Flow(), Flow())
        self.legs = (OpaqueLeg(), OpaqueLeg())

    def lost(self, side: Side, detail: str = "", *, clean: bool = False) -> None:
        leg, other = self.legs[side], self.legs[side.other]
        if leg.gone or (clean and leg.ended):
            return
        if clean:
            leg.ended = other.finish = True
            if other.ended:
                # Who was first has begun it.
                self._end(_CLOSED[side.other], detail)
            return
        # Whoever has ended its stream may well be gone when something comes for it.
        self._end(_CLOSED[side] if leg.ended else _LOST[side], detail)
        other.abort = True
        self._hang_up()

    def offend(self, side: Side, error: FrameError) -> None:
        self._end("client_limit" if side is Side.CLIENT else "node_limit", error.reason)
        self._hang_up()

    def close(
        self, ending: Ending, client_code: int, node_code: int, reason: str, *, abort: bool = False
    ) -> None:
        if self.ending:
            return
        self._end(ending, reason)
        for side in Side:
            self.legs[side].abort = abort and self.ended_by == side.name.lower()
        self._hang_up()

    def give_up(self) -> None:
        self._hang_up()

    def ping(self, side: Side, payload: bytes) -> bool:
        return False

    def _hang_up(self) -> None:
        for side in Side:
            self.legs[side].gone = True
            self.scanners[side].stopped = True
