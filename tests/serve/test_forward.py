"""An ordinary request to a node and back: rebuilt, streamed both ways, answered honestly."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from .world import (
    CONFIG,
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


def request(method: bytes = b"GET", more: bytes = b"", body: bytes = b"") -> bytes:
    return method + b" /api/x?y HTTP/1.1\r\nHost: rt.example\r\n" + more + b"\r\n" + body


async def test_goes_to_a_node_and_comes_back(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = node = Recorder()
        more = b"Cookie: a=b\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\n"
        answer = await world.ask(request(more=more))
        ((sent, body),) = node.requests
        headers = dict(sent.headers)

        assert answer.endswith(b"\r\n\r\nfrom the node")
        assert b"X-Node: yes\r\n" in answer
        assert (sent.method, sent.target, body) == (b"GET", b"/api/x?y", b"")
        assert headers[b"host"] == b"rt.example"
        assert headers[b"cookie"] == b"a=b"
        assert headers[b"x-forwarded-for"] == b"192.0.2.7"
        assert headers[b"x-forwarded-host"] == b"rt.example"
        assert b"x-hop" not in headers
        (record,) = world.records
        assert (record.status, record.node, record.bytes_from_node) == (200, "node-a:1", 13)


@pytest.mark.parametrize(
    ("more", "body"),
    [
        (b"Content-Length: 10\r\n", b"0123456789"),
        (b"Transfer-Encoding: chunked\r\n", b"4\r\n0123\r\n6;ext=1\r\n456789\r\n0\r\n\r\n"),
        (b"Content-Length: 10\r\nExpect: 100-continue\r\n", b"0123456789"),
        (b"Content-Type: application/json\r\nContent-Length: 10\r\n", b"0123456789"),
    ],
)
async def test_bodies(more: bytes, body: bytes, autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = node = Recorder(body=b"")
        answer = await world.ask(request(b"POST", more, body))
        ((sent, received),) = node.requests

        assert received == b"0123456789"
        assert b"expect" not in dict(sent.headers)
        assert status(answer.removeprefix(b"HTTP/1.1 100 \r\n\r\n")) in (100, 200)
        assert world.records[0].bytes_from_client == 10


@pytest.mark.parametrize(
    ("method", "answer", "expected"),
    [
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"GET", b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (
            b"GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"abc",
        ),
    ],
)
async def test_answers(
    method: bytes, answer: bytes, expected: bytes, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = answering(answer)
        raw = await world.ask(request(method))
        head, _, body = raw.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            size, _, body = body.partition(b"\r\n")
            body = body[: int(size, 16)]

        assert status(raw) == int(answer[9:12])
        assert body == expected


async def test_http_1_0_clients(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = node = Recorder()
        answer = await world.ask(b"GET /api HTTP/1.0\r\n\r\n")

        assert answer.endswith(b"from the node")
        assert dict(node.requests[0][0].headers)[b"host"] == b"node-a:1"


async def test_other_upgrades_are_plain_requests(autojump_clock: Clock) -> None:
    """A deepstream node hangs up on any other Upgrade token."""
    async with open_world() as world:
        world.nodes["node-a"] = node = Recorder()
        more = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
        answer = await world.ask(request(more=more))

        assert status(answer) == 200
        assert not {b"upgrade", b"http2-settings"} & set(dict(node.requests[0][0].headers))


@pytest.mark.parametrize(
    ("node", "expected", "asked"),
    [
        (None, (502, "connection_refused"), 2),
        (answering(), (502, "connection_terminated"), 2),
        (answering(b"garbage\r\n\r\n"), (502, "http_protocol_error"), 1),
        (answering(b"HTTP/1.1 101 Sure\r\n\r\n"), (502, "http_protocol_error"), 1),
        (silent, (504, "http_response_timeout"), 1),
    ],
)
async def test_broken_nodes(
    node: Serve | None, expected: tuple[int, str], asked: int, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        if node:
            world.nodes = {"node-a": node, "node-b": node}
        answer = await world.ask(request())

        assert (status(answer), token(answer)) == expected
        assert len(world.dialled) == asked


async def test_what_may_not_be_repeated_is_not(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes = {"node-a": answering(), "node-b": Recorder()}
        answer = await world.ask(request(b"POST", b"Content-Length: 1\r\n", b"x"))

        assert (status(answer), token(answer)) == (502, "connection_terminated")
        assert world.dialled == ["node-a"]


async def test_but_a_node_that_was_not_reached_was_not_asked(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes = {"node-b": Recorder()}
        answer = await world.ask(request(b"POST", b"Content-Length: 1\r\n", b"x"))

        assert status(answer) == 200
        assert world.dialled == ["node-a", "node-b"]


async def test_answer_that_comes_before_the_body_has_ended(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = answering(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        client = world.connect()
        await client.send_all(request(b"POST", b"Content-Length: 100000\r\n", b"x"))
        answer = await read_all(client)

        assert status(answer) == 403
        assert answer.endswith(b"no")


@pytest.mark.parametrize(
    ("more", "body", "expected"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", b"400\r\n" + b"x" * 1024, 413),
    ],
)
async def test_broken_bodies(
    more: bytes, body: bytes, expected: int, autojump_clock: Clock
) -> None:
    async with open_world(CONFIG + "[limits]\nbody_bytes = 1000\n") as world:
        world.nodes["node-a"] = silent
        client = world.connect()
        await client.send_all(request(b"POST", more, body))
        await client.send_stream.aclose()
        answer = await read_all(client)

        assert (status(answer), token(answer)) == (expected, "http_request_error")
        node = world.service.upstreams["nodes"].nodes[0]
        assert node.takes(trio.current_time())


async def test_body_that_stops_coming(autojump_clock: Clock) -> None:
    async with open_world() as world:
        world.nodes["node-a"] = silent
        client = world.connect()
        started = trio.current_time()
        await client.send_all(request(b"POST", b"Content-Length: 5\r\n", b"abc"))
        answer = await read_all(client)

        assert status(answer) == 408
        assert trio.current_time() - started == pytest.approx(60, abs=0.2)


async def test_node_that_stops_reading(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def node(stream: trio.abc.Stream) -> None:
            await read_head(stream)
            world.streams[0].send_stream.send_all_hook = trio.sleep_forever
            await trio.sleep_forever()

        world.nodes["node-a"] = node
        client = world.connect()
        started = trio.current_time()
        await client.send_all(request(b"POST", b"Content-Length: 6\r\n", b"abc"))
        answer = await read_all(client)

        assert (status(answer), token(answer)) == (504, "http_response_timeout")
        assert trio.current_time() - started == pytest.approx(60, abs=0.2)


async def test_answer_that_is_cut_short_is_cut_short(autojump_clock: Clock) -> None:
    """Not a second answer, not a clean end: the client must see that something is missing."""
    async with open_world() as world:
        world.nodes["node-a"] = answering(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
        )
        answer = await world.ask(request())

        assert b"abcde" in answer
        assert b"0\r\n\r\n" not in answer
        (record,) = world.records
        assert (record.status, record.token) == (200, "http_protocol_error")


async def test_answer_that_stops_coming(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def node(stream: trio.abc.Stream) -> None:
            await read_head(stream)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            await trio.sleep_forever()

        world.nodes["node-a"] = node
        client = world.connect()
        await client.send_all(request())
        answer = await read_all(client)

        assert answer.endswith(b"abc")
        assert world.records[0].token == "http_response_timeout"


async def test_client_that_leaves_takes_its_request_along(autojump_clock: Clock) -> None:
    async with open_world() as world:
        gone = trio.Event()

        async def node(stream: trio.abc.Stream) -> None:
            await read_all(stream)
            gone.set()

        world.nodes["node-a"] = node
        client = world.connect()
        await client.send_all(request(b"POST", b"Content-Length: 100000\r\n", b"abc"))
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client)
        await gone.wait()
        await trio.testing.wait_all_tasks_blocked()

        assert (world.records[0].ended_by, world.records[0].ending) == ("client", "client_lost")
        assert world.service.upstreams["nodes"].nodes[0].sessions == 0
