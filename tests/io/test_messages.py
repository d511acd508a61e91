"""The relay that shows messages to a hook: what that decides, and what holds as on any other."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from proxy.config.route import Route, SessionLimits
from proxy.io.messages import MessageRelay, OnMessage, unchanged
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.wire.messages import Message
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

from . import test_relay
from .rig import Rig, open_rig
from .test_relay import codes

KEY = b"\x01\x02\x03\x04"
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
#: What holds for every relay, but for what concerns bytes as they came and parts of messages.
STORIES: list[Callable[..., Awaitable[None]]] = [
    test_relay.test_messages_pass_both_ways,
    test_relay.test_client_closes,
    test_relay.test_node_closes_and_is_let_go_at_once,
    test_relay.test_node_is_lost,
    test_relay.test_client_is_lost,
    test_relay.test_close_from_here,
    test_relay.test_silent_peers_are_given_up_on,
    test_relay.test_client_that_closed_is_answered_though_the_node_is_not,
    test_relay.test_pings_of_ours_stay_between_us,
    test_relay.test_sessions_leave_nothing_behind_when_cancelled,
    *(partial(test_relay.test_protocol_errors, side) for side in Side),
]


@pytest.fixture
def contexts(client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> Contexts:
    return client_tls, server_tls


@pytest.mark.parametrize("story", STORIES)
async def test_as_any_relay(story: Callable[..., Awaitable[None]], contexts: Contexts) -> None:
    await story(rig=partial(open_rig, "messages", contexts))


@pytest.fixture
def rig(contexts: Contexts) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_with(on_message: OnMessage = unchanged, **more: Any) -> AsyncIterator[Rig]:
        async with open_rig("messages", contexts, **more) as rig:
            assert isinstance(rig.relay, MessageRelay)
            rig.relay.on_message = on_message
            yield rig

    return open_with


async def shout(message: Message) -> Message | None:
    """Change texts, drop empty messages."""
    data = message.data
    if not data:
        return None
    return Message(data.upper(), message.from_client) if isinstance(data, str) else message


async def test_changed_dropped_and_left_alone(rig: Callable[..., Any]) -> None:
    async with rig(shout) as r:
        for sender, receiver in ((r.client, r.node), (r.node, r.client)):
            for event in (TextMessage("día"), TextMessage(""), BytesMessage(b"as it is")):
                await sender.send(event)

            assert await receiver.receive() == TextMessage("DÍA")
            assert await receiver.receive() == BytesMessage(b"as it is")
    # What was passed on is what counts.
    assert [scanner.messages for scanner in r.tunnel.scanners] == [2, 2]


async def test_the_hook_knows_the_direction(rig: Callable[..., Any]) -> None:
    seen = []

    async def look(message: Message) -> Message:
        seen.append(message)
        return message

    async with rig(look) as r:
        await r.client.send(TextMessage("up"))
        await r.node.receive()
        await r.node.send(BytesMessage(b"down"))
        await r.client.receive()
    assert seen == [Message("up", from_client=True), Message(b"down", from_client=False)]


async def test_fragments_come_out_as_one_frame(rig: Callable[..., Any]) -> None:
    async with rig() as r:
        await r.node.stream.send_all(
            frame(1, b"frag", fin=False) + frame(9, b"between") + frame(0, b"ment")
        )

        expected = frame(9, b"between") + frame(1, b"fragment")
        received = b""
        while len(received) < len(expected):
            received += await r.client.stream.receive_some()
        assert received == expected


async def test_early_messages_are_shown_too(rig: Callable[..., Any]) -> None:
    early = (frame(1, b"from the client", key=KEY), frame(1, b"from the node")[:8])
    async with rig(shout, early=early) as r:
        assert await r.node.receive() == TextMessage("FROM THE CLIENT")
        await r.node.stream.send_all(frame(1, b"from the node")[8:])
        assert await r.client.receive() == TextMessage("FROM THE NODE")


async def test_each_direction_waits_for_its_own_hook_only(rig: Callable[..., Any]) -> None:
    go_on = trio.Event()
    seen: list[str | bytes] = []

    async def slow(message: Message) -> Message:
        seen.append(message.data)
        if message.from_client:
            await go_on.wait()
        return message

    async with rig(slow) as r:
        # All in one piece: the ping goes before the first message, the pong behind it.
        await r.client.stream.send_all(
            frame(9, b"before", key=KEY)
            + frame(2, b"1", key=KEY)
            + frame(10, b"after", key=KEY)
            + frame(2, b"2", key=KEY)
        )
        assert await r.node.receive() == Ping(b"before")
        await r.node.send(BytesMessage(b"down"))
        assert await r.client.receive() == BytesMessage(b"down")
        await trio.testing.wait_all_tasks_blocked()

        assert seen == [b"1", b"down"]
        go_on.set()
        assert await r.node.receive() == BytesMessage(b"1")
        assert await r.node.receive() == Pong(b"after")
        assert await r.node.receive() == BytesMessage(b"2")


async def test_next_message_is_not_read_before_the_last_was_taken() -> None:
    """Over streams that hold nothing: whoever sends has to wait for the reader and for the hook."""
    client, near = trio.testing.lockstep_stream_pair()
    far, node = trio.testing.lockstep_stream_pair()
    relay = MessageRelay(near, far, Tunnel(), Terms(), Timers())
    seen = []

    async def look(message: Message) -> Message:
        seen.append(message.data)
        return message

    relay.on_message = look
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            await node.send_all(frame(2, b"1"))
            nursery.start_soon(node.send_all, frame(2, b"2"))
            await trio.testing.wait_all_tasks_blocked()
            assert seen == [b"1"]

            received = b""
            while len(received) < 6:
                received += await client.receive_some()
            assert received == frame(2, b"1") + frame(2, b"2")
            assert seen == [b"1", b"2"]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("side", "size", "limits", "fits"),
    [
        (Side.CLIENT, 1000, SessionLimits(message_bytes=1000), True),
        (Side.CLIENT, 1001, SessionLimits(message_bytes=1000), False),
        (Side.NODE, 1001, SessionLimits(message_bytes=1000), True),
        (Side.NODE, 1001, SessionLimits(node_message_bytes=1000), False),
        (Side.NODE, 2**18, SessionLimits(held_bytes=2**18), True),
        (Side.NODE, 2**18 + 1, SessionLimits(held_bytes=2**18), False),
        (Side.CLIENT, 2**18 + 1, SessionLimits(held_bytes=2**18, message_bytes=0), False),
    ],
)
async def test_size_of_messages_is_bounded(
    side: Side, size: int, limits: SessionLimits, *, fits: bool, rig: Callable[..., Any]
) -> None:
    route = Route(path="/", upstream="u", websocket=True, limits=limits)
    async with rig(terms=Terms.of(route, 5.0)) as r:
        sender, receiver = r.peer(side), r.peer(side.other)
        await sender.send(BytesMessage(b"x" * size))
        if fits:
            event = await receiver.receive()
            while not event.message_finished:
                event = await receiver.receive()
            return
        assert codes(await receiver.receive()) == (1001, "")
        await receiver.send(CloseConnection(1001))
        assert codes(await sender.receive()) == (1009, "message too big")
        await r.over.wait()
    assert r.tunnel.ending == ("client_limit" if side is Side.CLIENT else "node_limit")
    assert r.tunnel.detail == "message too big"


async def test_text_that_is_not_utf8_is_not_shown(rig: Callable[..., Any]) -> None:
    async with rig(shout) as r:
        await r.client.stream.send_all(frame(1, b"good", key=KEY) + frame(1, b"\xff", key=KEY))

        assert await r.node.receive() == TextMessage("GOOD")
        assert codes(await r.node.receive()) == (1001, "")
        await r.node.send(CloseConnection(1001))
        assert codes(await r.client.receive()) == (1007, "text is not UTF-8")


async def test_what_nobody_will_get_is_not_shown(rig: Callable[..., Any]) -> None:
    seen = []

    async def look(message: Message) -> Message:
        seen.append(message.data)
        return message

    async with rig(look) as r:
        r.relay.close("shutdown", 1012, 1001, "")
        await r.client.stream.send_all(frame(2, b"too late", key=KEY) + frame(8, b"", key=KEY))
        await r.node.stream.send_all(frame(2, b"too late") + frame(8, b""))
        await r.over.wait()
    assert seen == []


async def test_messages_of_a_node_that_was_told_goodbye_still_arrive(
    rig: Callable[..., Any],
) -> None:
    async with rig(shout) as r:
        await r.client.send(CloseConnection(1000))
        await r.node.receive()
        await r.node.stream.send_all(frame(1, b"last words") + frame(8, b"\x03\xe8"))

        assert await r.client.receive() == TextMessage("LAST WORDS")
        assert codes(await r.client.receive()) == (1000, "")


async def test_end_does_not_wait_for_a_hook(
    rig: Callable[..., Any], autojump_clock: trio.testing.MockClock
) -> None:
    cancelled = trio.Event()

    async def stuck(message: Message) -> Message:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with rig(stuck, close_timeout=0.5) as r:
        await r.client.send(TextMessage("hello"))
        await trio.testing.wait_all_tasks_blocked()
        r.relay.close("shutdown", 1012, 1001, "")
        await r.over.wait()

        assert cancelled.is_set()


async def test_what_a_hook_returns_is_bounded_too(rig: Callable[..., Any]) -> None:
    async def swell(message: Message) -> Message:
        return Message(bytes(2**18 + len(message.data)), from_client=message.from_client)

    limits = SessionLimits(held_bytes=2**18)
    route = Route(path="/", upstream="u", websocket=True, limits=limits)
    async with rig(swell, terms=Terms.of(route, 5.0)) as r:
        await r.client.send(BytesMessage(b""))
        received = 0
        while received < 2**18:
            received += len((await r.node.receive()).data)
        await r.client.send(BytesMessage(bytes(100)))

        assert codes(await r.client.receive()) == (1011, "a hook's message is too big")
        assert codes(await r.node.receive()) == (1001, "")
    assert r.tunnel.ending == "hook"
