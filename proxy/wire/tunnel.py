"""A session's two legs as one state machine: bytes in, bytes out, an outbox per side.

Theory.  Frames that come from one leg go out on the other.  Three things may join them: a Close or
a Ping of our own, and the answer to a node's Close; all of them only at a frame boundary of the
stream they join.  If that stream is within a frame, an injected frame waits for its end.

Each leg has a closing handshake of its own, and each is ours to finish (RFC 6455 section 7.1):
  - A Close from the client goes to the node verbatim; the node's answer comes back verbatim.
  - A Close from the node goes to the client verbatim, is answered here at once, and the node's
    connection is then closed at once: a deepstream node that shuts down waits up to 30 s for the
    slowest peer, cut off from its cluster all the while.
  - Whoever vanishes without a Close: a client is told 1011; a node just loses its connection.
  - A protocol error: 1002 to the offender; 1001 to a node, 1011 to a client, for the other's fault.
    To a client, in the place of the node's answer: what the node has to say to the frames before
    the bad one still arrives.
  - `close` ends both legs with codes of our own (drain, shutdown).
On a leg that was sent a Close nothing more is sent; a leg is *done* when Closes went both ways on
it, or when there is nobody left to say goodbye to.  `finished` means both are.  If a stream is cut
within a frame, no Close can be sent on it: that leg is done as well, and its peer sees 1006, which
is the truth.

`Scanner.plain` may be used in front of `received`: what it lets through goes out as it came.
"""

from __future__ import annotations

import functools
from enum import IntEnum
from typing import Final, Literal

import attrs
from wsproto.frame_protocol import FrameProtocol

from .frames import NO_STATUS, Control, FrameError, Opcode, Scan, Scanner, parse_close


class Side(IntEnum):
    """A leg; as an index, and for people."""

    CLIENT = 0
    NODE = 1

    @property
    def other(self) -> Side:
        return Side(1 - self)


Ending = Literal[
    "client_closed",
    "node_closed",
    "client_lost",
    "node_lost",
    "client_error",
    "node_error",
    "shutdown",
    "moved",
    "cancelled",
]
Party = Literal["client", "node", "proxy"]
_PARTY: Final[dict[Ending, Party]] = {
    "client_closed": "client",
    "client_lost": "client",
    "client_error": "client",
    "node_closed": "node",
    "node_lost": "node",
    "node_error": "node",
    "shutdown": "proxy",
    "moved": "proxy",
    "cancelled": "proxy",
}
#: What the other side is told when this one broke the protocol.
_BLAME: Final = {Side.CLIENT: 1011, Side.NODE: 1001}
#: Unanswered pings that are remembered per leg.
MAX_PINGS: Final = 16


@attrs.define
class Leg:
    """How far the conversation with one side has come."""

    #: Codes of the Close received from this side and of the one sent to it; 1005: an empty one.
    received: int | None = None
    sent: int | None = None
    #: How it broke the protocol: what its Close says, whatever else ends the session meanwhile.  No
    #: Close of its own can be understood, none is waited for.
    fault: FrameError | None = None
    #: Nobody is left to say goodbye to.
    gone: bool = False
    #: Bytes to be sent to this side.
    outbox: bytes = b""
    #: Frames of ours that wait for a boundary.
    waiting: bytes = b""
    #: Payloads of our pings that were not answered yet.
    pings: list[bytes] = attrs.field(factory=list)

    @property
    def done(self) -> bool:
        said = self.sent is not None and not self.waiting
        return self.gone or (said and (self.fault is not None or self.received is not None))


class Tunnel:
    """Relay frames between a client and a node.

    `reserved` is the mask of reserved bits that the negotiated extensions may use.
    """

    __slots__ = ("detail", "ending", "legs", "scanners")

    def __init__(self, *, reserved: int = 0) -> None:
        #: What comes from each side.
        self.scanners = (
            Scanner(masked=True, reserved=reserved),
            Scanner(masked=False, reserved=reserved),
        )
        self.legs = (Leg(), Leg())
        #: How the session ended, from the first event that ends it on.
        self.ending: Ending | None = None
        #: What an operator may want to know beyond that.
        self.detail = ""

    @property
    def ended_by(self) -> Party | None:
        return _PARTY[self.ending] if self.ending else None

    @property
    def finished(self) -> bool:
        """Both legs are done."""
        return self.legs[0].done and self.legs[1].done

    def received(self, side: Side, data: bytes) -> None:
        """Take bytes that came from one side; what follows from them is in both outboxes."""
        leg = self.legs[side]
        if leg.gone:
            return
        scan = self.scanners[side].scan(data)
        self._pass_on(side, scan)
        for control in scan.controls:
            if control.opcode == Opcode.CLOSE:
                self._closed(side, control)
        if scan.error is not None:
            self._end("client_error" if side is Side.CLIENT else "node_error", scan.error.reason)
            leg.fault = scan.error
            if side is Side.NODE:
                self._send_close(side, scan.error.code, scan.error.reason)
            self._send_close(side.other, _BLAME[side.other], "")

    def lost(self, side: Side, detail: str = "") -> None:
        """Note that nothing comes from this side any more: end of stream, reset, time-out."""
        if self.legs[side].gone:
            return
        self._cut(side)
        self._end("client_lost" if side is Side.CLIENT else "node_lost", detail)
        other = self.legs[side.other]
        if side is Side.CLIENT or other.waiting:
            self._cut(side.other)
        elif other.received is not None:
            self._send_close(Side.CLIENT, other.received, "")
        else:
            self._send_close(Side.CLIENT, 1011, "node lost")

    def close(self, ending: Ending, client_code: int, node_code: int, reason: str) -> None:
        """End the session from here: a Close to each side, unless it is ending already."""
        if not self.ending:
            self._end(ending, reason)
            self._send_close(Side.CLIENT, client_code, reason)
            self._send_close(Side.NODE, node_code, "")

    def give_up(self) -> None:
        """Say the last word where one is owed: the time for the closing handshakes is over."""
        client = self.legs[Side.CLIENT]
        if client.received is not None or client.fault is not None:
            self._send_close(Side.CLIENT, client.received or NO_STATUS, "")
        for side in Side:
            self._cut(side)

    def ping(self, side: Side, payload: bytes) -> bool:
        """Send a Ping of our own; its Pong will not reach the other side.

        Returns False, and sends nothing, while too many are unanswered or the leg is closing.
        """
        leg = self.legs[side]
        if leg.gone or leg.sent is not None or len(leg.pings) >= MAX_PINGS:
            return False
        leg.pings.append(payload)
        self._inject(side, bytes(_control_frames(side).ping(payload)))
        return True

    def take(self, side: Side) -> bytes:
        """Return the bytes to be sent to this side, and forget them."""
        leg = self.legs[side]
        data, leg.outbox = leg.outbox, b""
        return data

    def _pass_on(self, side: Side, scan: Scan) -> None:
        """Put released bytes in the other side's outbox, with what has waited for a boundary."""
        leg, out = self.legs[side], self.legs[side.other]
        data = scan.data
        if leg.pings or out.fault is not None:
            data = _without([c for c in scan.controls if self._is_kept(leg, out, c)], data)
        if out.waiting and scan.boundary is not None:
            # Control frames come behind the first boundary, so cutting some has not moved it.
            behind = data[scan.boundary :] if out.sent is None else b""
            out.outbox += data[: scan.boundary] + out.waiting + behind
            out.waiting = b""
            self.scanners[side].watched = out.sent is not None
        elif not out.gone and (out.sent is None or out.waiting):
            out.outbox += data

    def _is_kept(self, leg: Leg, out: Leg, control: Control) -> bool:
        """Whether a frame ends here: the pong to our own ping, a Close where a fault's is owed."""
        if control.opcode == Opcode.CLOSE:
            return out.fault is not None
        if control.opcode != Opcode.PONG or control.payload not in leg.pings:
            return False
        # A pong answers all pings up to its own (RFC 6455 section 5.5.3).
        del leg.pings[: leg.pings.index(control.payload) + 1]
        return True

    def _closed(self, side: Side, control: Control) -> None:
        """Note a Close that came from this side and, if one still could, went to the other."""
        leg, other = self.legs[side], self.legs[side.other]
        leg.received, reason = parse_close(control.payload)
        self._end("client_closed" if side is Side.CLIENT else "node_closed", reason)
        if other.fault is not None:
            self._send_close(side.other, leg.received, "")
        elif other.sent is None and not other.gone:
            other.sent = leg.received
            self.scanners[side].watched = True
        if side is Side.NODE and leg.waiting:
            self._cut(side)
        elif side is Side.NODE or other.gone:
            self._send_close(side, leg.received, "")

    def _send_close(self, side: Side, code: int, reason: str) -> None:
        """Send a Close to this side once; where it would wait for ever or too long, hang up."""
        leg, source = self.legs[side], self.legs[side.other]
        if leg.gone or leg.sent is not None:
            return
        if leg.fault is not None:
            code, reason = leg.fault.code, leg.fault.reason
        frame = _control_frames(side).close(None if code == NO_STATUS else code, reason)
        self._inject(side, bytes(frame))
        if leg.waiting and (source.gone or (side is Side.NODE and leg.received is not None)):
            self._cut(side)
        else:
            leg.sent = code
            self.scanners[side.other].watched = True

    def _inject(self, side: Side, frame: bytes) -> None:
        """Put a frame in this side's outbox, or let it wait for a boundary."""
        leg, source = self.legs[side], self.scanners[side.other]
        if source.left:
            leg.waiting += frame
            source.watched = True
        else:
            leg.outbox += frame

    def _cut(self, side: Side) -> None:
        """Send nothing more to this side, and let `plain` let nothing through to it."""
        leg = self.legs[side]
        leg.gone = True
        leg.waiting = b""
        self.scanners[side.other].watched = True

    def _end(self, ending: Ending, detail: str) -> None:
        if self.ending is None:
            self.ending = ending
            self.detail = detail


def _without(controls: list[Control], data: bytes) -> bytes:
    """Cut control frames out of released bytes."""
    pieces = []
    position = 0
    for control in controls:
        pieces.append(data[position : control.start])
        position = control.end
    return b"".join([*pieces, data[position:]])


@functools.cache
def _control_frames(side: Side) -> FrameProtocol:
    """wsproto's builder of frames towards a side: masked towards a node, as a client's."""
    return FrameProtocol(client=side is Side.NODE, extensions=[])
