"""The portable relay: a task per direction, over any two streams.

It relays where there is no epoll, and over streams that are no sockets: memory streams, in tests
and for injected faults.  Backpressure is the `await` of a pump that sends: it reads again when the
other side has taken everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from proxy.wire.tunnel import Side, Tunnel

from .relay import Relay

#: The last word to a side that may have stopped reading.
_LAST_WORD = 1.0


class PumpRelay(Relay):
    """Relay a session with two tasks."""

    def __init__(
        self,
        client: trio.abc.Stream,
        node: trio.abc.Stream,
        tunnel: Tunnel,
        *,
        close_timeout: float,
    ) -> None:
        super().__init__(tunnel, close_timeout=close_timeout)
        # Its deadline is set by the first event that ends the session.
        self._closing = trio.CancelScope()
        self._streams = (client, node)
        # Bytes leave the tunnel's outbox under the lock of the stream they go to: in their order.
        self._locks = (trio.Lock(), trio.Lock())
        # Being sent to.  A send that was cancelled has sent nobody knows how much.
        self._torn = [False, False]
        self._woken = trio.Event()
        self._finished = trio.Event()

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        for side in Side:
            if early[side]:
                self.tunnel.received(side, early[side])
        try:
            with self._closing:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, Side.CLIENT, name="client to node")
                    nursery.start_soon(self._pump, Side.NODE, name="node to client")
                    nursery.start_soon(self._flush_when_woken)
                    self._wake()
                    await self._finished.wait()
                    await self._flush()
                    nursery.cancel_scope.cancel()
            if not self.tunnel.finished:
                self.tunnel.give_up()
                with trio.move_on_after(_LAST_WORD):
                    await self._flush()
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()
                await self._streams[Side.NODE].aclose()

    def _wake(self) -> None:
        self._start_clock()
        self._woken.set()

    def _start_clock(self) -> None:
        """Once the session is ending, give it `close_timeout` for that."""
        if self.tunnel.ending and self._closing.deadline == math.inf:
            self._closing.deadline = trio.current_time() + self._close_timeout
            if self.on_ending is not None:
                self.on_ending()

    async def _pump(self, side: Side) -> None:
        while not self.tunnel.legs[side].done:
            try:
                data = await self._streams[side].receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.tunnel.lost(side, str(exc))
            else:
                if data:
                    await self._received(side, bytes(data))
                else:
                    self.tunnel.lost(side, "end of stream")
            await self._act((side.other, side))

    async def _received(self, side: Side, data: bytes) -> None:
        self.tunnel.received(side, data)

    async def _flush_when_woken(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            await self._act()

    async def _flush(self, sides: Sequence[Side] = tuple(Side)) -> None:
        for side in sides:
            async with self._locks[side]:
                if (data := self.tunnel.take(side)) and not self._torn[side]:
                    self._torn[side] = True
                    try:
                        await self._streams[side].send_all(data)
                        self._torn[side] = False
                    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                        self.tunnel.lost(side, str(exc))

    async def _act(self, sides: Sequence[Side] = tuple(Side)) -> None:
        """Do what the tunnel's state asks for: the clock, what is to be sent, hanging up, the end.

        The clock comes first: what is to be sent may wait for somebody who has stopped reading.
        """
        self._start_clock()
        await self._flush(sides)
        self._start_clock()
        if self.tunnel.legs[Side.NODE].done and not self.tunnel.finished:
            # A deepstream node that shuts down waits for just this.
            async with self._locks[Side.NODE]:
                await self._streams[Side.NODE].aclose()
        if self.tunnel.finished:
            self._finished.set()
