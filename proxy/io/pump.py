"""The portable relay: a task per direction, over any two streams.

It relays where there is no epoll, and over streams that are no sockets: memory streams, in tests
and for injected faults.  Backpressure is the `await` of a pump that sends: it reads again when the
other side has taken everything.
"""

from __future__ import annotations

import math
from contextlib import suppress

import trio

from proxy.wire.liveness import LegView
from proxy.wire.tunnel import Side, Tunnel

from .relay import Relay
from .terms import Terms
from .timers import Timers
from .transport import SocketTransport

#: The last word to a side that may have stopped reading.
_LAST_WORD = 1.0


class PumpRelay(Relay):
    """Relay a session with two tasks."""

    def __init__(
        self,
        client: trio.abc.Stream,
        node: trio.abc.Stream,
        tunnel: Tunnel,
        terms: Terms,
        timers: Timers,
        *,
        stagger: float = 1.0,
    ) -> None:
        super().__init__(tunnel, terms, timers, stagger=stagger)
        # Its deadline is set by the first event that ends the session.
        self._closing = trio.CancelScope()
        self._streams = (client, node)
        # Bytes leave the tunnel's outbox under the lock of the stream they go to: in their order.
        self._locks = (trio.Lock(), trio.Lock())
        # Being sent to.  A send that was cancelled has sent nobody knows how much.
        self._torn = [False, False]
        # How many bytes are being sent.
        self._sending = [0, 0]
        # The pump that reads from a side is waiting for just that.
        self._reading = [False, False]
        self._ending = trio.Event()
        self._woken = trio.Event()
        self._finished = trio.Event()

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        try:
            for side in Side:
                if early[side]:
                    self._receive(side, early[side])
            self._timer.hasten(self._check())
            with self._closing:
                await self._relay()
            if not self.tunnel.finished:
                self.tunnel.give_up()
                await self._say_last_word()
        except Exception:
            self.tunnel.close("bug", 1011, 1001, "")
            self._start_clock()
            await self._say_last_word()
            raise
        finally:
            self._timer.cancel()
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()
                await self._part(Side.NODE)

    async def _relay(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, Side.CLIENT, name="client to node")
            nursery.start_soon(self._pump, Side.NODE, name="node to client")
            nursery.start_soon(self._act_when_woken, nursery)
            self._wake()
            await self._finished.wait()
            for side in Side:
                await self._flush(side)
            nursery.cancel_scope.cancel()

    async def _say_last_word(self) -> None:
        with trio.move_on_after(_LAST_WORD):
            for side in Side:
                await self._flush(side)

    async def _part(self, side: Side) -> None:
        """Hang up on a side: with a goodbye, or with a reset if the tunnel says so."""
        stream, abort = self._streams[side], self.tunnel.legs[side].abort
        if isinstance(stream, SocketTransport):
            (stream.abort if abort else stream.part)()
        if abort:
            await trio.aclose_forcefully(stream)
        else:
            await stream.aclose()

    def _wake(self) -> None:
        self._start_clock()
        self._woken.set()

    def _start_clock(self) -> None:
        """Once the session is ending, give it `close_timeout` for that."""
        if self.tunnel.ending and self._closing.deadline == math.inf:
            self._closing.deadline = trio.current_time() + self.terms.close_timeout
            self._ending.set()
            if self.on_ending is not None:
                self.on_ending()

    async def _pump(self, side: Side) -> None:
        leg = self.tunnel.legs[side]
        metered = side is Side.CLIENT and self._meter is not None
        if metered:
            # There may be early bytes.
            await self._keep_pace()
        while not (leg.done or leg.ended or leg.deaf):
            await self._read(side)
            if leg.outbox:
                # Nobody is read less because somebody else does not read.
                self._woken.set()
            await self._act(side.other)
            if metered:
                await self._keep_pace()

    async def _keep_pace(self) -> None:
        """Wait until the client may be read again, or until the end."""
        if pause := self._pause():
            with trio.move_on_after(pause):
                await self._ending.wait()
        elif self.tunnel.ending:
            self._wake()

    async def _read(self, side: Side) -> None:
        self._reading[side] = True
        try:
            limit = self.terms.chunk if side is Side.CLIENT and self._meter else None
            data = bytes(await self._streams[side].receive_some(limit))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.tunnel.lost(side, str(exc))
            return
        finally:
            self._reading[side] = False
        if data:
            await self._received(side, data)
        else:
            self._lost(side, "end of stream", clean=True)

    def held(self, side: Side) -> int:
        return self._sending[side] + len(self.tunnel.legs[side].outbox)

    def view(self, side: Side) -> LegView:
        if not self._torn[side]:
            return LegView(self._reading[side])
        stream = self._streams[side]
        queued = stream.queued() if isinstance(stream, SocketTransport) else ()
        passed = self.tunnel.scanners[side.other].bytes
        return LegView(self._reading[side], (passed, *queued))

    async def _received(self, side: Side, data: bytes) -> None:
        self._receive(side, data)

    async def _act_when_woken(self, nursery: trio.Nursery) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            await self._reset()
            for side in Side:
                # Whoever is sending to a side takes along what is new, and acts on it.
                if not self._locks[side].locked():
                    nursery.start_soon(self._act, side)

    async def _reset(self) -> None:
        for side in Side:
            if self.tunnel.legs[side].abort:
                await self._part(side)

    async def _flush(self, side: Side) -> None:
        """Send a side what there is for it, and wait until it has taken that."""
        async with self._locks[side]:
            while (data := self.tunnel.take(side)) and not self._torn[side]:
                self._torn[side], self._sending[side] = True, len(data)
                self._timer.hasten(self.liveness.blocked(trio.current_time()))
                try:
                    await self._streams[side].send_all(data)
                    self._torn[side], self._sending[side] = False, 0
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self.tunnel.lost(side, str(exc))

    async def _act(self, side: Side) -> None:
        """Send to a side, and do what the tunnel's state asks for then: hang up, end.

        The clock comes first: what is to be sent may wait for somebody who has stopped reading.
        """
        self._start_clock()
        await self._reset()
        await self._flush(side)
        self._start_clock()
        stream = self._streams[side]
        if self.tunnel.legs[side].finish and isinstance(stream, trio.abc.HalfCloseableStream):
            await self._send_eof(side, stream)
        if self.tunnel.legs[Side.NODE].done and not self.tunnel.finished:
            # A deepstream node that shuts down waits for just this.
            await self._flush(Side.NODE)
            await self._part(Side.NODE)
        if self.tunnel.finished:
            self._finished.set()

    async def _send_eof(self, side: Side, stream: trio.abc.HalfCloseableStream) -> None:
        async with self._locks[side]:
            if not self._torn[side]:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_eof()
