"""One connection's bytes, for two ways of driving.

A transport is a `trio.abc.Stream`, which is how a head is read and an answer written, and it has a
non-blocking face (`recv_into`, `send`, `flush`), which is how the splicer moves a session's frames
without a task switch.  Both may be used in turn, never at the same time.

`send` takes everything: what the kernel does not want yet stays in `backlog`, and whoever sends
more before `flush` has emptied it makes that grow, so nobody does.  `put` leaves all of it there,
for `push` to send.  The bound is therefore what was put before, and what one `send` was given.

`io.tls` has the transport with TLS on it.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

import trio

if sys.platform == "linux":
    import fcntl
    import termios

_HANG_UP: Final[int | None] = getattr(select, "POLLRDHUP", None)
Bytes = bytes | bytearray | memoryview

#: What one read of the network asks for.
CHUNK: Final = 64 * 1024
#: What a buffer for `recv_into` needs to take all that can come of one call: a chunk, and what was
#: left of a TLS record (at most 16 KiB and a bit) before it.
BUFFER: Final = CHUNK + 32 * 1024
#: How often what lies unread is looked for before a connection is closed.
_LAST_READS: Final = 16
#: Shared by all transports: between a `recv` into it and the use of what came there is no `await`.
RECEIVED: Final = memoryview(bytearray(BUFFER))


class SocketTransport(trio.abc.HalfCloseableStream):
    """A TCP or unix connection.

    Takes ownership of `sock`, which must be non-blocking.
    """

    __slots__ = ("_said_eof", "backlog", "sock")

    #: Whether its stream has ended without the goodbye that TLS has.
    cut_short = False

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        #: Bytes that wait to go out.
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

    def put(self, data: Bytes) -> None:
        """Take something to be sent with the next `push`."""
        self.backlog = b"".join((self.backlog, data)) if self.backlog else bytes(data)

    def flush(self) -> bool:
        """Send all that is left, also what TLS itself has to say; return whether all is out.

        Raises:
            OSError: the connection is broken.
        """
        return self.push()

    def push(self) -> bool:
        """Send what is in `backlog` and nothing else; return whether that is out.

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

    def is_quiet(self) -> bool:
        """Whether nothing has come, not even the end; what has come is lost."""
        try:
            self.recv_into(RECEIVED)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        received = self._receive_nowait(RECEIVED[:max_bytes])
        if received is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return received
        return await self.receive_next(max_bytes)

    async def receive_next(self, max_bytes: int | None = None) -> bytes:
        """As `receive_some`, for when there is hardly anything yet: it waits before it looks."""
        if self.pending:
            return await self.receive_some(max_bytes)
        buffer = RECEIVED[:max_bytes]
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            if (received := self._receive_nowait(buffer)) is not None:
                return received

    def _receive_nowait(self, buffer: memoryview) -> bytes | None:
        """Return what there is, b"" at the end of the stream, None if there is nothing."""
        try:
            return bytes(buffer[: self.recv_into(buffer)])
        except BlockingIOError:
            return None
        except OSError as exc:
            raise translated(exc) from exc

    async def send_all(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._said_eof:
            raise trio.ClosedResourceError("send_eof was called")
        try:
            done = self.send(data)
            while not done:
                await self.wait_send_all_might_not_block()
                done = self.flush()
        except OSError as exc:
            raise translated(exc) from exc

    async def wait_send_all_might_not_block(self) -> None:
        if self._said_eof or self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this transport was closed")
        await trio.lowlevel.wait_writable(self.sock)

    def say_eof(self) -> bool:
        """Tell the peer, without waiting, that nothing more comes; receiving goes on.

        Return whether it is said, or cannot be; else it is to be called again.
        """
        if not self._said_eof:
            self._said_eof = True
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        return True

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes, however long that takes."""
        if self.sock.fileno() < 0:
            raise trio.ClosedResourceError("this transport was closed")
        await trio.lowlevel.checkpoint()
        while not self.say_eof():
            await self.wait_send_all_might_not_block()

    async def wait_hang_up(self) -> None:
        """Return when the peer has ended its side, looked for once a second, with nothing read.

        What lies unread hides the end from `recv`, and keeps the socket readable.
        """
        if _HANG_UP is None:
            await trio.sleep_forever()
        look = select.poll()
        look.register(self.sock, _HANG_UP)
        while not look.poll(0):  # noqa: ASYNC110  Trio's epoll does not wait for this alone
            await trio.sleep(1.0)

    def queued(self) -> tuple[int, int]:
        """Return how many bytes wait here, and in the kernel, for the peer to take them."""
        kernel = b""
        if sys.platform == "linux":
            # Of a closed socket it is a ValueError.
            with suppress(OSError, ValueError):
                kernel = fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4))
        return len(self.backlog), int.from_bytes(kernel, sys.byteorder)

    def abort(self) -> None:
        """Reset the connection: what was not read is lost, and the peer knows."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def part(self) -> None:
        """Close at once, with a goodbye, and with nothing unread that would make it a reset."""
        with suppress(OSError):
            self.flush()
            self.say_eof()
            for _ in range(_LAST_READS):
                if not self.sock.recv_into(RECEIVED):
                    break
        self.close()

    def close(self) -> None:
        """Close at once; nothing waits for the peer any more."""
        self.backlog = b""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


async def hang_up(transport: SocketTransport) -> None:
    """End a connection so that the peer reads all that was sent: say goodbye, wait for its own.

    Closing a socket on which something unread lies resets the connection, and a reset may overtake
    a Close frame on its way.  Call it under a deadline.
    """
    try:
        while not (transport.flush() and transport.say_eof()):
            await trio.lowlevel.wait_writable(transport.sock)
        while True:
            try:
                if not transport.sock.recv_into(RECEIVED):
                    return
            except BlockingIOError:
                await trio.lowlevel.wait_readable(transport.sock)
            else:
                # Whoever sends and sends would otherwise keep all others waiting.
                await trio.lowlevel.checkpoint()
    except OSError:
        return
    finally:
        transport.close()


def take(wrapped: trio.socket.SocketType) -> socket.socket:
    """Take the socket out of Trio's wrapper, which is not used any more."""
    sock = socket.socket(wrapped.family, wrapped.type, wrapped.proto, fileno=wrapped.detach())
    sock.setblocking(False)
    return sock


def set_options(sock: socket.socket) -> None:
    """Have the kernel send at once, and notice, in the end, a peer that was cut off."""
    if sock.family != socket.AF_UNIX:
        with suppress(OSError):
            # macOS refuses on a connection that has ended already.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def translated(exc: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    """Return what Trio calls a socket's error."""
    if exc.errno == errno.EBADF:
        return trio.ClosedResourceError("this transport was closed")
    return trio.BrokenResourceError(f"connection broken: {exc}")
