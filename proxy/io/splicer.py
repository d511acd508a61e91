"""The splicer: all sessions' frames moved by one task, without a task switch per message.

Theory.  Two Trio tasks per session cost a wake-up of the scheduler for every message: 40 to 50 µs,
four to five times what nginx needs.  An epoll descriptor is itself pollable, so here one task waits
for one epoll that holds both legs of every session, and then moves bytes for all legs that are
ready, in a plain loop.  The wait is a checkpoint: accepts, timers and cancellation run between the
batches.

A session stays a Trio task nevertheless: `Splice.run` parks it until its tunnel is finished, and
cancelling it takes both legs out of the epoll.  So a session's end is an ordinary return, in the
task that holds its lease and writes its record.

Per leg, epoll is asked for what can be acted on (level-triggered: one `recv` per event is enough,
and what is left makes the next event).  A leg is read while the other leg's backlog is empty, and
watched for room while its own is not.  That is the whole of backpressure: a session holds at most
one `recv` worth of bytes and the frames injected meanwhile, per direction.

A batch is read first and sent then.  To send is two thirds of what a message costs, and the more so
if it wakes the other end: sent one by one, each message finds its receiver asleep again, which has
just dealt with the one before; sent in a row, they find it awake.  Large messages are not kept
until then: their copies would cost more.
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import trio

from proxy.wire.tunnel import Side

from .transport import BUFFER, SocketTransport

if TYPE_CHECKING:
    from .splice import Splice


class Watched(Protocol):
    """A connection in the epoll, and what is to be done when it is ready."""

    transport: SocketTransport
    #: What epoll is asked for.
    events: int

    def ready(self, events: int) -> None: ...


class Sender(Protocol):
    """Who has put something aside."""

    def push(self) -> None:
        """Send it; what goes wrong is the sender's own matter."""


#: How many messages are moved before others have their turn, and how many of epoll's events are
#: asked for at a time.
_BATCH: Final = 256
_AT_ONCE: Final = 64
#: Up to which size messages are sent in a row at a batch's end: with `_AT_ONCE` this bounds what is
#: held until then.
_SMALL: Final = 2048
#: How many are put aside at most while each takes more than to pass on a message.
_ROW: Final = 16
IN: Final = getattr(select, "EPOLLIN", 0)
OUT: Final = getattr(select, "EPOLLOUT", 0)
#: Where every `recv` goes; between that and its use there is no `await`.
_BYTES: Final = bytearray(BUFFER)
_VIEW: Final = memoryview(_BYTES)


class Splicer:
    """The epoll of all sessions, and the task that serves it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.legs: dict[int, Watched] = {}
        #: What may still be done in this turn; what costs more than a message takes more of it.
        self.left = 0
        #: Those that have something of this batch to send.
        self.unsent: list[Sender] = []
        #: Those that have something to read which makes no event: TLS has it already.
        self.unread: list[SplicedLeg] = []

    async def run(self) -> None:
        """Move bytes until cancelled; sessions that are still here then must be cancelled too."""
        legs = self.legs
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.turn()
        finally:
            for leg in legs.values():
                leg.events = 0
            legs.clear()
            self._epoll.close()

    def turn(self) -> None:
        """Move what has come.  Whoever has long work to do may call it in between."""
        poll, legs = self._epoll.poll, self.legs
        self.left = _BATCH
        # What has come meanwhile is taken along: a way through Trio costs several messages.
        while self.left > 0 and (ready := poll(0, _AT_ONCE)):
            self.left -= len(ready)
            for fd, events in ready:
                # A leg may have gone since, with its session, in another leg's turn.
                if leg := legs.get(fd):
                    leg.ready(events)
            self.flush()

    def flush(self) -> None:
        """Send what was put aside, and read what makes no event, until there is neither.

        That has an end, for nothing is read from the network here; the turn is shorter by it.
        """
        while True:
            for sender in self.unsent:
                sender.push()
            self.unsent.clear()
            if not self.unread:
                return
            leg = self.unread.pop()
            # It may have gone since, or must wait until the other one takes something.
            if leg.events & IN:
                self.left -= 1
                leg.ready(IN)

    def spend(self, weight: int) -> None:
        """Make a turn shorter by what was done, and send what was put aside if that is a row."""
        self.left -= weight
        if len(self.unsent) >= _ROW:
            self.flush()

    def forget(self, leg: SplicedLeg) -> None:
        """Drop a leg whose session is over, should it still have something to send or to read."""
        for due in (self.unsent, self.unread):
            while leg in due:
                due.remove(leg)

    def watch(self, leg: Watched, events: int) -> None:
        """Ask for just these events of a leg; none takes it out."""
        if leg.events == events:
            return
        fd = leg.transport.sock.fileno()
        if not leg.events:
            self._epoll.register(fd, events)
            self.legs[fd] = leg
        elif not events:
            # Even with no events asked for, epoll would go on about a broken connection.
            del self.legs[fd]
            with suppress(OSError):
                self._epoll.unregister(fd)
        else:
            self._epoll.modify(fd, events)
        leg.events = events


class SplicedLeg:
    """One side of a session, as the splicer sees it."""

    __slots__ = ("_unsent", "events", "paused", "peer", "plain", "side", "splice", "transport")

    peer: SplicedLeg
    splice: Splice

    def __init__(
        self, splice: Splice, side: Side, transport: SocketTransport, unsent: list[Sender]
    ) -> None:
        self.splice = splice
        self.side = side
        self.transport = transport
        self.plain = splice.tunnel.scanners[side].plain
        self._unsent = unsent
        #: What epoll is asked for.
        self.events = 0
        #: It has sent too fast.
        self.paused = False

    def ready(self, events: int) -> None:
        """Do what can be done; a bug here ends this session, not the others."""
        try:
            if events == IN == self.events:
                self.read()
                return
            # An error or a hang-up is found by doing what was waited for.
            if events & ~IN and self.events & OUT:
                self._flush()
            if events & ~OUT and self.events & IN:
                self.read()
        except Exception as exc:
            self.splice.fail(exc)

    def read(self, view: memoryview = _VIEW) -> None:
        """Receive once and pass on what that brought."""
        # This is where the CPU's time goes: nearly always the first six lines are all of it.
        broken = self
        try:
            size = self.transport.recv_into(view)
            if size and self.plain(_BYTES, size):
                broken = self.peer
                if size <= _SMALL:
                    broken.transport.put(_VIEW[:size])
                    self._unsent.append(broken)
                elif not broken.transport.send(_VIEW[:size]):
                    self.splice.rearm()
                return
        except BlockingIOError:
            return
        except OSError as exc:
            if broken is self:
                self.splice.lost(self, str(exc))
            else:
                self.splice.unsendable(broken, str(exc))
            return
        if size:
            self.splice.received(self, bytes(_VIEW[:size]))
        else:
            self.splice.lost(self, "end of stream", clean=True)

    def push(self) -> None:
        """Send what was put aside; a bug here ends this session, not the others."""
        try:
            try:
                if not self.transport.push():
                    self.splice.rearm()
            except OSError as exc:
                self.splice.unsendable(self, str(exc))
        except Exception as exc:
            self.splice.fail(exc)

    def _flush(self) -> None:
        try:
            self.transport.flush()
        except OSError as exc:
            self.splice.lost(self, str(exc))
        else:
            self.splice.settle()


class MeteredLeg(SplicedLeg):
    """A client whose pace is looked at with each read; all others pay nothing for that."""

    __slots__ = ()

    def read(self, view: memoryview = _VIEW) -> None:
        super().read(view[: self.splice.terms.chunk])
        self.splice.meter(self)
