"""The portable relay: a task per direction, over any two streams.

It relays where there is no epoll, and over streams that are no sockets: memory streams, in tests
and for injected faults.  Backpressure is the `await` of a pump that sends: it reads again when the
other side has taken everything.
"""

from __future__ import annotations

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
        self._streams = (client, node)
        # Bytes leave the tunnel's outbox under the lock of the stream they go to: in their order.
        self._locks = (trio.Lock(), trio.Lock())
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
                    await self._flush_both()
                    nursery.cancel_scope.cancel()
            if not self.tunnel.finished:
                self.tunnel.give_up()
                with trio.move_on_after(_LAST_WORD):
                    await self._flush_both()
        finally:
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()
                await self._streams[Side.NODE].aclose()

    def _wake(self) -> None:
        self._woken.set()

    async def _pump(self, side: Side) -> None:
        while not self.tunnel.legs[side].done:
            try:
                data = await self._streams[side].receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.tunnel.lost(side, str(exc))
            else:
                if data:
                    self.tunnel.received(side, bytes(data))
                else:
                    self.tunnel.lost(side, "end of stream")
            await self._flush(side.other)
            await self._flush(side)
            await self._settle()

    async def _flush_when_woken(self) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            await self._flush_both()
            await self._settle()

    async def _flush_both(self) -> None:
        for side in Side:
            await self._flush(side)

    async def _flush(self, side: Side) -> None:
        async with self._locks[side]:
            if data := self.tunnel.take(side):
                try:
                    await self._streams[side].send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self.tunnel.lost(side, str(exc))

    async def _settle(self) -> None:
        """Follow the tunnel's state: the clock, the node's connection, the end."""
        self._start_clock()
        if self.tunnel.legs[Side.NODE].done and not self.tunnel.finished:
            # A deepstream node that shuts down waits for just this.
            async with self._locks[Side.NODE]:
                await self._streams[Side.NODE].aclose()
        if self.tunnel.finished:
            self._finished.set()
