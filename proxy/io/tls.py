"""TLS on a connection.

The transport runs TLS over two memory BIOs rather than a wrapped socket: one `recv` brings several
records where an `SSLSocket` needs two reads for each, and one `send` carries several.

A memory BIO never shrinks: what once went through it at a time, the connection holds until its end.
So it gets small pieces, until a connection has moved so much that the CPU time which large ones
save is worth their memory.
"""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import nullcontext, suppress
from typing import Final

import trio

from .handshakes import Turnstile
from .transport import BUFFER, CHUNK, Bytes, SocketTransport, translated

#: How much a TLS peer may make us say that no application has sent.
MAX_UNASKED: Final = 64 * 1024
#: What comes from the network: between a `recv` into it and its use there is no `await`.
_CIPHERTEXT: Final = memoryview(bytearray(CHUNK))
#: What a memory BIO is given at a time, and of how many larger chunks, some 16 MiB, it gets more.
#: After a message of 1 MiB a session holds half as much again as before, where it would be nine
#: times as much; but pieces of 4 KiB cost a third more CPU than whole chunks.
PIECE: Final = 4 * 1024
PATIENCE: Final = 256


class TlsTransport(SocketTransport):
    """A TCP or unix connection with TLS on it, as the server unless a `server_name` is given.

    `server_name` is the name to ask for and to check as a client, and `session` the one to offer;
    `received` is what has come from the network already.
    """

    __slots__ = (
        "_ended",
        "_incoming",
        "_kept",
        "_large",
        "_more",
        "_outgoing",
        "_piece",
        "asked_name",
        "cut_short",
        "tls",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None = None,
        *,
        session: ssl.SSLSession | None = None,
        received: bytes | bytearray = b"",
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        if received:
            self._incoming.write(received)
        #: What a client has asked for in SNI.
        self.asked_name = ""
        self._outgoing = ssl.MemoryBIO()
        #: There may be something to decrypt without reading from the network.
        self._more = False
        #: What was decrypted before its time.
        self._kept = memoryview(b"")
        self._ended = self.cut_short = False
        self._piece = PIECE
        self._large = 0
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
            session=session,
        )

    @property
    def pending(self) -> bool:
        return self._more or self._ended

    async def do_handshake(self, turnstile: Turnstile | None = None) -> None:
        """Shake hands, each step of it in a turn of its own if there is a `turnstile`.

        Raises:
            trio.BrokenResourceError: the peer hung up or is no TLS peer; the cause says which.
        """
        # A server has nothing to say before it has heard something.
        wants_more = self.tls.server_side and not self._incoming.pending
        turn = turnstile or nullcontext()
        while True:
            if wants_more and not await self._receive_ciphertext():
                raise trio.BrokenResourceError("closed during the TLS handshake")
            try:
                async with turn:
                    self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_ciphertext()
                wants_more = True
            except ssl.SSLError as exc:
                # The alert tells the peer what was wrong.
                with suppress(trio.BrokenResourceError):
                    await self._send_ciphertext()
                raise trio.BrokenResourceError("TLS handshake failed") from exc
            else:
                # What a server of TLS 1.3 has left are tickets: they go with its first answer.
                if not self.tls.server_side or self.tls.version() != "TLSv1.3":
                    await self._send_ciphertext()
                # A request that came in one segment with the end of the handshake.
                self._more = self._incoming.pending > 0
                return

    async def _send_ciphertext(self) -> None:
        try:
            while not self.flush():
                await self.wait_send_all_might_not_block()
        except OSError as exc:
            raise translated(exc) from exc

    async def _receive_ciphertext(self) -> bool:
        """Wait for bytes from the network; return whether some came."""
        while True:
            try:
                received = self.sock.recv_into(_CIPHERTEXT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
            except OSError as exc:
                raise translated(exc) from exc
            else:
                self._incoming.write(_CIPHERTEXT[:received])
                return received > 0

    def recv_into(self, buffer: memoryview) -> int:
        """Receive without waiting; return the number of bytes, 0 at the end of the stream.

        What does not fit in `buffer` is there for the next call, though the socket may not be
        readable any more: offer `BUFFER` bytes, or call while there is something `pending`.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken, or what came is not TLS.
        """
        if self._more:
            if filled := self._rest(buffer):
                return filled
            if not self._ended:
                # What has come over the network meanwhile makes an event: that is for another turn.
                raise BlockingIOError
        if self._ended:
            return 0
        received = self.sock.recv_into(_CIPHERTEXT)
        if received <= self._piece:
            if received:
                self._incoming.write(_CIPHERTEXT[:received])
            else:
                self.cut_short = True
                self._incoming.write_eof()
            filled = self._decrypt(buffer)
        else:
            filled = self._decrypt_pieces(received, buffer)
        if self._outgoing.pending:
            self._answer_key_updates()
        if not filled and not self._ended:
            raise BlockingIOError
        return filled

    def _rest(self, buffer: memoryview) -> int:
        """Fill a buffer with what an earlier one was too small for; return the number of bytes."""
        if not self._kept:
            return self._decrypt(buffer)
        size = min(len(self._kept), len(buffer))
        buffer[:size] = self._kept[:size]
        self._kept = self._kept[size:]
        self._more = len(self._kept) > 0
        return size

    def _decrypt_pieces(self, received: int, buffer: memoryview) -> int:
        filled = 0
        for piece in self._pieces(_CIPHERTEXT[:received]):
            self._incoming.write(piece)
            if filled < len(buffer):
                filled += self._decrypt(buffer[filled:])
        return filled

    def _pieces(self, chunk: memoryview) -> list[memoryview]:
        """Cut what is too large for the BIOs as they are."""
        piece = self._piece
        self._large += 1
        if self._large == PATIENCE:
            self._piece = BUFFER
        return [chunk[start : start + piece] for start in range(0, len(chunk), piece)]

    def _decrypt(self, buffer: memoryview) -> int:
        size = len(buffer)
        filled = 0
        try:
            # With a buffer it returns a count, which typeshed does not say of SSLObject.  A cast
            # would be a call for every message.
            count: int = self.tls.read(size, buffer)  # type: ignore[assignment]  # as said
            filled = count
            while self._incoming.pending and count and filled < size:
                rest = buffer[filled:]
                count = self.tls.read(size - filled, rest)  # type: ignore[assignment]  # as said
                filled += count
            self._more = filled == size
            if not count:
                self._hear_goodbye()
        except ssl.SSLWantReadError:
            self._more = False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # With or without close_notify: WebSocket and HTTP framing show whether all has come.
            self._more = False
            self._hear_goodbye()
        return filled

    def _hear_goodbye(self) -> None:
        self._ended = True
        # It may have come behind data, from a peer that keeps its connection to hear ours: from
        # here on the socket is readable, so that whoever waits for it is told of the end.
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def _answer_key_updates(self) -> None:
        """Send what TLS itself has to say to what was read, and bound it (RFC 8446 section 4.6.3).

        Raises:
            OSError: the peer asks and asks, and does not read the answers.
        """
        if self._said_eof:
            # Nothing can be said any more, nor is there anything that new keys would be for.
            self._outgoing.read()
            return
        if not self.flush() and len(self.backlog) > MAX_UNASKED:
            raise OSError(errno.ENOBUFS, "too many TLS key updates")

    def send(self, data: Bytes) -> bool:
        """Send without waiting; return whether all is out.  What is not, is in `backlog`.

        Raises:
            OSError: the connection is broken.
        """
        self.put(data)
        return self.push()

    def put(self, data: Bytes) -> None:
        """Take something to be sent with the next `push`."""
        if len(data) <= self._piece:
            if data:
                self.tls.write(data)
            records = self._outgoing.read()
        else:
            records = b"".join(map(self._encrypt, self._pieces(memoryview(data))))
        self.backlog = b"".join((self.backlog, records)) if self.backlog else records

    def _encrypt(self, piece: memoryview) -> bytes:
        self.tls.write(piece)
        return self._outgoing.read()

    def flush(self) -> bool:
        """Send what is left, of the handshake and of alerts too; return whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        if self._outgoing.pending:
            return self.send(b"")
        return self.push()

    def say_eof(self) -> bool:
        """Say close_notify, then that nothing more comes; return as the base does.

        What the kernel does not want yet is said by a later call.
        """
        if not self._said_eof:
            self._decrypt_all()
            with suppress(OSError):
                # Raises SSLWantReadError: the peer's own close_notify has not come yet.
                self.tls.unwrap()
            with suppress(OSError):
                if not self.flush():
                    return False
        return super().say_eof()

    def _decrypt_all(self) -> None:
        """Keep what has come: on its way to the other's goodbye `unwrap` would lose it."""
        if self._more and not self._kept:
            rest = memoryview(bytearray(BUFFER))
            # What is no TLS is found again by the next read.
            with suppress(OSError):
                self._kept = rest[: self._decrypt(rest)]
                self._more = len(self._kept) > 0
