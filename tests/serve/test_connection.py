"""One client, from accept to close: its requests, its session, and what is left of it."""

from __future__ import annotations

import math

import attrs
import pytest
import trio
import trio.testing

from proxy.config.model import Timeouts
from tests.wire.strategies import frame

from .world import (
    ACCEPTED,
    CONFIG,
    UPGRADE,
    Recorder,
    open_world,
    read_all,
    read_head,
)

Clock = trio.testing.MockClock
KEY = b"\x01\x02\x03\x04"
HOST = b"Host: rt.example\r\n"


def get(target: bytes, more: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def upgrade(old: bytes = b"", new: bytes = b"") -> bytes:
    return UPGRADE.replace(old, new) if old else UPGRADE


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
