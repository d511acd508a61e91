"""Transports: as Trio streams, and by their non-blocking face."""

from __future__ import annotations

import select
import socket
import ssl
import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing

from proxy.io.tls import MAX_UNASKED, PIECE, TlsTransport
from proxy.io.transport import BUFFER, SocketTransport

from .rig import LIMIT, socket_pair, tcp_pair, tls_pair

BIG = bytes(range(256)) * 8192


def transport_pair() -> tuple[SocketTransport, SocketTransport]:
    near, far = tcp_pair()
    return SocketTransport(near), SocketTransport(far)


async def stream_pair() -> tuple[SocketTransport, SocketTransport]:
    return socket_pair()


async def test_a_socket_transport_is_a_stream() -> None:
    # Trio's own checks of what a stream promises; they assert inside.
    await trio.testing.check_half_closeable_stream(stream_pair, None)


async def test_tls_carries_bytes_both_ways(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        async with trio.open_nursery() as nursery:
            for sender, receiver in ((client, server), (server, client)):
                nursery.start_soon(sender.send_all, BIG)
                received = b""
                while len(received) < len(BIG):
                    received += await receiver.receive_some()

                assert received == BIG
        await client.aclose()
        assert await server.receive_some() == b""
        assert await server.receive_some() == b""
        server.close()


async def test_received_in_small_pieces(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """What was decrypted and not fetched makes no event; it must be there all the same."""
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        await client.send_all(b"0123456789")
        received = [await server.receive_some(3) for _ in range(4)]

        assert received == [b"012", b"345", b"678", b"9"]
        await client.aclose()
        server.close()


async def test_much_received_in_small_pieces(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, BIG)
            received = bytearray()
            while len(received) < len(BIG):
                received += await server.receive_some(10_000)

        assert received == BIG
        await client.aclose()
        server.close()


class WatchedBio:
    """A memory BIO, and the most that went through it at a time, which is what it will hold."""

    def __init__(self, bio: ssl.MemoryBIO) -> None:
        self._bio = bio
        self.largest = 0

    def read(self) -> bytes:
        data = self._bio.read()
        self.largest = max(self.largest, len(data))
        return data

    def write(self, data: bytes) -> int:
        self._bio.write(data)
        self.largest = max(self.largest, self._bio.pending)
        return len(data)

    @property
    def pending(self) -> int:
        return self._bio.pending


async def test_a_connection_earns_large_buffers(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.io.tls.PATIENCE", 40)
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        incoming, outgoing = WatchedBio(server._incoming), WatchedBio(server._outgoing)
        monkeypatch.setattr(server, "_incoming", incoming)
        monkeypatch.setattr(server, "_outgoing", outgoing)

        async def echo(size: int) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, bytes(size))
                for receiver in (server, client):
                    left = size
                    while left:
                        left -= len(await receiver.receive_some())
                    if receiver is server:
                        nursery.start_soon(server.send_all, bytes(size))

        await echo(400_000)
        assert incoming.largest <= PIECE
        assert outgoing.largest <= PIECE + 100
        for _ in range(20):
            await echo(400_000)
        assert incoming.largest > 4 * PIECE
        assert outgoing.largest > 4 * PIECE
        await client.aclose()
        server.close()


async def test_one_read_brings_several_records(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        for _ in range(5):
            await client.send_all(b"x" * 100)
        await trio.lowlevel.wait_readable(server.sock)
        buffer = memoryview(bytearray(BUFFER))

        assert server.recv_into(buffer) == 500
        assert not server.pending
        with pytest.raises(BlockingIOError):
            server.recv_into(buffer)
        await client.aclose()
        server.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_what_the_kernel_does_not_take_is_kept(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, *, tls: bool
) -> None:
    with trio.fail_after(LIMIT):
        reader: trio.abc.Stream
        reader, writer = await tls_pair(client_tls, server_tls) if tls else socket_pair()
        sent = 0
        while writer.send(b"x" * 50_000):
            sent += 50_000
        sent += 50_000

        assert writer.backlog
        assert not writer.flush()
        received = 0
        while received < sent:
            received += len(await reader.receive_some())
            writer.flush()
        assert received == sent
        assert not writer.backlog
        await trio.aclose_forcefully(reader)
        writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the kernel holds")
@pytest.mark.parametrize("make", [socket_pair, transport_pair], ids=["unix", "tcp"])
async def test_what_waits_for_the_peer_changes_when_it_reads(
    make: Callable[[], tuple[SocketTransport, SocketTransport]],
) -> None:
    reader, writer = make()
    assert writer.queued() == (0, 0)
    with trio.fail_after(LIMIT):
        while writer.send(b"x" * 50_000):
            pass
        await trio.testing.wait_all_tasks_blocked(0.01)
        full = writer.queued()
        assert full[0] == len(writer.backlog) > 0
        assert full[1] > 0
        # Nothing changes by itself, nor by trying.
        writer.flush()
        stuck = writer.queued()
        assert [writer.queued() for _ in range(3)] == [stuck] * 3
        while writer.queued() == stuck:
            await reader.receive_some()
        # The kernel had some of it taken before it took more of ours.
        assert writer.queued()[1] < stuck[1]
    reader.close()
    writer.close()


async def test_what_waits_for_nobody() -> None:
    near, far = socket_pair()
    near.close()
    far.close()

    assert far.queued() == (0, 0)


@pytest.mark.parametrize(
    "hello", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""], ids=str
)
async def test_handshake_with_something_else(hello: bytes, server_tls: ssl.SSLContext) -> None:
    near, far = tcp_pair()
    server = TlsTransport(far, server_tls)
    near.send(hello)
    near.shutdown(socket.SHUT_WR)
    with trio.fail_after(LIMIT), pytest.raises(trio.BrokenResourceError):
        await server.do_handshake()
    server.close()
    near.close()


async def test_handshake_can_be_cancelled(server_tls: ssl.SSLContext) -> None:
    near, far = tcp_pair()
    server = TlsTransport(far, server_tls)
    with trio.move_on_after(0.01) as scope:
        await server.do_handshake()

    assert scope.cancelled_caught
    server.close()
    near.close()


async def test_garbage_within_tls_is_a_broken_connection(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        assert isinstance(client, trio.SSLStream)
        await client.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        await trio.aclose_forcefully(client)
        server.close()


async def send_for_ever(transport: SocketTransport) -> None:
    while True:
        await transport.send_all(b"x")


async def test_reset_and_closed() -> None:
    near, far = tcp_pair()
    transport = SocketTransport(far)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    near.close()
    with trio.fail_after(LIMIT):
        with pytest.raises(trio.BrokenResourceError):
            await transport.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(transport)
        transport.close()
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_all(b"x")


async def test_what_tls_itself_has_to_say_is_sent_and_bounded(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """As of a peer that asks for a new key with every record, and reads no answer."""
    with trio.fail_after(LIMIT):
        client, server = await tls_pair(client_tls, server_tls)
        buffer = memoryview(bytearray(BUFFER))
        answer = b"a" * 4096
        with pytest.raises(OSError, match="key updates"):
            await ask_for_ever(client, server, answer, buffer)

        assert len(server.backlog) <= MAX_UNASKED + len(answer)
        await trio.aclose_forcefully(client)
        server.close()


async def ask_for_ever(
    client: trio.abc.Stream, server: TlsTransport, answer: bytes, buffer: memoryview
) -> None:
    while True:
        await client.send_all(b"x")
        await trio.lowlevel.wait_readable(server.sock)
        server._outgoing.write(answer)
        assert server.recv_into(buffer) == 1
        assert not server._outgoing.pending


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="needs Linux")
async def test_hang_up_is_noticed_behind_what_is_unread(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = socket_pair()
    near.send(b"unread")
    over = trio.Event()

    async def wait() -> None:
        await far.wait_hang_up()
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        assert not over.is_set()
        near.close()
        with trio.fail_after(2):
            await over.wait()

    assert await far.receive_some() == b"unread"
    far.close()
