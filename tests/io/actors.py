"""Peers that behave as peers do, each in a task of its own, and remember how it ended for them."""

from __future__ import annotations

from contextlib import suppress

import trio
from wsproto.events import CloseConnection, Ping
from wsproto.utilities import LocalProtocolError

from proxy.wire.tunnel import Side
from tests.wire.strategies import frame

from .rig import Peer

#: What a flood is made of; a mask of zeros leaves it as it is.
_KEYS = {Side.CLIENT: b"\0\0\0\0", Side.NODE: None}
_CHUNK = 10_000


class Actor:
    """A peer that reads, answers pings and a Close, and leaves when its stream has ended.

    One that is `mute` only reads; one that does not read waits for `reads`.
    """

    def __init__(self, peer: Peer, side: Side) -> None:
        self.stream = peer.stream
        self.side = side
        self.mute = False
        self.reads = trio.Event()
        #: The Close that came, 1006: none did.
        self.close = (1006, "")
        #: "FIN", "RST", "torn" for TLS that ended without close_notify; "-" if it has left itself.
        self.end = ""
        self._protocol = peer.protocol
        # Nothing is put within a frame.
        self._lock = trio.Lock()

    @property
    def seen(self) -> tuple[int, str, str]:
        return *self.close, self.end

    async def send(self, data: bytes) -> None:
        async with self._lock:
            await self.stream.send_all(data)

    async def say(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.send(frame(opcode, payload, fin=fin, key=_KEYS[self.side]))

    async def flood(self) -> None:
        """Send messages until told goodbye."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while self.close == (1006, "") and not self.end:
                await self.say(2, bytes(_CHUNK))

    async def leave(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def run(self) -> None:
        """Read to the end."""
        await self.reads.wait()
        while not self.end:
            data = b""
            try:
                data = bytes(await self.stream.receive_some())
                self.end = "" if data else "FIN"
            except trio.ClosedResourceError:
                self.end = "-"
            except trio.BrokenResourceError as exc:
                self.end = "RST" if isinstance(exc.__cause__, ConnectionResetError) else "torn"
            if data:
                await self._read(data)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.stream.aclose()

    async def _read(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if isinstance(event, CloseConnection):
                self.close = (int(event.code), event.reason or "")
            if isinstance(event, CloseConnection | Ping) and not self.mute:
                # There is nothing to answer to the answer to a Close, nor to a side that has gone.
                with suppress(LocalProtocolError, trio.BrokenResourceError):
                    await self.send(self._protocol.send(event.response()))
