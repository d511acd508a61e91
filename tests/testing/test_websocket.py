"""The WebSocket of the stand-ins, each role against the other and against bare bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from proxy.testing.websocket import Closed, Rejected, WebSocket
from tests.wire.strategies import frame

KEY = b"abcd"
Pair = tuple[WebSocket, WebSocket]
AnyStream = trio.abc.Stream


async def accept(stream: AnyStream) -> WebSocket:
    """Read a request as a server does, and accept it."""
    http = h11.Connection(h11.SERVER)
    while (request := http.next_event()) is h11.NEED_DATA:
        http.receive_data(bytes(await stream.receive_some()))
    assert isinstance(request, h11.Request)
    early = http.trailing_data[0]
    return await WebSocket.accept(stream, list(request.headers), request.target, early)


@asynccontextmanager
async def open_pair(
    make: Callable[[], tuple[AnyStream, AnyStream]] = memory_stream_pair,
) -> AsyncIterator[Pair]:
    """Give both ends, (client, server), after the handshake."""
    near, far = make()
    ends: list[WebSocket] = []

    async def serve() -> None:
        ends.append(await accept(far))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = await WebSocket.connect(near, "example.org", "/deepstream")
        yield client, ends[0]


@pytest.mark.parametrize("message", [b"", b"bytes", b"x" * 70_000, "", "text ü"])
async def test_messages_go_both_ways(message: bytes | str) -> None:
    async with open_pair() as (client, server):
        await client.send(message)
        assert await server.receive() == message
        await server.send(message)

        assert await client.receive() == message


async def test_message_without_any_buffer() -> None:
    async with open_pair(lockstep_stream_pair) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, b"one")

        assert await server.receive() == b"one"


@pytest.mark.parametrize("first", ["client", "server"])
async def test_close_is_answered(first: str) -> None:
    async with open_pair() as (client, server):
        closing, other = (client, server) if first == "client" else (server, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(closing.close, 3001)
            with pytest.raises(Closed) as caught:
                await other.receive()

        assert caught.value.code == 3001
        with pytest.raises(Closed):
            await other.send(b"too late")
        with pytest.raises(Closed):
            await closing.send(b"too late")


async def test_nothing_can_be_sent_behind_a_goodbye() -> None:
    async with open_pair() as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.close)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Closed):
            await client.send(b"too late")
        nursery.cancel_scope.cancel()


async def test_connection_that_breaks_is_1006() -> None:
    async with open_pair() as (client, server):
        await client.stream.aclose()
        for end in (client, server):
            with pytest.raises(Closed) as caught:
                await end.receive()

            assert caught.value.code == 1006


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        (frame(8, b"", key=KEY), 1005, ""),
        (frame(8, b"\x03\xe9bye", key=KEY), 1001, "bye"),
        (b"\x83\x80abcd", 1002, "Invalid opcode 0x3"),
        (frame(2, b"unmasked"), 1002, "server received unexpected unmasked frame"),
    ],
)
async def test_how_it_ends(data: bytes, code: int, reason: str) -> None:
    async with open_pair() as (client, server):
        await client.stream.send_all(data)
        with pytest.raises(Closed) as caught:
            await server.receive()

    assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_ping_is_answered_within_a_message() -> None:
    async with open_pair() as (client, server):
        pieces = [frame(2, b"one ", fin=False, key=KEY), frame(9, b"hey", key=KEY)]
        await client.stream.send_all(b"".join([*pieces, frame(0, b"message", key=KEY)]))

        assert await server.receive() == b"one message"
        assert await client.stream.receive_some() == frame(10, b"hey")


async def test_frame_in_the_segment_of_the_request() -> None:
    near, far = memory_stream_pair()
    head = (
        b"GET /deepstream HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with trio.fail_after(5):
        await near.send_all(head + frame(2, b"early", key=KEY))
        server = await accept(far)

        assert await server.receive() == b"early"


async def answer(stream: AnyStream, data: bytes) -> None:
    """Answer any request with these bytes, and hang up."""
    await stream.receive_some()
    await stream.send_all(data)
    await stream.aclose()


async def test_rejection_has_status_and_headers() -> None:
    near, far = memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            response = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
            nursery.start_soon(answer, far, response)
            with pytest.raises(Rejected) as caught:
                await WebSocket.connect(near, "h", "/")

    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize("data", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 101 Sw"])
async def test_no_proper_answer_is_closed(data: bytes) -> None:
    near, far = memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, far, data)
            with pytest.raises(Closed):
                await WebSocket.connect(near, "h", "/")
