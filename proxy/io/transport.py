"""One connection's bytes, in plain or through TLS, for two ways of driving.

A transport is a `trio.abc.Stream`, which is how a head is read and an answer written, and it has a
non-blocking face (`recv_into`, `send`, `flush`), which is how the splicer moves a session's frames
without a task switch.  Both may be used in turn, never at the same time.

`send` takes everything: what the kernel does not want yet stays in `backlog`, and whoever sends
more before `flush` has emptied it makes that grow, so nobody does.  The bound is therefore what one
`send` was given.

TLS runs over two memory BIOs rather than a wrapped socket: one `recv` brings several records where
an `SSLSocket` needs two reads for each, and one `send` carries several.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, cast

import trio

Bytes = bytes | bytearray | memoryview

#: What one read of the network asks for.
CHUNK: Final = 64 * 1024
#: What a buffer for `recv_into` needs to take all that can come of one call: a chunk, and what was
#: left of a TLS record (at most 16 KiB and a bit) before it.
BUFFER: Final = CHUNK + 32 * 1024
#: How much a TLS peer may make us say that no application has sent.
MAX_UNASKED: Final = 64 * 1024
#: Shared by all transports: between a `recv` into it and the use of what came there is no `await`.
_CIPHERTEXT: Final = memoryview(bytearray(CHUNK))


class SocketTransport(trio.abc.HalfCloseableStream):
    """A TCP or unix connection.

    Takes ownership of `sock`, which must be non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Bytes that were sent and did not yet go out.
        self.backlog: bytes | memoryview = b""
        self._said_eof = False

    @property
    def pending(self) -> bool:
        """There may be something to receive though the socket is not readable."""
        return False

    def recv_into(self, buffer: memoryview) -> int:
        """Receive without waiting; return the number of bytes, 0 at the end of the stream.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken.
        """
        return self.sock.recv_into(buffer)

    def send(self, data: Bytes) -> bool:
        """Send without waiting; return whether all is out.  What is not, is in `backlog`.

        Raises:
            OSError: the connection is broken.
        """
        if self.backlog:
            self.backlog = b"".join((self.backlog, data))
            return self.flush()
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self.backlog = bytes(data)[sent:] if sent else bytes(data)
        return False

    def flush(self) -> bool:
        """Send what is left; return whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        if self.backlog:
            try:
                sent = self.sock.send(self.backlog)
            except BlockingIOError:
                return False
            self.backlog = memoryview(self.backlog)[sent:] if sent < len(self.backlog) else b""
        return not self.backlog

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        buffer = memoryview(bytearray(max_bytes or CHUNK))
        while True:
            try:
                with _broken():
                    received = bytes(buffer[: self.recv_into(buffer)])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return received

    async def send_all(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._said_eof:
            raise trio.ClosedResourceError("send_eof was called")
        with _broken():
            done = self.send(data)
        while not done:
            await self.wait_send_all_might_not_block()
            with _broken():
                done = self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        if self._said_eof or self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this transport was closed")
        with _broken():
            await trio.lowlevel.wait_writable(self.sock)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes; receiving goes on."""
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this transport was closed")
        self._said_eof = True
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class TlsTransport(SocketTransport):
    """A TCP or unix connection with TLS on it, as the server unless a `server_name` is given.

    `server_name` is the name to ask for and to check as a client.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: There may be something to decrypt without reading from the network.
        self._more = False
        self._ended = False
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
        )

    @property
    def pending(self) -> bool:
        return self._more

    async def do_handshake(self) -> None:
        """Shake hands.

        Raises:
            trio.BrokenResourceError: the peer hung up or is no TLS peer; the cause says which.
        """
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._send_ciphertext()
                if not await self._receive_ciphertext():
                    raise trio.BrokenResourceError("closed during the TLS handshake") from None
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
        with _broken():
            done = self.flush()
        while not done:
            await self.wait_send_all_might_not_block()
            with _broken():
                done = self.flush()

    async def _receive_ciphertext(self) -> bool:
        """Wait for bytes from the network; return whether some came."""
        while True:
            try:
                with _broken():
                    received = self.sock.recv_into(_CIPHERTEXT)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
            else:
                self._incoming.write(_CIPHERTEXT[:received])
                return received > 0

    def recv_into(self, buffer: memoryview) -> int:
        """Receive without waiting; return the number of bytes, 0 at the end of the stream.

        What does not fit in `buffer` is there for the next call, though the socket may not be
        readable any more: offer `BUFFER` bytes, or call until it raises `BlockingIOError`.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken, or what came is not TLS.
        """
        if self._more and (filled := self._decrypt(buffer)):
            return filled
        if self._ended:
            return 0
        received = self.sock.recv_into(_CIPHERTEXT)
        if not received:
            self._incoming.write_eof()
        else:
            self._incoming.write(_CIPHERTEXT[:received])
        filled = self._decrypt(buffer)
        if self._outgoing.pending:
            self._answer_key_updates()
        if not filled and not self._ended:
            raise BlockingIOError
        return filled

    def _answer_key_updates(self) -> None:
        """Send what TLS itself has to say to what was read, and bound it (RFC 8446 section 4.6.3).

        Raises:
            OSError: the peer asks and asks, and does not read the answers.
        """
        if not self.flush() and len(self.backlog) > MAX_UNASKED:
            raise OSError(errno.ENOBUFS, "too many TLS key updates")

    def _decrypt(self, buffer: memoryview) -> int:
        size = len(buffer)
        filled = 0
        self._more = False
        try:
            # With a buffer it returns a count, which typeshed does not say of SSLObject.
            filled = count = cast("int", self.tls.read(size, buffer))
            while count and filled < size and self._incoming.pending:
                count = cast("int", self.tls.read(size - filled, buffer[filled:]))
                filled += count
            self._ended = not count
            self._more = filled == size
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # With or without close_notify: WebSocket and HTTP framing show whether all has come.
            self._ended = True
        return filled

    def send(self, data: Bytes) -> bool:
        """Send without waiting; return whether all is out.  What is not, is in `backlog`.

        Raises:
            OSError: the connection is broken.
        """
        if data:
            self.tls.write(data)
        ciphertext = self._outgoing.read()
        if self.backlog:
            return super().send(ciphertext)
        try:
            sent = self.sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        if sent == len(ciphertext):
            return True
        self.backlog = ciphertext[sent:]
        return False

    def flush(self) -> bool:
        """Send what is left, of the handshake and of alerts too; return whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        if self._outgoing.pending:
            return self.send(b"")
        return super().flush()

    async def send_eof(self) -> None:
        """Say close_notify, then that nothing more comes."""
        with suppress(OSError):
            # Raises SSLWantReadError: the peer's own close_notify has not come yet.
            self.tls.unwrap()
        with suppress(OSError):
            self.flush()
        await super().send_eof()


async def hang_up(transport: SocketTransport) -> None:
    """End a connection so that the peer reads all that was sent: say goodbye, wait for its own.

    Closing a socket on which something unread lies resets the connection, and a reset may overtake
    a Close frame on its way.  Call it under a deadline.
    """
    try:
        while not transport.flush():
            await trio.lowlevel.wait_writable(transport.sock)
        await transport.send_eof()
        while True:
            # Whoever sends and sends would otherwise keep all others waiting.
            await trio.lowlevel.checkpoint()
            try:
                if not transport.sock.recv_into(_CIPHERTEXT):
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(transport.sock)
    except OSError:
        return
    finally:
        transport.close()


@contextmanager
def _broken() -> Iterator[None]:
    """Translate socket errors into Trio's; `BlockingIOError` is no error."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as exc:
        if exc.errno == errno.EBADF:
            raise trio.ClosedResourceError("this transport was closed") from None
        raise trio.BrokenResourceError(f"connection broken: {exc}") from exc
