"""One session in the splicer: its task, parked, and what follows from its tunnel's state."""

from __future__ import annotations

import math
from contextlib import suppress

import outcome
import trio

from proxy.wire.liveness import LegView
from proxy.wire.tunnel import Side, Tunnel

from .relay import Relay
from .splicer import IN, OUT, MeteredLeg, SplicedLeg, Splicer
from .terms import Terms
from .timers import Timers
from .transport import SocketTransport


class Splice(Relay):
    """Relay a session in the splicer."""

    __slots__ = ("_is_draining", "_is_ending", "_legs", "_result", "_resume", "_splicer", "_task")

    def __init__(
        self,
        splicer: Splicer,
        client: SocketTransport,
        node: SocketTransport,
        tunnel: Tunnel,
        terms: Terms,
        timers: Timers,
        *,
        stagger: float = 1.0,
    ) -> None:
        super().__init__(tunnel, terms, timers, stagger=stagger)
        self._splicer = splicer
        kind = MeteredLeg if terms.meter else SplicedLeg
        unsent = splicer.unsent
        self._legs = (
            kind(self, Side.CLIENT, client, unsent),
            SplicedLeg(self, Side.NODE, node, unsent),
        )
        self._resume = timers.timer(self._go_on) if terms.meter else None
        self._legs[0].peer, self._legs[1].peer = self._legs[1], self._legs[0]
        #: The session's task while it is parked.
        self._task: trio.lowlevel.Task | None = None
        self._result: outcome.Outcome[None] | None = None
        self._is_ending = False
        self._is_draining = False

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        try:
            self._start(early)
            # Nearly all sessions are here nearly all the time: a cancel scope would weigh more
            # than all else that a parked session has.
            while not (self.tunnel.ending or self._result):
                await self._park()
            with trio.move_on_after(self.terms.close_timeout):
                while not self._result:
                    await self._park()
            if self._result is None:
                self.tunnel.give_up()
                self._send_outboxes()
            else:
                self._result.unwrap()
        finally:
            self._detach()
            self._timer.cancel()
            if self._resume is not None:
                self._resume.cancel()
            # Else each session would be a cycle, for the garbage collector to find.
            for leg in self._legs:
                self._splicer.forget(leg)
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
        try:
            for leg in self._legs:
                if early[leg.side]:
                    self._receive(leg.side, early[leg.side])
            # It may have a ping to send.
            self._timer.hasten(self._check())
            self.settle()
            if self._meter is not None:
                self.meter(self._legs[Side.CLIENT])
            self._splicer.flush()
        except Exception as exc:
            self.fail(exc)

    def received(self, leg: SplicedLeg, data: bytes) -> None:
        """Take bytes that are not plain data frames."""
        self._receive(leg.side, data)
        self.settle()

    def lost(self, leg: SplicedLeg, detail: str, *, clean: bool = False) -> None:
        """Take notice that a leg's connection is over; `clean`: that nothing more comes from it."""
        self._lost(leg.side, detail, clean=clean)
        self.settle()

    def unsendable(self, leg: SplicedLeg, detail: str) -> None:
        """Take notice that a leg takes nothing more; its last words, if there are any, come first.

        Whoever has said goodbye and hung up may have been sent something meanwhile.
        """
        if not self._is_draining:
            self._is_draining = True
            pending, seen = False, -1
            while leg.events & IN and (pending or seen != self.tunnel.scanners[leg.side].bytes):
                pending, seen = leg.transport.pending, self.tunnel.scanners[leg.side].bytes
                leg.read()
                # Else a paced client's small pieces would heap up.
                if leg.peer.transport.backlog:
                    leg.peer.push()
            self._is_draining = False
        if self._result is None:
            self.lost(leg, detail)

    def fail(self, exc: Exception) -> None:
        """End with a bug's exception, in the session's own task."""
        if self._result is None:
            # It may be the tunnel itself that is broken.
            with suppress(Exception):
                self.tunnel.close("bug", 1011, 1001, "")
                self._send_outboxes()
            self._end(outcome.Error(exc))

    def meter(self, leg: SplicedLeg) -> None:
        """See whether the client keeps its pace, and read no more of it until it does."""
        if self._result is not None or self._is_draining:
            return
        if pause := self._pause():
            leg.paused = True
            # What was put aside would, as a backlog, have epoll asked to tell when there is room.
            leg.peer.push()
            if self._result is None:
                self.rearm()
                assert self._resume is not None
                self._resume.hasten(trio.current_time() + pause)
        elif self.tunnel.ending and not self._is_ending:
            self.settle()
        elif leg.transport.pending:
            self._splicer.unread.append(leg)

    def _go_on(self) -> float:
        self._legs[Side.CLIENT].paused = False
        self._wake()
        return math.inf

    def held(self, side: Side) -> int:
        return len(self._legs[side].transport.backlog) + len(self.tunnel.legs[side].outbox)

    def view(self, side: Side) -> LegView:
        leg = self._legs[side]
        if not leg.transport.backlog:
            return LegView(reads=bool(leg.events & IN))
        passed = self.tunnel.scanners[side.other].bytes
        return LegView(bool(leg.events & IN), (passed, *leg.transport.queued()))

    def rearm(self) -> None:
        """Ask epoll for what can be acted on now."""
        for leg in self._legs:
            state = self.tunnel.legs[leg.side]
            events = 0
            if not state.gone:
                held = leg.peer.transport.backlog or state.done or state.ended or state.deaf
                if not held and (not leg.paused or self.tunnel.ending):
                    events = IN
                    if not leg.events & IN and leg.transport.pending:
                        self._splicer.unread.append(leg)
                if leg.transport.backlog:
                    events |= OUT
                    if not leg.events & OUT:
                        self._timer.hasten(self.liveness.blocked(trio.current_time()))
            self._splicer.watch(leg, events)

    def _wake(self) -> None:
        if self._result is None and self._task is not None:
            try:
                self.settle()
                # It may be read again, what was read before may be left of it.
                self._splicer.flush()
            except Exception as exc:
                self.fail(exc)

    def settle(self) -> None:
        """Follow the tunnel's state: what it has to send, what to wait for, the end."""
        self._send_outboxes()
        client, node = self._legs
        for leg in self._legs:
            state = self.tunnel.legs[leg.side]
            if state.abort:
                self._splicer.watch(leg, 0)
                leg.transport.abort()
            elif state.finish and not leg.transport.backlog:
                leg.transport.say_eof()
        if self.tunnel.legs[Side.NODE].done:
            # At once, whether all went out or not: a deepstream node that shuts down waits for it.
            self._splicer.watch(node, 0)
            node.transport.part()
        # Only now: what waited for a leg that is over holds up the other one no more.
        self.rearm()
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
            # Before a goodbye; else it is sent where a failure leaves time for the last words.
            over = self.tunnel.ending or self.tunnel.legs[leg.side].finish
            put_aside = over and leg.transport.backlog and not leg.events & OUT
            if (data := self.tunnel.take(leg.side)) or put_aside:
                try:
                    leg.transport.send(data)
                except OSError as exc:
                    self.tunnel.lost(leg.side, str(exc))

    def _end(self, result: outcome.Outcome[None]) -> None:
        if self._result is None:
            self._result = result
            try:
                self._note_ending()
            except Exception as exc:
                self._result = outcome.Error(exc)
            self._detach()
            self._unpark()

    def _detach(self) -> None:
        for leg in self._legs:
            if leg.events:
                self._splicer.watch(leg, 0)
        self._legs[Side.NODE].transport.part()
