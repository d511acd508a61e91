"""What the two ways of relaying a session have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import trio

from proxy.wire.closing import Ending, FrameError
from proxy.wire.frames import Scanner
from proxy.wire.liveness import LegView, Liveness, Verdict
from proxy.wire.rate import Meter, Rate
from proxy.wire.tunnel import Side, Tunnel

from .terms import Terms
from .timers import Timers

#: What both sides are told, by ending: the client's code, the node's, the reason for the client.
_GOODBYES: Final[dict[Ending, tuple[int, int, str]]] = {
    "idle": (1001, 1001, "idle"),
    "client_silent": (1001, 1001, "no answer to a ping"),
    "node_silent": (1001, 1001, "node is silent"),
    "client_stalled": (1013, 1001, "too slow"),
    "node_stalled": (1013, 1001, "node is too slow"),
}


class Relay(ABC):
    """Two streams and the tunnel between them.

    A relay owns neither stream for good: when `run` ends, the node's is closed, and the client's is
    the caller's to close, since how that ends is seen by people; unless it was reset.
    """

    __slots__ = ("_controls", "_meter", "_timer", "liveness", "on_ending", "terms", "tunnel")

    def __init__(
        self, tunnel: Tunnel, terms: Terms, timers: Timers, *, stagger: float = 1.0
    ) -> None:
        self.tunnel = tunnel
        self.terms = terms
        scanners = self.scanner(Side.CLIENT), self.scanner(Side.NODE)
        now = trio.current_time()
        self.liveness = Liveness(tunnel, scanners, terms.patience, now, stagger)
        #: Called when the session begins to end: `tunnel.ending` says why.
        self.on_ending: Callable[[], None] | None = None
        self._timer = timers.timer(self._check)
        self._meter: Meter | None = None
        if terms.meter is not None:
            self._meter = terms.meter(self.scanner(Side.CLIENT))
        # Of the client's control frames; made when there is one.
        self._controls: Rate | None = None

    @abstractmethod
    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Relay until the tunnel is finished, or until the time for that is over.

        `early` are the bytes that came behind the handshake, from the client and from the node.
        """

    @abstractmethod
    def _wake(self) -> None:
        """Act on what was put in the tunnel from outside."""

    @abstractmethod
    def view(self, side: Side) -> LegView:
        """Return what the tunnel does not know of a leg."""

    @abstractmethod
    def held(self, side: Side) -> int:
        """Return how many bytes wait here for a side to take them."""

    def scanner(self, side: Side) -> Scanner:
        """Return what sees the frames of a side as they come."""
        return self.tunnel.scanners[side]

    @property
    def is_between_messages(self) -> bool:
        """Whether a Close now would cut no message short."""
        scanners = self.scanner(Side.CLIENT), self.scanner(Side.NODE)
        return not any(scanner.left or scanner.fragmented for scanner in scanners)

    @property
    def rtts(self) -> tuple[float | None, float | None]:
        """The seconds from our last ping to its pong, of the client and the node."""
        client, node = self.liveness.legs
        return client.rtt, node.rtt

    def close(self, ending: Ending, client_code: int, node_code: int, reason: str) -> None:
        """End the session with a Close to each side; `run` goes on until they have answered."""
        self.tunnel.close(ending, client_code, node_code, reason)
        self._wake()

    def doubt(self, side: Side) -> None:
        """Ping a side now, rather than in its time."""
        now = trio.current_time()
        if self.liveness.doubt(side, now):
            self._timer.hasten(now)

    def _check(self) -> float:
        """Look at the session's life, and end it if there is none; return when to look again."""
        if self.tunnel.ending:
            return math.inf
        views = (self.view(Side.CLIENT), self.view(Side.NODE))
        found = self.liveness.check(trio.current_time(), views)
        if isinstance(found, Verdict):
            stalled = found.ending in ("client_stalled", "node_stalled")
            abort = stalled and self.terms.abort_stalled
            self.tunnel.close(found.ending, *_GOODBYES[found.ending], abort=abort)
            self.tunnel.detail = found.detail
            found = math.inf
        self._wake()
        return found

    def _lost(self, side: Side, detail: str, *, clean: bool = False) -> None:
        """Tell the tunnel that nothing comes from a side any more."""
        self.tunnel.lost(side, detail, clean=clean)
        if not self.tunnel.ending:
            self._timer.hasten(self.liveness.half_closed(trio.current_time()))

    def _receive(self, side: Side, data: bytes) -> None:
        """Give bytes to the tunnel, and see what of them concerns the proxy itself."""
        leg, scanner = self.tunnel.legs[side], self.tunnel.scanners[side]
        pinged, controls = leg.ping, scanner.controls
        self.tunnel.received(side, data)
        if scanner.controls == controls:
            return
        now = trio.current_time()
        if pinged and not leg.ping:
            self._timer.hasten(self.liveness.ponged(side, now))
        if side is Side.CLIENT and self.terms.control_rate is not None:
            if self._controls is None:
                self._controls = self.terms.control_rate()
            if self._controls.spend(now, scanner.controls - controls) and not self.tunnel.ending:
                self.tunnel.offend(side, FrameError("too many control frames", 1008))

    def _pause(self) -> float:
        """Return for how long nothing should be read of the client, or end the session for it."""
        if self._meter is None or self.tunnel.ending:
            return 0.0
        pause = self._meter.pause(trio.current_time())
        if pause and self.terms.end_fast:
            self.tunnel.offend(Side.CLIENT, FrameError("too fast", 1008))
            return 0.0
        return pause
