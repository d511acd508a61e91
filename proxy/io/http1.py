"""HTTP/1.1 over a stream: this reads and sends, `wire.head` and `wire.body` know what it means."""

from __future__ import annotations

import trio

from proxy.wire.body import Body

from .transport import SocketTransport, translated


class Http1:
    """What both sides have: a stream, and what came of it and was not used yet."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""
        self._cut_short = False
        #: Something went out.
        self.sent = False

    async def _receive(self) -> bytes:
        return bytes(await self.stream.receive_some())

    async def _send(self, data: bytes) -> None:
        """Send; after a send that was cut short nothing more can be sent."""
        if self._cut_short:
            # Another task's sending, perhaps: to the peer this stream is as good as broken.
            raise trio.BrokenResourceError("an earlier send was cut short")
        self._cut_short = True
        if isinstance(self.stream, SocketTransport):
            # All reading is a checkpoint: here it would cost as much as the sending.
            try:
                done = self.stream.send(data)
            except OSError as exc:
                raise translated(exc) from exc
            self.sent = True
            if not done:
                await self.stream.send_all(b"")
        else:
            await self.stream.send_all(data)
            self.sent = True
        self._cut_short = False

    async def _next_piece(self, body: Body) -> bytes | None:
        """Return what is there of a body, reading if that is nothing; None at its end.

        Raises:
            BodyError: its framing is broken, or the stream has ended within it.
        """
        while not body.done:
            if self._buffer:
                piece, used = body.take(self._buffer)
                self._buffer = self._buffer[used:]
                if piece:
                    return piece
                if used:
                    continue
            data = await self._receive()
            if data:
                self._buffer += data
            else:
                body.end()
        return None

    def early_data(self) -> bytes:
        """Return what came behind the head and belongs to whatever follows HTTP here."""
        return self._buffer
