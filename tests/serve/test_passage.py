"""One client of a TCP listener: to a node, by name, or refused with a record."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import DialTimeout
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.serve.passage import Passage
from tests.wire.test_client_hello import NAME, hello, openssl_hello, server_name

from .world import Peer, World, open_world, read_all

Clock = trio.testing.MockClock
TCP = """
[[listeners]]
name = "tcp"
mode = "tcp"
bind = "127.0.0.1:0"

[[routes]]
listener = "tcp"
upstream = "nodes"
{route}

[upstreams.nodes]
nodes = [ "node-a:1", "node-b:1" ]
balance = "round_robin"
rest = {{ first = 10.0, longest = 60.0, failures = 1 }}
panic = "refuse"
slow_start = 0.0
hold = {{ timeout = {hold} }}
{upstream}
"""
NAMED = """
[[routes]]
listener = "tcp"
upstream = "nodes"
sni = "rt.example.org"
"""


def config(route: str = "", upstream: str = "", hold: float = 0.0) -> str:
    return TCP.format(route=route, upstream=upstream, hold=hold)


def connect(world: World, *, surplus: bool = False) -> Peer:
    return world.connect(surplus=surplus, kind=Passage)


async def echo(stream: trio.abc.Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


class Keeps:
    """A node that reads to the end, keeps what that was, and then answers."""

    def __init__(self, answer: bytes = b"") -> None:
        self.received = b""
        self._answer = answer

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.received += await read_all(stream)
        await stream.send_all(self._answer)


async def closes(stream: trio.abc.Stream) -> None:
    """A node that says nothing."""


async def test_bytes_pass_and_are_accounted_for(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:
        world.nodes["node-a"] = echo
        client = connect(world)
        await client.send_all(b"hello")
        assert await client.receive_some() == b"hello"
        await client.send_eof()

        assert await read_all(client) == b""
        await trio.testing.wait_all_tasks_blocked()
        (record,) = world.records
        assert (record.route, record.upstream, record.node) == ("tcp:tcp", "nodes", "node-a:1")
        assert (record.status, record.token, record.attempts) == (0, "", 1)
        assert (record.ended_by, record.ending) == ("client", "client_closed")
        assert (record.bytes_from_client, record.bytes_from_node) == (5, 5)
        assert record.session_time is not None
        assert not any(node.sessions for node in world.service.upstreams["nodes"].nodes)


async def test_an_answer_comes_behind_the_end_of_the_question(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:
        node = world.nodes["node-a"] = Keeps(b"answer")
        client = connect(world)
        await client.send_all(b"question")
        await client.send_eof()

        assert await read_all(client) == b"answer"
        assert node.received == b"question"


async def test_a_node_may_speak_first(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:

        async def greets(stream: trio.abc.Stream) -> None:
            await stream.send_all(b"220 ready")
            await read_all(stream)

        world.nodes["node-a"] = greets
        client = connect(world)

        assert await client.receive_some() == b"220 ready"


async def test_the_next_node_is_asked(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:
        world.nodes["node-b"] = echo
        client = connect(world)
        await client.send_all(b"hello")

        assert await client.receive_some() == b"hello"
        assert world.dialled == ["node-a", "node-b"]
        # The first one is left alone for a while.
        await connect(world).send_all(b"again")
        await trio.testing.wait_all_tasks_blocked()
        assert world.dialled == ["node-a", "node-b", "node-b"]


@pytest.mark.parametrize(
    ("hold", "token", "detail"),
    [
        (0.0, "connection_refused", "The node refused the connection."),
        (5.0, "destination_unavailable", "No node is available."),
    ],
)
async def test_nobody_is_left(hold: float, token: str, detail: str, autojump_clock: Clock) -> None:
    async with open_world(config(hold=hold)) as world:
        if hold:
            for node in world.service.upstreams["nodes"].nodes:
                node.failed(trio.current_time(), unreachable=True)
        started = trio.current_time()
        assert await read_all(connect(world)) == b""

        (record,) = world.records
        assert (record.status, record.token, record.detail) == (0, token, detail)
        assert record.ended_by == "proxy"
        assert trio.current_time() - started == pytest.approx(hold)
        assert record.hold_time == (pytest.approx(5.0) if hold else None)


async def test_it_waits_for_a_node(autojump_clock: Clock) -> None:
    async with open_world(config(hold=30.0)) as world:
        upstream = world.service.upstreams["nodes"]
        for node in upstream.nodes:
            node.failed(trio.current_time(), unreachable=True)
        world.nodes["node-a"] = echo
        client = connect(world)
        await client.send_all(b"hello")
        await trio.sleep(12)
        assert world.dialled == []
        upstream.release(trio.current_time())

        assert await client.receive_some() == b"hello"
        assert world.records == []


async def test_all_tries_have_one_deadline(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(config()) as world:

        async def dial(
            upstream: Upstream, node: Node, limit: float, header: bytes = b""
        ) -> trio.abc.Stream:
            await trio.sleep(limit)
            raise DialTimeout(node.name)

        monkeypatch.setattr(world.service, "dial", dial)
        started = trio.current_time()
        assert await read_all(connect(world)) == b""

        assert trio.current_time() - started == pytest.approx(4.0)
        assert world.records[0].token == "connection_timeout"


@pytest.mark.parametrize(
    ("limits", "connections", "token"),
    [
        ("{ sessions = 2 }", 3, "connection_limit_reached"),
        ("{ sessions_per_address = 2 }", 3, "connection_limit_reached"),
        ("{ handshakes_per_second = 1.0, burst = 2.0 }", 3, "connection_limit_reached"),
    ],
)
async def test_limits(limits: str, connections: int, token: str, autojump_clock: Clock) -> None:
    async with open_world(config(route=f"limits = {limits}")) as world:
        world.nodes = {"node-a": echo, "node-b": echo}
        clients = [connect(world) for _ in range(connections)]
        await trio.testing.wait_all_tasks_blocked()

        assert [record.token for record in world.records] == [token]
        assert len(world.service.sessions) == connections - 1
        for client in clients:
            await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        # And what there was of places is there again.
        assert not world.service.sessions
        await trio.sleep(1)
        connect(world)
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.service.sessions) == 1


@pytest.mark.parametrize(("exceeded", "ending"), [("pause", None), ("close", "client_limit")])
async def test_a_pace_is_kept(exceeded: str, ending: str | None, autojump_clock: Clock) -> None:
    limits = f'limits = {{ bytes_per_second = 1000, burst = 1.0, exceeded = "{exceeded}" }}'
    async with open_world(config(route=limits)) as world:
        world.nursery.start_soon(world.service.timers.run)
        world.nodes["node-a"] = echo
        client = connect(world)
        started = trio.current_time()
        await client.send_all(bytes(5000))
        received = 0
        while received < 5000 and (data := await client.receive_some()):
            received += len(data)

        if ending is None:
            assert received == 5000
            assert trio.current_time() - started == pytest.approx(4, abs=1.1)
        else:
            assert received < 5000
            assert [record.ending for record in world.records] == [ending]


async def test_an_idle_one_ends(autojump_clock: Clock) -> None:
    async with open_world(config(route="idle_timeout = 20.0")) as world:
        world.nursery.start_soon(world.service.timers.run)
        world.nodes["node-a"] = echo
        client = connect(world)
        started = trio.current_time()

        assert await read_all(client) == b""
        assert 20 <= trio.current_time() - started < 40
        assert [(record.ending, record.ended_by) for record in world.records] == [("idle", "proxy")]


async def test_surplus_and_draining(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:
        assert await read_all(connect(world, surplus=True)) == b""
        world.service.draining = True
        assert await read_all(connect(world)) == b""

        assert [(r.token, r.detail) for r in world.records] == [
            ("connection_limit_reached", "The proxy has reached its connection limit."),
            ("proxy_internal_response", "The proxy is shutting down."),
        ]
        assert world.dialled == []


async def test_one_that_was_connected_as_the_drain_began(autojump_clock: Clock) -> None:
    async with open_world(config()) as world:
        dial = world.service.dial

        async def slowly(
            upstream: Upstream, node: Node, limit: float, header: bytes = b""
        ) -> trio.abc.Stream:
            stream = await dial(upstream, node, limit, header)
            world.service.draining = True
            return stream

        world.service.dial = slowly  # type: ignore[method-assign]  # what the test is about
        node = world.nodes["node-a"] = Keeps()

        assert await read_all(connect(world)) == b""
        assert [record.token for record in world.records] == ["proxy_internal_response"]
        assert node.received == b""
        assert not any(one.sessions for one in world.service.upstreams["nodes"].nodes)


async def test_sessions_are_sent_away(autojump_clock: Clock) -> None:
    """Half ones too."""
    async with open_world(config()) as world:

        async def deaf(stream: trio.abc.Stream) -> None:
            await trio.sleep_forever()

        world.nodes = {"node-a": deaf, "node-b": deaf}
        clients = [connect(world) for _ in range(2)]
        await clients[0].send_eof()
        await trio.testing.wait_all_tasks_blocked()
        await world.service.drain()

        assert [await read_all(client) for client in clients] == [b"", b""]
        assert [record.ending for record in world.records] == ["shutdown", "shutdown"]


@pytest.mark.parametrize(
    ("first", "route"),
    [
        (openssl_hello(NAME), "tcp:tcp/rt.example.org"),
        (openssl_hello("other.example"), "tcp:tcp"),
        (openssl_hello(None), "tcp:tcp"),
        (b"\x10\x0c\0\x04MQTT", "tcp:tcp"),
    ],
    ids=["named", "other", "unnamed", "plain"],
)
@pytest.mark.parametrize("size", [1, 100, 2**20])
async def test_by_name(first: bytes, route: str, size: int, autojump_clock: Clock) -> None:
    async with open_world(config() + NAMED) as world:
        node = world.nodes["node-a"] = Keeps()
        client = connect(world)
        data = first + b"and more"
        for at in range(0, len(data), size):
            await client.send_all(data[at : at + size])
        await client.send_eof()
        await read_all(client)
        await trio.testing.wait_all_tasks_blocked()

        assert node.received == data
        (record,) = world.records
        assert record.route == route
        assert record.bytes_from_client == len(data)
        assert record.host == (NAME if "/" in route else record.host)


@pytest.mark.parametrize(
    ("first", "token", "detail"),
    [
        (
            openssl_hello("other.example"),
            "destination_not_found",
            "No route is for the server name 'other.example'.",
        ),
        (
            b"GET / HTTP/1.1\r\n",
            "destination_not_found",
            "No route is for clients that ask for no server name.",
        ),
        (
            hello(server_name(b"a", b"b")),
            "tls_protocol_error",
            "The ClientHello asks for several names, or for none.",
        ),
    ],
)
async def test_no_route(first: bytes, token: str, detail: str, autojump_clock: Clock) -> None:
    only = config(route='sni = "rt.example.org"')
    async with open_world(only) as world:
        client = connect(world)
        await client.send_all(first)

        assert await read_all(client) == b""
        assert [(r.status, r.token, r.detail) for r in world.records] == [(0, token, detail)]
        assert world.dialled == []


async def test_a_name_has_to_come_in_time(autojump_clock: Clock) -> None:
    async with open_world(config() + NAMED) as world:
        client = connect(world)
        started = trio.current_time()
        for byte in openssl_hello(NAME)[:8]:
            await client.send_all(bytes((byte,)))
            await trio.sleep(1)

        assert await read_all(client) == b""
        assert trio.current_time() - started == pytest.approx(10)
        (record,) = world.records
        assert (record.token, record.detail) == (
            "tls_protocol_error",
            "The ClientHello was not complete in time.",
        )


async def test_one_that_hangs_up_before_its_name(autojump_clock: Clock) -> None:
    async with open_world(config() + NAMED) as world:
        client = connect(world)
        await client.send_all(openssl_hello(NAME)[:100])
        await client.send_eof()

        assert await read_all(client) == b""
        (record,) = world.records
        assert (record.ended_by, record.ending) == ("client", "client_lost")
        assert record.detail == "It hung up before its ClientHello was complete."


async def test_it_is_under_way_only_when_it_has_asked(autojump_clock: Clock) -> None:
    """A drain does not wait for those who say nothing."""
    async with open_world(config() + NAMED) as world:
        connect(world)
        await trio.testing.wait_all_tasks_blocked()

        assert world.service.under_way.count == 0


async def test_that_a_node_hangs_up_first_is_no_sign_of_its_end(autojump_clock: Clock) -> None:
    """But one that does so without a word is looked at."""
    async with open_world(config(upstream="detect_drain = { closes = 1, share = 0.01 }")) as world:

        async def greets(stream: trio.abc.Stream) -> None:
            await stream.send_all(b"bye")

        world.nodes = {"node-a": greets, "node-b": closes}
        for _ in range(2):
            client = connect(world)
            await read_all(client)
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()

        assert [record.ending for record in world.records] == ["node_closed"] * 2
        first, second = world.service.upstreams["nodes"].nodes
        assert (first.health.suspect, second.health.suspect) == (False, True)
        assert not any(one.drain.draining(trio.current_time()) for one in (first, second))


async def test_hash_goes_by_the_client(autojump_clock: Clock) -> None:
    text = config().replace("round_robin", "hash")
    async with open_world(text) as world:
        world.nodes = {"node-a": echo, "node-b": echo}
        for _ in range(4):
            connect(world)
        await trio.testing.wait_all_tasks_blocked()

        assert len(world.dialled) == 4
        assert len(set(world.dialled)) == 1


async def test_a_bug_ends_one_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async with open_world(config()) as world:
        monkeypatch.setattr(world.service.passages, "match", lambda *_: 1 / 0)
        assert await read_all(connect(world)) == b""

        assert "ZeroDivisionError" in caplog.text
        assert [record.token for record in world.records] == ["proxy_internal_error"]


async def test_one_that_is_cancelled_leaves_a_record(autojump_clock: Clock) -> None:
    async with open_world(config(hold=60.0)) as world:
        for node in world.service.upstreams["nodes"].nodes:
            node.failed(trio.current_time(), unreachable=True)
        connect(world)
        await trio.testing.wait_all_tasks_blocked()
        world.nursery.cancel_scope.cancel()
        records = world.records

    assert [(record.ended_by, record.ending) for record in records] == [("proxy", "cancelled")]
