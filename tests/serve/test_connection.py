"""One client, from accept to close: every row of the error table, and the record it leaves."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
import trio.testing

from proxy.config.model import Timeouts
from proxy.errors import ClosedEarly
from tests.wire.strategies import frame

from .world import (
    ACCEPTED,
    CONFIG,
    UPGRADE,
    Recorder,
    Serve,
    answering,
    open_world,
    read_all,
    read_head,
    silent,
    status,
    token,
)

Clock = trio.testing.MockClock
KEY = b"\x01\x02\x03\x04"
HOST = b"Host: rt.example\r\n"


def get(target: bytes, more: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def upgrade(old: bytes = b"", new: bytes = b"") -> bytes:
    return UPGRADE.replace(old, new) if old else UPGRADE


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get(b"/nowhere"), (404, "destination_not_found")),
        (upgrade(b"/deepstream", b"/deepstreamXX"), (404, "destination_not_found")),
        (upgrade(b"/deepstream", b"/deepstream?x=1"), (404, "destination_not_found")),
        (upgrade(b"/deepstream", b"/deepstream/"), (404, "destination_not_found")),
        (upgrade(b"/deepstream", b"/api"), (404, "destination_not_found")),
        (get(b"/deepstream"), (426, "http_request_error")),
        (upgrade(b"Version: 13", b"Version: 8"), (426, "http_request_error")),
        (upgrade(b"Sec-WebSocket-Key", b"X-Key"), (400, "http_request_error")),
        (upgrade(b"jZQ==", b""), (400, "http_request_error")),
        (upgrade(b"dGhl", b"?"), (400, "http_request_error")),
        (upgrade(b"GET", b"POST"), (400, "http_request_error")),
        (upgrade(b"Upgrade: websocket", b"Origin: https://evil"), (400, "http_request_error")),
        (upgrade(b"Host:", b"Origin: https://evil\r\nHost:"), (403, "http_request_denied")),
        (get(b"/api").replace(b"GET", b"TRACE"), (405, "http_request_denied")),
        (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", (405, "http_request_denied")),
        (get(b"/api", b"Content-Length: 1\r\nContent-Length: 1\r\n"), (400, "http_request_error")),
        (
            get(b"/api", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            (400, "http_request_error"),
        ),
        (b"GET /api HTTP/1.1\nHost: a\n\n", (400, "http_request_error")),
        (get(b"/api", b"X: a\0b\r\n"), (400, "http_request_error")),
        (get(b"/api", b"X: a\r\n b\r\n"), (400, "http_request_error")),
        (get(b"/api", b"X : a\r\n"), (400, "http_request_error")),
        (b"GET /api HTTP/1.1\r\n\r\n", (400, "http_request_error")),
        (get(b"/api", HOST), (400, "http_request_error")),
        (get(b"/api").replace(b"rt.example", b"a/b"), (400, "http_request_error")),
        (get(b"/api", b"X: " + b"a" * 20_000), (431, "http_request_error")),
        (get(b"/api", b"X: a\r\n" * 101), (431, "http_request_error")),
        (get(b"/" + b"a" * 9_000), (414, "http_request_error")),
        (get(b"/api", b"Content-Length: 1048577\r\n"), (413, "http_request_error")),
        (get(b"/api", b"Transfer-Encoding: gzip\r\n"), (501, "http_request_error")),
        (get(b"/api").replace(b"HTTP/1.1", b"HTTP/2.0"), (505, "http_request_error")),
    ],
)
async def test_answered_here_and_never_at_a_node(
    request_: bytes, expected: tuple[int, str], autojump_clock: Clock
) -> None:
    async with open_world() as world:
        world.nodes = {"node-a": Recorder(), "node-b": Recorder()}
        answer = await world.ask(request_)

        assert (status(answer), token(answer)) == expected
        assert b"Cache-Control: no-store\r\n" in answer
        assert world.dialled == []
        (record,) = world.records
        assert (record.status, record.token) == expected
        assert record.ended_by == "proxy"


async def test_wrong_version_is_told_the_right_one(autojump_clock: Clock) -> None:
    async with open_world() as world:
        answer = await world.ask(upgrade(b"Version: 13", b"Version: 8"))

        assert b"Sec-WebSocket-Version: 13\r\n" in answer


async def test_allowed_origin_passes(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = answering(ACCEPTED)
        answer = await world.ask(upgrade(b"Host:", b"Origin: https://good.example\r\nHost:"))

        assert status(answer) == 101


@pytest.mark.parametrize(
    ("sent", "answer", "detail"),
    [
        (b"", b"", "It sent no request in time."),
        (b"GET /a", b"HTTP/1.1 408 ", "The request head was not complete in time."),
    ],
)
async def test_heads_have_a_deadline(
    sent: bytes, answer: bytes, detail: str, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        client = world.connect()
        if sent:
            await client.send_all(sent)
        started = trio.current_time()

        assert (await read_all(client))[:13] == answer
        assert trio.current_time() - started == pytest.approx(10)
        assert world.records[0].detail == detail


async def test_client_that_asks_nothing_leaves_a_record(autojump_clock: Clock) -> None:
    async with open_world() as world:
        client = world.connect()
        await client.send_stream.aclose()
        assert await read_all(client) == b""
        assert [(r.status, r.detail) for r in world.records] == [
            (0, "It hung up before a request.")
        ]


async def test_surplus_and_draining(autojump_clock: Clock) -> None:
    async with open_world() as world:
        answer = await world.ask(UPGRADE, surplus=True)
        assert (status(answer), token(answer)) == (503, "connection_limit_reached")
        assert b"Retry-After: 5\r\n" in answer
        world.service.draining = True
        answer = await world.ask(UPGRADE)
        assert (status(answer), token(answer)) == (503, "proxy_internal_response")
        assert b"Retry-After: 1\r\n" in answer
        assert world.dialled == []


async def test_handshake_that_is_at_a_node_when_the_drain_begins(autojump_clock: Clock) -> None:
    """No 101 that would be followed by a Close: the client resets its back-off on a 101."""
    async with open_world() as world:

        async def node(stream: trio.abc.Stream) -> None:
            await read_head(stream)
            world.service.draining = True
            await stream.send_all(ACCEPTED)
            await read_all(stream)

        world.nodes["node-a"] = node
        answer = await world.ask(UPGRADE)

        assert (status(answer), token(answer)) == (503, "proxy_internal_response")


async def test_second_request_has_the_same_time_for_its_head(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = Recorder(body=b"")
        client = world.connect()
        await client.send_all(get(b"/api"))
        await client.receive_some()
        await trio.sleep(30)
        started = trio.current_time()
        await client.send_all(b"GET /api")
        answer = await read_all(client)

        assert status(answer) == 408
        assert trio.current_time() - started == pytest.approx(10)


async def test_refused_requests_are_in_the_record(autojump_clock: Clock) -> None:
    async with open_world() as world:
        await world.ask(get(b"/api/../secret"))

        (record,) = world.records
        assert (record.method, record.target) == ("GET", "/api/../secret")


async def test_a_bug_is_a_500_and_a_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        monkeypatch.setattr(world.service.routes, "match", lambda *_, **__: 1 / 0)
        answer = await world.ask(get(b"/api"))

        assert (status(answer), token(answer)) == (500, "proxy_internal_error")
        assert "ZeroDivisionError" in caplog.text
        assert world.records[0].token == "proxy_internal_error"


REFUSED = (502, "connection_refused")


@pytest.mark.parametrize(
    ("node", "expected", "asked", "rests"),
    [
        (None, REFUSED, 2, True),
        (answering(), (502, "connection_terminated"), 2, False),
        (answering(b"\x00garbage"), (502, "http_protocol_error"), 1, True),
        (answering(b"HTTP/1.1 101"), (502, "http_protocol_error"), 1, True),
        (
            answering(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000),
            (502, "http_protocol_error"),
            1,
            True,
        ),
        (answering(ACCEPTED.replace(b"xOo", b"xxx")), (502, "http_upgrade_failed"), 1, True),
        (
            answering(ACCEPTED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: x\r\n\r\n")),
            (502, "http_upgrade_failed"),
            1,
            True,
        ),
        (silent, (504, "http_response_timeout"), 1, True),
    ],
)
async def test_broken_nodes(
    node: Serve | None, expected: tuple[int, str], asked: int, *, rests: bool, autojump_clock: Clock
) -> None:
    """Every row of the table: the answer, whether another is tried, whether it counts."""
    async with open_world() as world:
        if node:
            world.nodes = {"node-a": node, "node-b": node}
        answer = await world.ask(UPGRADE)

        assert (status(answer), token(answer)) == expected
        assert len(world.dialled) == asked
        first = world.service.upstreams["nodes"].nodes[0]
        assert first.takes(trio.current_time()) is not rests
        assert first.sessions == 0
        assert (world.records[0].attempts, world.records[0].token) == (asked, expected[1])


async def test_502_then_500_while_all_rest_then_again(autojump_clock: Clock) -> None:
    async with open_world() as world:
        answers = [await world.ask(UPGRADE), await world.ask(UPGRADE)]
        await trio.sleep(10)
        answers.append(await world.ask(UPGRADE))

        assert [(status(a), token(a)) for a in answers] == [
            REFUSED,
            (500, "destination_unavailable"),
            REFUSED,
        ]
        assert b"Retry-After: 10\r\n" in answers[1]


async def test_next_node_takes_over(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-b"] = answering(ACCEPTED)
        answer = await world.ask(UPGRADE)

        assert status(answer) == 101
        assert world.dialled == ["node-a", "node-b"]
        assert (world.records[0].node, world.records[0].attempts) == ("node-b:1", 2)


async def test_wrong_answers_of_clients_paths_never_eject_a_node(autojump_clock: Clock) -> None:
    """A deepstream node hangs up on paths that it does not know: nothing is wrong with it."""
    async with open_world() as world:
        world.nodes = {"node-a": answering(), "node-b": answering()}
        for _ in range(20):
            assert token(await world.ask(UPGRADE)) == ClosedEarly.token

        nodes = world.service.upstreams["nodes"].nodes
        assert all(node.takes(trio.current_time()) for node in nodes)


@pytest.mark.parametrize("code", [503, 403, 200, 302])
async def test_other_answers_of_a_node_go_through(code: int, autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes = {"node-a": Recorder(code), "node-b": Recorder(code)}
        answer = await world.ask(UPGRADE)

        assert status(answer) == code
        assert answer.endswith(b"from the node")
        assert b"X-Node: yes\r\n" in answer
        assert token(answer) == ""
        assert len(world.dialled) == (2 if code == 503 else 1)
        node = world.service.upstreams["nodes"].nodes[0]
        assert node.takes(trio.current_time()) is (code < 500)


async def test_all_tries_share_a_deadline(autojump_clock: Clock) -> None:
    short = CONFIG + "\n[timeouts]\nreach = 3.0\nupgrade = 2.0\n"
    async with open_world(short) as world:

        async def slow_then_unwilling(stream: trio.abc.Stream) -> None:
            await trio.sleep(1.5)
            await stream.send_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

        world.nodes = {"node-a": slow_then_unwilling, "node-b": silent}
        client = world.connect()
        started = trio.current_time()
        await client.send_all(UPGRADE)
        answer = await read_head(client)

        assert (status(answer), token(answer)) == (504, "http_response_timeout")
        assert trio.current_time() - started == pytest.approx(3)


async def test_no_101_before_the_nodes_own(autojump_clock: Clock) -> None:
    async with open_world() as world:
        ask, accept = trio.Event(), trio.Event()

        async def node(stream: trio.abc.Stream) -> None:
            await read_head(stream)
            ask.set()
            await accept.wait()
            await stream.send_all(ACCEPTED)
            await read_all(stream)

        world.nodes["node-a"] = node
        client = world.connect()
        await client.send_all(UPGRADE)
        await ask.wait()
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await client.receive_some(1)
        assert scope.cancelled_caught
        accept.set()
        assert status(await read_head(client)) == 101


async def test_a_session_and_its_record(autojump_clock: Clock) -> None:
    async with open_world() as world:
        seen: list[bytes] = []
        later = frame(2, b"and more")

        async def node(stream: trio.abc.Stream) -> None:
            seen.append(await read_head(stream))
            # The first frame comes in one segment with the 101, as deepstream's v3 endpoint does.
            await stream.send_all(ACCEPTED + frame(1, b"early"))
            seen.append(bytes(await stream.receive_some()))
            await trio.sleep(3)
            await stream.send_all(later + frame(8, b"\x03\xe8bye"))
            await read_all(stream)

        world.nodes["node-a"] = node
        client = world.connect()
        early = frame(2, b"in one segment with the request", key=KEY)
        await client.send_all(UPGRADE + early)
        head = await client.receive_some()
        rest = head.partition(b"\r\n\r\n")[2]
        while not rest.endswith(b"bye"):
            rest += await client.receive_some()
        await client.send_all(frame(8, b"\x03\xe8", key=KEY))
        await read_all(client)

        assert rest == frame(1, b"early") + later + frame(8, b"\x03\xe8bye")
        assert seen[1] == early
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in seen[0]
        assert b"X-Forwarded-Port: 8080\r\n" in seen[0]
        (record,) = world.records
        assert b"X-Request-Id: " + record.id.encode() in seen[0]
        assert (record.status, record.route, record.node) == (101, "/deepstream", "node-a:1")
        assert (record.ended_by, record.ending) == ("node", "node_closed")
        assert (record.close_from_node, record.close_to_client) == (1000, 1000)
        assert (record.close_from_client, record.close_to_node) == (1000, 1000)
        assert (record.messages_from_client, record.messages_from_node) == (1, 2)
        assert record.session_time == pytest.approx(3)
        assert not world.service.sessions
        assert world.service.upstreams["nodes"].nodes[0].sessions == 0


async def test_a_lease_lasts_as_long_as_the_session(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def node(stream: trio.abc.Stream) -> None:
            await read_head(stream)
            await stream.send_all(ACCEPTED)
            await read_all(stream)

        world.nodes = {"node-a": node, "node-b": node}
        clients = [world.connect() for _ in range(4)]
        for client in clients:
            await client.send_all(UPGRADE)
            await read_head(client)
        nodes = world.service.upstreams["nodes"].nodes

        assert [one.sessions for one in nodes] == [2, 2]
        for client in clients:
            await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [one.sessions for one in nodes] == [0, 0]
        assert [record.ending for record in world.records] == ["client_lost"] * 4


async def test_requests_share_a_connection(autojump_clock: Clock) -> None:
    async with open_world() as world:
        node = Recorder(body=b"")
        world.nodes = {"node-a": node, "node-b": node}
        client = world.connect()
        for target in (b"/api/1", b"/nowhere", b"/api/2"):
            await client.send_all(get(target))
            await client.receive_some()
        started = trio.current_time()
        await read_all(client)

        assert [r.target for r in world.records] == ["/api/1", "/nowhere", "/api/2"]
        assert len({r.id for r in world.records}) == 3
        # Between requests it is the keep-alive time that counts.
        assert trio.current_time() - started == pytest.approx(60)


async def test_a_cancelled_connection_leaves_nothing(autojump_clock: Clock) -> None:
    """Cancel at every moment of a session's life: no lease, no session, and one record."""
    for moment in range(1, 40):
        async with open_world() as world:

            async def node(stream: trio.abc.Stream) -> None:
                await read_head(stream)
                await trio.sleep(0.005)
                await stream.send_all(ACCEPTED)
                await read_all(stream)

            world.nodes["node-b"] = node
            client = world.connect()
            await client.send_all(UPGRADE)
            await trio.sleep(moment / 2000)
        assert world.service.sessions == set()
        assert all(node.sessions == 0 for node in world.service.upstreams["nodes"].nodes)
        assert len(world.records) == 1


def test_deadlines_are_never_infinite() -> None:
    values = attrs.astuple(Timeouts())

    assert all(0 < value < math.inf for value in values)


async def test_one_that_is_cancelled_while_it_waits_leaves_a_record(autojump_clock: Clock) -> None:
    async with open_world(CONFIG.replace("timeout = 0.0", "timeout = 60.0")) as world:
        for node in world.service.upstreams["nodes"].nodes:
            node.failed(trio.current_time(), unreachable=True)
        await world.connect().send_all(UPGRADE)
        await trio.testing.wait_all_tasks_blocked()
        world.nursery.cancel_scope.cancel()
        records = world.records

    assert [(record.ended_by, record.ending) for record in records] == [("proxy", "cancelled")]
