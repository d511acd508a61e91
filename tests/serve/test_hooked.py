"""Hooks at work: what follows from what they return, and from how they fail."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from proxy import Allow, Handshake, Hooks, Message, Record, Refuse, SessionView
from proxy.wire.frames import unmask
from tests.wire.strategies import frame

from .world import (
    ACCEPTED,
    CONFIG,
    UPGRADE,
    Peer,
    World,
    answering,
    open_world,
    read_all,
    read_head,
    status,
    token,
)

Clock = trio.testing.MockClock
KEY = b"\x01\x02\x03\x04"
TWO = f"""
{CONFIG}
[upstreams.vip]
nodes = [ "vip-a:1", "vip-b:1" ]
hold = {{ timeout = 0.0 }}
panic = "refuse"
"""


class Node:
    """A node that accepts and keeps what it is sent; `first` goes out behind its 101."""

    def __init__(self, first: bytes = b"") -> None:
        self.requests: list[bytes] = []
        self.received = b""
        self._first = first

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.requests.append(await read_head(stream))
        await stream.send_all(ACCEPTED + self._first)
        while data := await stream.receive_some():
            self.received += data
            if data.startswith(b"\x88"):
                await stream.send_all(frame(8, b""))


@asynccontextmanager
async def hooked(hooks: Hooks, config: str = TWO) -> AsyncIterator[tuple[World, Node]]:
    """Run a world where all nodes are one."""
    async with open_world(config, hooks={"/deepstream": hooks}) as world:
        node = Node()
        world.nodes = dict.fromkeys(("node-a", "node-b", "vip-a", "vip-b"), node)
        yield world, node


async def open_session(world: World, upgrade: bytes = UPGRADE) -> Peer:
    client = world.connect()
    await client.send_all(upgrade)
    head = await client.receive_some()
    assert head == ACCEPTED, head
    return client


class Notes:
    """Hooks that note when they are called, and then do as told."""

    def __init__(self, at_open: Callable[[SessionView], None] = lambda session: None) -> None:
        self.calls: list[str] = []
        self.records: list[Record] = []
        self.sessions: list[SessionView] = []
        self._at_open = at_open

    async def on_open(self, session: SessionView) -> None:
        self.calls.append("open")
        self.sessions.append(session)
        self._at_open(session)

    async def on_close(self, record: Record) -> None:
        self.calls.append("close")
        await trio.lowlevel.checkpoint()
        self.records.append(record)

    def hooks(self) -> Hooks:
        return Hooks(on_open=self.on_open, on_close=self.on_close)


# on_handshake


async def test_the_hook_sees_the_handshake(autojump_clock: Clock) -> None:
    seen: list[Handshake] = []

    async def look(handshake: Handshake) -> None:
        seen.append(handshake)

    async with hooked(Hooks(on_handshake=look)) as (world, _):
        more = b"Cookie: a=1\r\nSec-WebSocket-Protocol: one, two\r\nHost:"
        answer = await world.ask(UPGRADE.replace(b"Host:", more))

        assert status(answer) == 101
        (handshake,) = seen
        (record,) = world.records
        assert handshake.id == record.id
        assert (handshake.client, handshake.address) == ("192.0.2.7:555", "192.0.2.7")
        assert (handshake.listener, handshake.scheme) == ("", "http")
        assert (handshake.host, handshake.target) == ("rt.example", "/deepstream")
        assert handshake.subprotocols == ("one", "two")
        assert (handshake.route, handshake.upstream) == ("/deepstream", "nodes")
        assert handshake.headers[:2] == (
            ("Cookie", "a=1"),
            ("Sec-WebSocket-Protocol", "one, two"),
        )
        assert handshake.cookie("a") == handshake.cookie("a") == "1"
        assert record.hook_time == 0


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (UPGRADE, True),
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), False),
        (UPGRADE.replace(b"Host:", b"Origin: https://evil\r\nHost:"), False),
        (UPGRADE.replace(b"/deepstream", b"/other"), False),
        (b"GET /deepstream HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n", False),
    ],
)
async def test_asked_about_valid_handshakes_only(
    request_: bytes, *, asked: bool, autojump_clock: Clock
) -> None:
    seen: list[Handshake] = []

    async def refuse(handshake: Handshake) -> Refuse:
        seen.append(handshake)
        return Refuse(403)

    async with hooked(Hooks(on_handshake=refuse)) as (world, _):
        world.nodes = {}
        await world.ask(request_)

        assert bool(seen) is asked


async def test_refusal_is_the_hooks_own(autojump_clock: Clock) -> None:
    async def refuse(handshake: Handshake) -> Refuse:
        headers = [("Location", "/login"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        return Refuse(302, headers, b"<a href=/login>")

    async with hooked(Hooks(on_handshake=refuse)) as (world, _):
        client = world.connect()
        for _ in range(2):
            # The connection carries more requests.
            await client.send_all(UPGRADE)
            answer = b""
            while not answer.endswith(b">"):
                answer += await client.receive_some()

            assert answer == (
                b"HTTP/1.1 302 Found\r\nContent-Length: 15\r\n"
                b"Proxy-Status: tidegate; error=http_request_denied\r\n"
                b"Location: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n<a href=/login>"
            )
        assert world.dialled == []
        record = world.records[0]
        assert (record.status, record.token) == (302, "http_request_denied")
        assert (record.ended_by, record.detail) == ("proxy", "A hook has refused the handshake.")


@pytest.mark.parametrize(
    ("allow", "dialled", "upstream"),
    [
        (None, ["node-a"], "nodes"),
        (Allow(), ["node-a"], "nodes"),
        (Allow(upstream="vip"), ["vip-a"], "vip"),
        (Allow(node="node-b:1"), ["node-b"], "nodes"),
        (Allow(upstream="vip", node="vip-b:1"), ["vip-b"], "vip"),
    ],
)
async def test_where_a_handshake_goes(
    allow: Allow | None, dialled: list[str], upstream: str, autojump_clock: Clock
) -> None:
    async def pick(handshake: Handshake) -> Allow | None:
        return allow

    async with hooked(Hooks(on_handshake=pick)) as (world, _):
        client = await open_session(world)

        assert world.dialled == dialled
        (session,) = world.service.sessions
        assert (session.upstream.name, session.record.upstream) == (upstream, upstream)
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert world.records[0].upstream == upstream


@pytest.mark.parametrize(
    ("node", "expected", "dialled"),
    [
        ("node-z:1", (500, "destination_unavailable"), []),
        ("vip-a:1", (500, "destination_unavailable"), []),
        ("node-b:1", (502, "connection_refused"), ["node-b"]),
    ],
)
async def test_node_that_cannot_be_asked(
    node: str, expected: tuple[int, str], dialled: list[str], autojump_clock: Clock
) -> None:
    async def pick(handshake: Handshake) -> Allow:
        return Allow(node=node)

    async with hooked(Hooks(on_handshake=pick)) as (world, _):
        del world.nodes["node-b"]
        answer = await world.ask(UPGRADE)

        assert (status(answer), token(answer)) == expected
        assert world.dialled == dialled


async def test_unwilling_node_has_the_last_word_if_it_is_the_only_one(
    autojump_clock: Clock,
) -> None:
    async def pick(handshake: Handshake) -> Allow:
        return Allow(node="node-b:1")

    async with hooked(Hooks(on_handshake=pick)) as (world, _):
        world.nodes["node-b"] = answering(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno")
        answer = await world.ask(UPGRADE)

        assert (status(answer), token(answer)) == (503, "")
        assert answer.endswith(b"no")
        assert world.dialled == ["node-b"]


async def test_headers_for_the_node(autojump_clock: Clock) -> None:
    async def change(handshake: Handshake) -> Allow:
        changes = [
            ("Cookie", None),
            ("X-User", "ada"),
            ("Host", "inner"),
            ("X-Forwarded-For", "203.0.113.9"),
        ]
        return Allow(headers=changes)

    async with hooked(Hooks(on_handshake=change)) as (world, node):
        await world.ask(UPGRADE.replace(b"Host:", b"Cookie: a\r\nX-USER: root\r\nHost:"))

        lines = node.requests[0].split(b"\r\n")
        assert {b"X-User: ada", b"Host: inner", b"X-Forwarded-For: 203.0.113.9"} <= set(lines)
        names = [line.partition(b":")[0].lower() for line in lines]
        assert b"cookie" not in names
        assert [names.count(name) for name in (b"x-user", b"host", b"x-forwarded-for")] == [1] * 3


async def explode(*_: object) -> None:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


async def explode_in_a_nursery(*_: object) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(explode)


async def say_true(handshake: Handshake) -> object:
    return True


async def pick_nowhere(handshake: Handshake) -> Allow:
    return Allow(upstream="nowhere")


async def sleep(*_: object) -> None:
    await trio.sleep_forever()


def not_async(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("hook", "log", "time"),
    [
        (explode, "ZeroDivisionError", 0),
        (explode_in_a_nursery, "ZeroDivisionError", 0),
        (say_true, "on_handshake returns Allow, Refuse or None, not True", 0),
        (pick_nowhere, "no upstream is called 'nowhere'; there are: 'nodes', 'vip'", 0),
        (not_async, "TypeError", 0),
        (sleep, "hook timed out", 5),
    ],
)
async def test_hook_that_fails_is_a_500(
    hook: Callable[[Handshake], object],
    log: str,
    time: float,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: Clock,
) -> None:
    async with hooked(Hooks(on_handshake=hook)) as (world, _):  # type: ignore[arg-type]  # as it may be
        client = world.connect()
        started = trio.current_time()
        await client.send_all(UPGRADE)
        answer = await read_all(client)

        assert (status(answer), token(answer)) == (500, "proxy_internal_error")
        assert trio.current_time() - started == pytest.approx(time)
        assert log in caplog.text
        record = world.records[0]
        assert (record.status, record.token) == (500, "proxy_internal_error")
        assert record.hook_time == pytest.approx(time)
        assert vars(caplog.records[0])["hook"] == "on_handshake"
        assert vars(caplog.records[0])["id"] == record.id
        assert world.dialled == []
        # Others are served.
        assert status(await world.ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")) == 404


async def test_client_that_hangs_up_is_not_decided_on(autojump_clock: Clock) -> None:
    cancelled = trio.Event()

    async def ponder(handshake: Handshake) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with hooked(Hooks(on_handshake=ponder)) as (world, _):
        client = world.connect()
        await client.send_all(UPGRADE)
        await trio.sleep(1)
        await client.aclose()
        await cancelled.wait()
        await trio.testing.wait_all_tasks_blocked()

        assert trio.current_time() == pytest.approx(1)
        (record,) = world.records
        assert (record.ended_by, record.ending) == ("client", "client_lost")
        assert record.hook_time == pytest.approx(1)


async def test_what_comes_during_the_hook_is_kept(autojump_clock: Clock) -> None:
    go_on = trio.Event()

    async def ponder(handshake: Handshake) -> None:
        await go_on.wait()

    async with hooked(Hooks(on_handshake=ponder)) as (world, node):
        client = world.connect()
        await client.send_all(UPGRADE)
        await trio.testing.wait_all_tasks_blocked()
        early = frame(2, b"early", key=KEY)
        await client.send_all(early)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        await read_head(client)
        await trio.testing.wait_all_tasks_blocked()

        assert node.received == early


# on_open and on_close


async def test_a_sessions_beginning_and_end(autojump_clock: Clock) -> None:
    notes = Notes()
    async with hooked(notes.hooks()) as (world, _):
        client = await open_session(world)
        await trio.testing.wait_all_tasks_blocked()
        assert notes.calls == ["open"]
        (session,) = notes.sessions
        assert (session.client, session.route) == ("192.0.2.7:555", "/deepstream")
        assert (session.upstream, session.node) == ("nodes", "node-a:1")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert notes.calls == ["open", "close"]
        assert notes.records == world.records
        assert notes.records[0].id == session.id
        assert (notes.records[0].ending, notes.records[0].session_time) == ("client_lost", 0)


async def test_frames_wait_for_the_beginning(autojump_clock: Clock) -> None:
    async def wait(session: SessionView) -> None:
        await trio.sleep(3)

    async with hooked(Hooks(on_open=wait)) as (world, _):
        node = world.nodes["node-a"] = Node(first=frame(2, b"early"))
        client = world.connect()
        early = frame(2, b"early", key=KEY)
        await client.send_all(UPGRADE + early)
        assert await client.receive_some() == ACCEPTED
        with trio.move_on_after(2.9):
            await client.receive_some()
        assert node.received == b""
        assert await client.receive_some() == frame(2, b"early")
        await trio.testing.wait_all_tasks_blocked()

        assert node.received == early
        assert trio.current_time() == pytest.approx(3)


async def read_closes(client: Peer, node: Node) -> tuple[bytes, bytes]:
    """Answer the client's Close; return the payload of both sides' first frames."""
    data = bytes(await client.receive_some())
    await client.send_all(frame(8, b"", key=KEY))
    await read_all(client)
    return data[2:], payload(node.received)


def payload(masked: bytes) -> bytes:
    """Return the payload of a short frame that came from a client."""
    return unmask(masked[6:], masked[2:6])


@pytest.mark.parametrize(("hook", "log"), [(explode, "hook failed"), (sleep, "hook timed out")])
async def test_beginning_that_fails_ends_the_session(
    hook: Callable[[SessionView], object],
    log: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: Clock,
) -> None:
    notes = Notes()
    hooks = Hooks(on_open=hook, on_close=notes.on_close)  # type: ignore[arg-type]  # it may be
    async with hooked(hooks) as (world, node):
        client = await open_session(world)
        await client.send_all(frame(2, b"never relayed", key=KEY))
        closes = await read_closes(client, node)

        assert closes == (b"\x03\xf3hook failed", b"\x03\xe9")
        assert log in caplog.text
        (record,) = world.records
        assert (record.ended_by, record.ending) == ("proxy", "hook")
        assert (record.close_to_client, record.close_to_node) == (1011, 1001)
        await trio.testing.wait_all_tasks_blocked()
        assert notes.records == [record]


async def test_session_that_is_not_wanted_is_closed_as_it_opens(autojump_clock: Clock) -> None:
    notes = Notes(lambda session: session.close(4003, "not today"))
    async with hooked(notes.hooks()) as (world, node):
        client = await open_session(world)

        assert await read_closes(client, node) == (b"\x0f\xa3not today", b"\x03\xe9")
        assert (world.records[0].ending, world.records[0].detail) == ("hook", "not today")


async def test_session_can_be_closed_at_any_time_and_later(autojump_clock: Clock) -> None:
    notes = Notes()
    async with hooked(notes.hooks()) as (world, node):
        client = await open_session(world)
        await trio.sleep(10)
        notes.sessions[0].close(1008)

        assert await read_closes(client, node) == (b"\x03\xf0", b"\x03\xe9")
        await trio.testing.wait_all_tasks_blocked()
        notes.sessions[0].close(1008)


@pytest.mark.parametrize(
    ("hook", "log", "time"), [(explode, "hook failed", 0), (sleep, "hook timed out", 5)]
)
async def test_end_that_fails_is_logged(
    hook: Callable[[Record], object],
    log: str,
    time: float,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: Clock,
) -> None:
    async with hooked(Hooks(on_close=hook)) as (world, _):  # type: ignore[arg-type]  # as it may be
        client = await open_session(world)
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        # Neither the node nor its place in the list of sessions waits for the hook.
        assert world.service.upstreams["nodes"].nodes[0].sessions == 0
        assert len(world.records) == 1
        await trio.sleep(time)
        await trio.testing.wait_all_tasks_blocked()

        assert log in caplog.text


async def test_no_session_no_calls(autojump_clock: Clock) -> None:
    notes = Notes()
    async with hooked(notes.hooks()) as (world, _):
        world.nodes = dict.fromkeys(world.nodes, answering(b"HTTP/1.1 403 No\r\n\r\n"))
        assert status(await world.ask(UPGRADE)) == 403
        await trio.testing.wait_all_tasks_blocked()

        assert notes.calls == []


async def test_end_follows_a_beginning_wherever_it_is_cancelled(autojump_clock: Clock) -> None:
    """Cancel at every moment of a session's life: on_close once if on_open, with its record."""
    reached = set()
    for moment in range(1, 40):
        notes = Notes()

        async def slowly(session: SessionView, notes: Notes = notes) -> None:
            await notes.on_open(session)
            await trio.sleep(0.004)

        async with hooked(Hooks(on_open=slowly, on_close=notes.on_close)) as (world, _):
            client = world.connect()
            await client.send_all(UPGRADE)
            world.nursery.start_soon(close_after, 0.006, client)
            await trio.sleep(moment / 4000)
        assert notes.calls in ([], ["open", "close"])
        assert notes.records == (world.records if notes.calls else [])
        assert len(world.records) == 1
        reached.add(world.records[0].ending)
    assert reached == {"cancelled", "client_closed"}


async def close_after(seconds: float, client: Peer) -> None:
    await trio.sleep(seconds)
    await client.send_all(frame(8, b"", key=KEY))


# on_message


async def shout(session: SessionView, message: Message) -> Message | None:
    """Change texts, drop binary messages, say who it is."""
    if isinstance(message.data, bytes):
        return None
    return Message(f"{session.node} {message.data.upper()}", message.from_client)


async def test_messages_are_changed_and_extensions_are_not_offered(autojump_clock: Clock) -> None:
    async with hooked(Hooks(on_message=shout)) as (world, node):
        client = await open_session(
            world,
            UPGRADE.replace(b"Host:", b"Sec-WebSocket-Extensions: permessage-deflate\r\nHost:"),
        )
        await client.send_all(frame(2, b"dropped", key=KEY) + frame(1, b"hello", key=KEY))
        await trio.testing.wait_all_tasks_blocked()

        assert payload(node.received) == b"node-a:1 HELLO"
        assert b"extensions" not in node.requests[0].lower()
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert world.records[0].messages_from_client == 1


async def test_other_routes_keep_their_extensions(autojump_clock: Clock) -> None:
    async with hooked(Hooks()) as (world, node):
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\nHost:"
        await world.ask(UPGRADE.replace(b"Host:", offer))

        assert b"permessage-deflate" in node.requests[0]


async def answer_with_bytes(session: SessionView, message: Message) -> object:
    return message.data


@pytest.mark.parametrize(
    ("hook", "log"),
    [
        (explode, "ZeroDivisionError"),
        (answer_with_bytes, "on_message returns a Message or None, not b'hello'"),
        (sleep, "hook timed out"),
    ],
)
async def test_message_that_fails_ends_the_session(
    hook: Callable[[SessionView, Message], object],
    log: str,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: Clock,
) -> None:
    async with hooked(Hooks(on_message=hook)) as (world, node):  # type: ignore[arg-type]  # it may be
        client = await open_session(world)
        await client.send_all(frame(2, b"hello", key=KEY) * 2)

        assert await read_closes(client, node) == (b"\x03\xf3hook failed", b"\x03\xe9")
        assert log in caplog.text
        # It is not called again.
        assert len(caplog.records) == 1
        (record,) = world.records
        assert (record.ended_by, record.ending) == ("proxy", "hook")
        assert (record.messages_from_client, record.detail) == (0, "hook failed")


async def test_message_may_be_the_last(autojump_clock: Clock) -> None:
    async def once(session: SessionView, message: Message) -> Message:
        session.close(4000, "that was it")
        return message

    async with hooked(Hooks(on_message=once)) as (world, node):
        client = await open_session(world)
        await client.send_all(frame(2, b"1", key=KEY) + frame(2, b"2", key=KEY))

        assert await read_closes(client, node) == (b"\x0f\xa0that was it", b"\x03\xe9")


async def allow(handshake: Handshake) -> Allow:
    return Allow(headers=[("X-User", "ada")])


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(on_handshake=allow, on_open=sleep, on_close=explode, on_message=shout),
        Hooks(on_open=explode, on_close=sleep, on_message=shout),
        Hooks(on_message=explode),
    ],
)
async def test_hooks_leave_nothing_for_the_garbage_collector(
    hooks: Hooks, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    # What is logged is kept, with its traceback, for as long as the test runs.
    caplog.set_level(logging.CRITICAL, logger="tidegate")
    # Memory streams are cycles themselves.
    assert await garbage_of(hooks) == await garbage_of(Hooks())


async def garbage_of(hooks: Hooks) -> int:
    """Count what only the garbage collector could free of ten sessions."""
    async with hooked(hooks) as (world, _):
        await ten_sessions(world)
        gc.collect()
        gc.disable()
        try:
            await ten_sessions(world)
            return gc.collect()
        finally:
            gc.enable()


async def ten_sessions(world: World) -> None:
    for _ in range(10):
        client = await open_session(world)
        await client.send_all(frame(1, b"hello", key=KEY))
        await trio.sleep(6)
        await client.aclose()
        await trio.sleep(6)
    world.streams.clear()
