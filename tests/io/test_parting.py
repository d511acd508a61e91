"""How a connection ends: with a goodbye, with a wait for the other one's, or with a reset."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
import trio
import trio.testing

from proxy.io.transport import SocketTransport, hang_up

from .rig import LIMIT, socket_pair, tcp_pair

BIG = bytes(range(256)) * 4096


def transports() -> tuple[SocketTransport, SocketTransport]:
    """Return a peer and the transport that is to end, over TCP."""
    near, far = tcp_pair()
    return SocketTransport(near), SocketTransport(far)


async def read_to_end(peer: SocketTransport) -> bytes:
    received = b""
    while data := await peer.receive_some():
        received += data
    return received


async def test_parting_delivers_what_was_sent_though_something_is_unread() -> None:
    peer, transport = transports()
    await peer.send_all(BIG[:20_000])
    await transport.send_all(b"the last word")
    with trio.fail_after(LIMIT):
        await trio.lowlevel.wait_readable(transport.sock)
        transport.part()

        assert transport.sock.fileno() == -1
        assert await read_to_end(peer) == b"the last word"
    # Nor did a reset come behind the end.
    assert peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    peer.close()


async def test_parting_does_not_wait_for_who_does_not_read() -> None:
    """What the kernel has not taken is lost; the rest is read, and an end."""
    peer, transport = transports()
    sent = 0
    while transport.send(b"x" * 50_000):
        sent += 50_000
    transport.part()
    with trio.fail_after(LIMIT):
        received = await read_to_end(peer)

    assert sent <= len(received) < sent + 50_000
    peer.close()


async def test_parting_sends_what_there_is_room_for() -> None:
    peer, transport = transports()
    sent = 50_000
    while transport.send(b"x" * 50_000):
        sent += 50_000
    with trio.fail_after(LIMIT):
        received = await peer.receive_some()
        while len(received) < sent - len(transport.backlog):
            received += await peer.receive_some()
        transport.part()
        received += await read_to_end(peer)

    assert len(received) == sent
    peer.close()


async def test_aborting_is_a_reset_behind_what_has_arrived() -> None:
    peer, transport = transports()
    await transport.send_all(b"arrived")
    with trio.fail_after(LIMIT):
        await trio.lowlevel.wait_readable(peer.sock)
        transport.abort()

        assert transport.sock.fileno() == -1
        assert await peer.receive_some() == b"arrived"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await peer.receive_some()
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    peer.close()


async def test_aborting_drops_what_has_not_gone_out() -> None:
    peer, transport = transports()
    while transport.send(b"x" * 50_000):
        pass
    transport.abort()
    with trio.fail_after(LIMIT), pytest.raises(trio.BrokenResourceError) as caught:
        await read_to_end(peer)

    assert isinstance(caught.value.__cause__, ConnectionResetError)
    peer.close()


@pytest.mark.parametrize("again", ["part", "abort", "close"])
@pytest.mark.parametrize("first", ["part", "abort", "close"])
async def test_an_end_is_an_end(first: str, again: str) -> None:
    peer, transport = transports()
    number = transport.sock.fileno()
    getattr(transport, first)()
    # Whoever comes next has the number of the file that was closed.
    others = socket_pair()
    assert number in [other.sock.fileno() for other in others]
    getattr(transport, again)()
    await hang_up(transport)
    await others[0].send_all(b"still here")

    assert await others[1].receive_some() == b"still here"
    for one in (peer, *others):
        one.close()


async def test_hanging_up_delivers_what_was_sent_though_something_is_unread() -> None:
    near, far = tcp_pair()
    transport, peer = SocketTransport(far), SocketTransport(near)
    await peer.send_all(b"never read")
    await transport.send_all(b"the last word")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up, transport)
            received = b""
            while data := await peer.receive_some():
                received += data
            peer.close()

    assert received == b"the last word"
    assert transport.sock.fileno() == -1


async def test_hanging_up_on_a_flood_lets_others_go_on() -> None:
    transport, peer = socket_pair()
    turns = 0

    async def flood() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.send_all(b"x" * 65536)

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(other)
            with trio.move_on_after(0.05) as scope:
                await hang_up(transport)
            nursery.cancel_scope.cancel()
    peer.close()

    assert scope.cancelled_caught
    assert turns > 10


async def test_hanging_up_on_somebody_who_stays_ends_with_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    transport, peer = socket_pair()
    with trio.move_on_after(2) as scope:
        await hang_up(transport)

    assert scope.cancelled_caught
    assert transport.sock.fileno() == -1
    peer.close()
