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
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Final

import outcome
import trio

from proxy.wire.tunnel import Side, Tunnel

from .relay import Relay
from .transport import BUFFER, SocketTransport

_BATCH: Final = 256
_IN: Final = getattr(select, "EPOLLIN", 0)
_OUT: Final = getattr(select, "EPOLLOUT", 0)
#: Where every `recv` goes; between that and its use there is no `await`.
_BYTES: Final = bytearray(BUFFER)
_VIEW: Final = memoryview(_BYTES)


class Splicer:
    """The epoll of all sessions, and the task that serves it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.legs: dict[int, SplicedLeg] = {}

    async def run(self) -> None:
        """Move bytes until cancelled; sessions that are still here then must be cancelled too."""
        poll, legs = self._epoll.poll, self.legs
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                left = _BATCH
                # What has come meanwhile is taken along: a way through Trio costs several messages.
                while left > 0 and (ready := poll(0, left)):
                    left -= len(ready)
                    for fd, events in ready:
                        # A leg may have gone since, with its session, in another leg's turn.
                        if leg := legs.get(fd):
                            leg.ready(events)
        finally:
            for leg in legs.values():
                leg.events = 0
            legs.clear()
            self._epoll.close()

    def splice(
        self,
        client: SocketTransport,
        node: SocketTransport,
        tunnel: Tunnel,
        *,
        close_timeout: float,
    ) -> Splice:
        """Return a relay for a session, which is not run yet."""
        return Splice(self, client, node, tunnel, close_timeout=close_timeout)

    def watch(self, leg: SplicedLeg, events: int) -> None:
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

    __slots__ = ("events", "peer", "plain", "side", "splice", "transport")

    peer: SplicedLeg
    splice: Splice

    def __init__(self, splice: Splice, side: Side, transport: SocketTransport) -> None:
        self.splice = splice
        self.side = side
        self.transport = transport
        self.plain = splice.tunnel.scanners[side].plain
        #: What epoll is asked for.
        self.events = 0

    def ready(self, events: int) -> None:
        """Do what can be done; a bug here ends this session, not the others."""
        try:
            if events == _IN == self.events:
                self.read()
                return
            # An error or a hang-up is found by doing what was waited for.
            if events & ~_IN and self.events & _OUT:
                self._flush()
            if events & ~_OUT and self.events & _IN:
                self.read()
        except Exception as exc:
            self.splice.fail(exc)

    def read(self) -> None:
        """Receive once and pass on what that brought."""
        # This is where the CPU's time goes: nearly always the first four lines are all of it.
        broken = self
        try:
            size = self.transport.recv_into(_VIEW)
            if size and self.plain(_BYTES, size):
                broken = self.peer
                if not broken.transport.send(_VIEW[:size]):
                    self.splice.rearm()
                return
        except BlockingIOError:
            return
        except OSError as exc:
            self.splice.lost(broken, str(exc))
            return
        if size:
            self.splice.received(self, bytes(_VIEW[:size]))
        else:
            self.splice.lost(self, "end of stream")

    def _flush(self) -> None:
        try:
            self.transport.flush()
        except OSError as exc:
            self.splice.lost(self, str(exc))
        else:
            self.splice.settle()


class Splice(Relay):
    """Relay a session in the splicer."""

    __slots__ = ("_is_ending", "_legs", "_result", "_splicer", "_task")

    def __init__(
        self,
        splicer: Splicer,
        client: SocketTransport,
        node: SocketTransport,
        tunnel: Tunnel,
        *,
        close_timeout: float,
    ) -> None:
        super().__init__(tunnel, close_timeout=close_timeout)
        self._splicer = splicer
        self._legs = (
            SplicedLeg(self, Side.CLIENT, client),
            SplicedLeg(self, Side.NODE, node),
        )
        self._legs[0].peer, self._legs[1].peer = self._legs[1], self._legs[0]
        #: The session's task while it is parked.
        self._task: trio.lowlevel.Task | None = None
        self._result: outcome.Outcome[None] | None = None
        self._is_ending = False

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        try:
            self._start(early)
            # Nearly all sessions are here nearly all the time: a cancel scope would weigh more
            # than all else that a parked session has.
            while not (self.tunnel.ending or self._result):
                await self._park()
            with trio.move_on_after(self._close_timeout):
                while not self._result:
                    await self._park()
            if self._result is None:
                self.tunnel.give_up()
                self._send_outboxes()
            else:
                self._result.unwrap()
        finally:
            self._detach()
            # Else each session would be a cycle, for the garbage collector to find.
            for leg in self._legs:
                del leg.peer, leg.splice

    async def _park(self) -> None:
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _unpark(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _start(self, early: tuple[bytes, bytes]) -> None:
        for leg in self._legs:
            if early[leg.side]:
                self.tunnel.received(leg.side, early[leg.side])
        self.settle()
        for leg in self._legs:
            # Bytes that TLS has decrypted already make no event.
            while self._result is None and leg.transport.pending and leg.events & _IN:
                leg.read()

    def received(self, leg: SplicedLeg, data: bytes) -> None:
        """Take bytes that are not plain data frames."""
        self.tunnel.received(leg.side, data)
        self.settle()

    def lost(self, leg: SplicedLeg, detail: str) -> None:
        """Take notice that a leg's connection is over."""
        self.tunnel.lost(leg.side, detail)
        self.settle()

    def fail(self, exc: Exception) -> None:
        """End with a bug's exception, in the session's own task."""
        self._end(outcome.Error(exc))

    def rearm(self) -> None:
        """Ask epoll for what can be acted on now."""
        for leg in self._legs:
            state = self.tunnel.legs[leg.side]
            events = 0
            if not state.gone:
                if not leg.peer.transport.backlog and not state.done:
                    events = _IN
                if leg.transport.backlog:
                    events |= _OUT
            self._splicer.watch(leg, events)

    def _wake(self) -> None:
        if self._result is None and self._task is not None:
            self.settle()

    def settle(self) -> None:
        """Follow the tunnel's state: what it has to send, what to wait for, the end."""
        self._send_outboxes()
        self.rearm()
        client, node = self._legs
        if self.tunnel.legs[Side.NODE].done:
            # At once, whether all went out or not: a deepstream node that shuts down waits for it.
            self._splicer.watch(node, 0)
            node.transport.close()
        if self.tunnel.finished and not (
            client.transport.backlog and not self.tunnel.legs[Side.CLIENT].gone
        ):
            self._end(outcome.Value(None))
        elif self.tunnel.ending and not self._is_ending:
            # The task has a clock to set.
            self._note_ending()
            self._unpark()

    def _note_ending(self) -> None:
        if self.tunnel.ending and not self._is_ending:
            self._is_ending = True
            if self.on_ending is not None:
                self.on_ending()

    def _send_outboxes(self) -> None:
        # To fail on one side may be to have something to say to the other.
        for leg in (*self._legs, self._legs[0]):
            if data := self.tunnel.take(leg.side):
                try:
                    leg.transport.send(data)
                except OSError as exc:
                    self.tunnel.lost(leg.side, str(exc))

    def _end(self, result: outcome.Outcome[None]) -> None:
        if self._result is None:
            self._result = result
            self._note_ending()
            self._detach()
            self._unpark()

    def _detach(self) -> None:
        for leg in self._legs:
            if leg.events:
                self._splicer.watch(leg, 0)
        self._legs[Side.NODE].transport.close()
