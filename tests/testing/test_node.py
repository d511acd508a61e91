"""The stand-in node, where a proxy could tell it from a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from proxy.testing.deepstream import (
    CORRELATION,
    DATA,
    IS_ACK,
    NAME,
    NAMES,
    Auth,
    Connection,
    Event,
    Message,
    Topic,
)
from proxy.testing.node import StandInNode, open_nodes
from proxy.testing.websocket import Closed, WebSocket
from tests.wire.strategies import frame

UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\n%b\r\n"
)
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
CHALLENGE, ACCEPT = bytes.fromhex("0610021a020805"), bytes.fromhex("0610021a020804")


async def connect(node: StandInNode) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", node.port)


@asynccontextmanager
async def open_client(node: StandInNode) -> AsyncIterator[WebSocket]:
    async with await connect(node) as stream:
        yield await WebSocket.connect(stream, "h", "/deepstream")


async def receive_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


async def ask(client: WebSocket, message: Message) -> Message:
    await client.send(message.encode())
    answer = await client.receive()
    assert isinstance(answer, bytes)
    return Message.decode(answer)


def subscription(name: str) -> Message:
    return Message(Topic.EVENT, Event.SUBSCRIBE, {CORRELATION: "0", NAMES: name})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            Message(Topic.CONNECTION, Connection.CHALLENGE, {5: "ws://h"}),
            Message(Topic.CONNECTION, Connection.ACCEPT),
        ),
        (
            Message(Topic.CONNECTION, Connection.PING),
            Message(Topic.CONNECTION, Connection.PONG),
        ),
        (Message(Topic.AUTH, Auth.REQUEST, {DATA: "{}"}), Message(Topic.AUTH, Auth.SUCCESSFUL)),
        (
            subscription("ev"),
            Message(Topic.EVENT, Event.SUBSCRIBE, {CORRELATION: "0", IS_ACK: 1}),
        ),
    ],
)
async def test_answers(message: Message, expected: Message) -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], open_client(node) as client:
            assert await ask(client, message) == expected


async def test_is_silent_after_its_101_and_answers_a_probe() -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], await connect(node) as stream:
            await stream.send_all(UPGRADE % (b"/deepstream", KEY))
            head = await stream.receive_some()
            await stream.send_all(frame(2, CHALLENGE, key=b"abcd"))

            assert head.startswith(b"HTTP/1.1 101 ")
            assert head.endswith(b"\r\n\r\n")
            assert await stream.receive_some() == b"\x82\x07" + ACCEPT


async def test_frame_in_the_segment_of_the_request() -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], await connect(node) as stream:
            challenge = frame(2, CHALLENGE, key=b"abcd")
            await stream.send_all(UPGRADE % (b"/deepstream", KEY) + challenge)
            answer = b""
            while not answer.endswith(ACCEPT):
                chunk = await stream.receive_some()
                assert chunk
                answer += chunk


@pytest.mark.parametrize(
    "data",
    [
        UPGRADE % (b"/", KEY),
        UPGRADE % (b"/deepstream/", KEY),
        UPGRADE % (b"/deepstream?x=1", KEY),
        UPGRADE % (b"/deepstream", b""),
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["root", "slash", "query", "no-key", "garbage", "nothing"],
)
async def test_hangs_up_without_a_word(data: bytes) -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node]:
            async with await connect(node) as stream:
                await stream.send_all(data)
                if not data:
                    await stream.send_eof()
                assert await receive_all(stream) == b""
            async with open_client(node) as client:
                ping = Message(Topic.CONNECTION, Connection.PING)

                assert (await ask(client, ping)).action == Connection.PONG


@pytest.mark.parametrize(
    ("path", "status"), [(b"/health-check", b"200"), (b"/deepstream", b"404"), (b"/", b"404")]
)
async def test_plain_requests(path: bytes, status: bytes) -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], await connect(node) as stream:
            await stream.send_all(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path)

            assert (await receive_all(stream)).startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize("message", ["text", b"garbage"])
async def test_what_is_not_its_protocol_ends_the_connection(message: bytes | str) -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], open_client(node) as client:
            await client.send(message)
            with pytest.raises(Closed) as caught:
                await client.receive()

    assert caught.value.code == 1006


async def test_events_cross_the_cluster_but_not_back() -> None:
    event = Message(Topic.EVENT, Event.EMIT, {DATA: "high", NAME: "tide"})
    with trio.fail_after(5):
        async with (
            open_nodes("anna", "bert") as [anna, bert],
            open_client(anna) as ada,
            open_client(bert) as bob,
        ):
            await ask(ada, subscription("tide"))
            await ask(bob, subscription("tide"))
            await bob.send(event.encode())

            assert await ada.receive() == event.encode()
            # bob's next message is the answer to this ping, not his own event.
            pong = await ask(bob, Message(Topic.CONNECTION, Connection.PING))
            assert pong.action == Connection.PONG


async def test_killed_node_refuses_and_comes_back_on_its_port() -> None:
    with trio.fail_after(5):
        async with open_nodes("anna") as [node], trio.open_nursery() as nursery:
            address = node.address
            async with open_client(node) as client:
                node.kill()
                with pytest.raises(Closed):
                    await client.receive()
            with pytest.raises(OSError):
                await connect(node)
            await nursery.start(node.run)
            assert node.address == address
            async with open_client(node):
                nursery.cancel_scope.cancel()
