"""A session's two legs as one state machine: bytes in, bytes out, an outbox per side.

Theory.  Frames that come from one leg go out on the other.  Three things may join them: a Close or
a Ping of our own, and the answer to a node's Close; all of them only at a frame boundary of the
stream they join.  If that stream is within a frame, a Close waits for its end, and a Ping is not
sent at all: there will be another time for it.

Each leg has a closing handshake of its own, and each is ours to finish (RFC 6455 section 7.1):
  - A Close from the client goes to the node verbatim; the node's answer comes back verbatim.
  - A Close from the node goes to the client verbatim, is answered here at once, and the node's
    connection is then closed at once: a deepstream node that shuts down waits up to 30 s for the
    slowest peer, cut off from its cluster all the while.
  - Whoever vanishes without a Close: a client is told 1011; a node just loses its connection.  A
    side that has sent its Close may well end its stream: it still gets the answer.
  - Whoever breaks a rule is told so; the other side leaves with 1001, or 1011 for a node's fault.
    A client, in the place of the node's answer: what the node has to say to the frames before the
    bad one still arrives.
  - `close` ends both legs with codes of our own (drain, shutdown, silence, stalls).
On a leg that was sent a Close nothing more is sent; a leg is *done* when Closes went both ways on
it, or when there is nobody left to say goodbye to.  `finished` means both are.  If a stream is cut
within a frame, no Close can be sent on it: that leg is done as well, and its peer sees 1006, which
is the truth.

`Scanner.plain` may be used in front of `received`: what it lets through goes out as it came.
"""

from __future__ import annotations

import functools
from enum import IntEnum
from typing import Final

import attrs
from wsproto.frame_protocol import FrameProtocol

from .closing import NO_STATUS, Ending, FrameError, Party, parse_close, party
from .frames import Control, Scan, Scanner
from .rules import STRICT, Opcode, Rules


class Side(IntEnum):
    """A leg; as an index, and for people."""

    CLIENT = 0
    NODE = 1

    @property
    def other(self) -> Side:
        return Side(1 - self)


#: What the other side is told when this one broke a rule: of the protocol, or a limit.
_BLAME: Final = {Side.CLIENT: 1011, Side.NODE: 1001}
_LIMIT_CODES: Final = (1008, 1009)


@attrs.define
class Leg:
    """How far the conversation with one side has come."""

    #: Codes of the Close received from this side and of the one sent to it; 1005: an empty one.
    received: int | None = None
    sent: int | None = None
    #: No Close of its is waited for: it broke a rule, or has gone silent.
    deaf: bool = False
    #: The rule that a client broke: what its Close will say, whatever else happens meanwhile.
    fault: FrameError | None = None
    #: Its stream has ended behind its Close; it may still be sent to.
    ended: bool = False
    #: Nobody is left to say goodbye to.
    gone: bool = False
    #: Its connection is to be reset, not ended.
    abort: bool = False
    #: Nothing more will be sent to it, which its stream's end should say.
    finish: bool = False
    #: Bytes to be sent to this side.
    outbox: bytes = b""
    #: A Close of ours that waits for a boundary.
    waiting: bytes = b""
    #: The payload of our ping that was not answered yet.
    ping: bytes = b""

    @property
    def done(self) -> bool:
        said = self.sent is not None and not self.waiting
        return self.gone or (said and (self.deaf or self.received is not None))


class Tunnel:
    """Relay frames between a client and a node.

    `reserved` is the mask of reserved bits that the negotiated extensions may use; `rules` are for
    what comes from the client, and from the node.
    """

    __slots__ = ("_lenient", "detail", "ending", "legs", "scanners")

    def __init__(self, *, reserved: int = 0, rules: tuple[Rules, Rules] = (STRICT, STRICT)) -> None:
        #: What comes from each side.
        self.scanners = (
            Scanner(masked=True, reserved=reserved, rules=rules[0]),
            Scanner(masked=False, reserved=reserved, rules=rules[1]),
        )
        self._lenient = rules[0].lenient
        self.legs = (Leg(), Leg())
        #: How the session ended, from the first event that ends it on.
        self.ending: Ending | None = None
        #: What an operator may want to know beyond that.
        self.detail = ""

    @property
    def ended_by(self) -> Party | None:
        return party(self.ending) if self.ending else None

    @property
    def finished(self) -> bool:
        """Both legs are done."""
        return self.legs[0].done and self.legs[1].done

    def received(self, side: Side, data: bytes) -> None:
        """Take bytes that came from one side; what follows from them is in both outboxes."""
        leg = self.legs[side]
        if leg.gone or leg.ended:
            return
        scan = self.scanners[side].scan(data)
        self._pass_on(side, scan)
        for control in scan.controls:
            if control.opcode == Opcode.CLOSE:
                self._closed(side, control)
        if scan.error is not None:
            self.offend(side, scan.error)

    def offend(self, side: Side, error: FrameError) -> None:
        """End the session for a rule or a limit that this side did not keep."""
        limit = error.code in _LIMIT_CODES
        if side is Side.CLIENT:
            self._end("client_limit" if limit else "client_error", error.reason)
        else:
            self._end("node_limit" if limit else "node_error", error.reason)
        # Nothing that it says is understood any more.
        self.scanners[side].stopped = self.scanners[side].watched = True
        self.legs[side].deaf = True
        self.legs[side].fault = error
        if self.legs[side.other].waiting:
            # For the end of a frame that will not come.
            self._cut(side.other)
        self._send_close(side.other, 1001 if limit else _BLAME[side.other], "")
        if side is Side.NODE or self.legs[Side.NODE].gone:
            self._send_close(side, error.code, error.reason)

    def lost(self, side: Side, detail: str = "", *, clean: bool = False) -> None:
        """Note that nothing comes from this side any more: end of stream, reset, time-out.

        A `clean` end leaves the way to it open.
        """
        leg, other = self.legs[side], self.legs[side.other]
        if leg.gone or (clean and leg.ended):
            return
        if clean and leg.received is not None:
            leg.ended = True
            return
        self._cut(side)
        self._end("client_lost" if side is Side.CLIENT else "node_lost", detail)
        if side is Side.CLIENT or other.waiting:
            self._cut(side.other)
        elif other.received is not None:
            self._send_close(Side.CLIENT, other.received, "")
        else:
            self._send_close(Side.CLIENT, 1011, "node lost")

    def close(
        self, ending: Ending, client_code: int, node_code: int, reason: str, *, abort: bool = False
    ) -> None:
        """End the session from here: a Close to each side, unless it is ending already.

        If it ends because one side is silent, or stalled, that one's answer is not waited for; with
        `abort` it is not even told.
        """
        if self.ending:
            return
        self._end(ending, reason)
        for side in Side:
            if self.ended_by == side.name.lower():
                self.legs[side].deaf = True
                if abort:
                    self.legs[side].abort = True
                    self._cut(side)
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

        Returns False, and sends nothing, while one is unanswered, within a frame, or at the end.
        """
        leg, source = self.legs[side], self.scanners[side.other]
        if leg.gone or leg.sent is not None or leg.ping or source.left:
            return False
        leg.ping = payload
        leg.outbox += bytes(_control_frames(side).ping(payload))
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
        if scan.controls and (leg.ping or out.fault or self._lenient):
            data = _without([c for c in scan.controls if self._stays_here(leg, out, c)], data)
        if out.waiting and scan.boundary is not None:
            # Control frames come behind the first boundary, so cutting some has not moved it.
            out.outbox += data[: scan.boundary] + out.waiting
            out.waiting = b""
        elif not out.gone and (out.sent is None or out.waiting):
            out.outbox += data

    def _stays_here(self, leg: Leg, out: Leg, control: Control) -> bool:
        """Whether a frame goes no further.

        That is the answer to our own ping, and a Close that nobody may send, or in whose place
        another one is owed.
        """
        if control.opcode == Opcode.PONG and leg.ping and control.payload == leg.ping:
            leg.ping = b""
            return True
        if control.opcode != Opcode.CLOSE or out.fault is not None:
            return control.opcode == Opcode.CLOSE
        return bool(control.payload) and parse_close(control.payload, lenient=True)[0] == NO_STATUS

    def _closed(self, side: Side, control: Control) -> None:
        """Note a Close that came from this side and, if one still could, went to the other."""
        leg, other = self.legs[side], self.legs[side.other]
        leg.received, reason = parse_close(control.payload, lenient=self._lenient)
        self._end("client_closed" if side is Side.CLIENT else "node_closed", reason)
        if other.fault is not None:
            self._send_close(side.other, leg.received, "")
        elif other.sent is None and not other.gone:
            other.sent = leg.received
            self.scanners[side].watched = True
            if leg.received == NO_STATUS and control.payload:
                # Its own stays here.
                other.outbox += bytes(_control_frames(side.other).close(None))
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
        frame = bytes(_control_frames(side).close(None if code == NO_STATUS else code, reason))
        if not self.scanners[side.other].left:
            leg.outbox += frame
        elif source.gone or source.deaf or (side is Side.NODE and leg.received is not None):
            # The boundary would not come, or not be worth the wait.
            self._cut(side)
            return
        else:
            leg.waiting = frame
        leg.sent = code
        self.scanners[side.other].watched = True

    def _cut(self, side: Side) -> None:
        """Send nothing more to this side, and let `plain` let nothing through to it."""
        leg = self.legs[side]
        leg.gone = True
        if leg.waiting:
            leg.waiting, leg.sent = b"", None
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
