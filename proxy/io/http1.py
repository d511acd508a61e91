"""HTTP/1.1 over a stream: this reads and sends, `wire.head` and `wire.body` know what it means.

What can be done at once is done by functions that wait for nothing: with a deadline around it each
of a request's steps would cost half as much again.
"""

from __future__ import annotations

import trio

from proxy.wire.body import Body

from .transport import RECEIVED, SocketTransport, translated


class Http1:
    """What both sides have: a stream, and what came of it and was not used yet."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        # Asked once: with an abstract base class that takes as long as some of a request's steps.
        self._socket = stream if isinstance(stream, SocketTransport) else None
        self._buffer = b""
        self._unsent = b""
        self._cut_short = False
        #: Something went out, or was put aside.
        self.sent = False
        #: Up to how many bytes are put aside at a time, for whoever sets this to `push` them.
        self.aside = -1

    async def _receive(self) -> bytes:
        if self._socket is not None:
            # Nearly always nothing is there yet, and to look first would be in vain.
            return await self._socket.receive_next()
        return bytes(await self.stream.receive_some())

    def _receive_nowait(self) -> bool:
        """Take what a socket has for us; return whether that was something.

        Raises:
            OSError: nothing is there, or the connection is broken.
        """
        assert self._socket is not None
        size = self._socket.recv_into(RECEIVED)
        self._buffer += RECEIVED[:size]
        return size > 0

    def _send_nowait(self, data: bytes) -> bool:
        """Send what goes out at once; return whether that was all.  If not, call `flush`.

        Raises:
            trio.BrokenResourceError: the connection is broken.
        """
        if self._cut_short or self._unsent:
            # Another task's sending, perhaps: to the peer this stream is as good as broken.
            raise trio.BrokenResourceError("an earlier send was cut short")
        if self._socket is None:
            self._unsent = data
            return not data
        done = True
        try:
            if len(data) <= self.aside:
                self._socket.put(data)
            else:
                done = self._socket.send(data)
        except OSError as exc:
            raise translated(exc) from exc
        self.sent = True
        return done

    def _push(self) -> bool:
        """Send what was put aside; return whether that was all.  If not, call `flush`.

        Raises:
            trio.BrokenResourceError: the connection is broken.
        """
        assert self._socket is not None
        try:
            return self._socket.push()
        except OSError as exc:
            raise translated(exc) from exc

    async def _flush(self) -> None:
        """Send what is left; if that is cut short, nothing more can be sent ever after."""
        data, self._unsent, self._cut_short = self._unsent, b"", True
        await self.stream.send_all(data)
        self.sent = True
        self._cut_short = False

    def _piece_nowait(self, body: Body) -> bytes:
        """Return what is here already of a body.

        Raises:
            BodyError: its framing is broken.
        """
        while self._buffer and not body.done:
            piece, used = body.take(self._buffer)
            self._buffer = self._buffer[used:]
            if piece or not used:
                return piece
        return b""

    async def _next_piece(self, body: Body) -> bytes:
        """Return the next piece of a body, b"" at its end.

        Raises:
            BodyError: its framing is broken, or the stream has ended within it.
        """
        while not (piece := self._piece_nowait(body)) and not body.done:
            data = await self._receive()
            if data:
                self._buffer += data
            else:
                body.end(clean=self._socket is None or not self._socket.cut_short)
        return piece

    def early_data(self) -> bytes:
        """Return what came behind the head and belongs to whatever follows HTTP here."""
        return self._buffer
