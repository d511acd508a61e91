"""One live session: what is seen of it, and what it tells the pool."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.io.pump import PumpRelay
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.pool.node import Node
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

from .world import World, open_world

Clock = trio.testing.MockClock
KEY = b"abcd"


def relay() -> PumpRelay:
    return PumpRelay(*trio.testing.memory_stream_pair(), Tunnel(), Terms(), Timers())


async def test_it_is_listed_while_it_lives(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with world.live(relay()) as session:
            assert world.service.sessions == {session}
            assert world.service.under_way.count == 1
        assert not world.service.sessions
        assert world.service.under_way.count == 0


async def test_statistics(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with world.live(relay()) as session:
            await trio.sleep(10)
            session.relay.tunnel.received(Side.CLIENT, frame(2, b"x" * 20, key=KEY))
            seen = session.statistics(trio.current_time())

            assert (seen.id, seen.client, seen.upstream) == ("1", "c", "nodes")
            assert seen.node == world.service.upstreams["nodes"].nodes[0].name
            assert (seen.age, seen.quiet, seen.ending) == (10.0, 0.0, None)
            assert (seen.from_client.messages, seen.from_client.bytes) == (1, 26)
            assert seen.from_client.messages_per_second == pytest.approx(0.1)
            # What the node has not taken is held for it.
            assert (seen.from_client.held, seen.from_node.held) == (0, 26)
            assert seen.from_node.rtt is None

            await trio.sleep(5)
            assert session.statistics(trio.current_time()).quiet == 5.0
            session.leave("moved", "why not")
            assert session.statistics(trio.current_time()).ending == "moved"


async def test_pings_and_pongs_keep_nobody_busy(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with world.live(relay()) as session:
            tunnel = session.relay.tunnel
            for step in (1.0, 2.0):
                await trio.sleep(1)
                tunnel.received(Side.CLIENT, frame(10, b"pong", key=KEY))
                tunnel.received(Side.NODE, frame(9, b"ping"))
                session.observe(trio.current_time())
                assert trio.current_time() - session.quiet_since == step
            tunnel.received(Side.NODE, frame(1, b"data"))
            session.observe(trio.current_time())
            assert session.quiet_since == trio.current_time()


def begin_to_end(world: World, code: int | None) -> None:
    """Have the first node end a session: with a Close, or none."""
    one = relay()
    with world.live(one):
        if code is None:
            one.tunnel.lost(Side.NODE)
        else:
            one.tunnel.received(Side.NODE, frame(8, code.to_bytes(2, "big")))
        assert one.on_ending is not None
        one.on_ending()


@pytest.mark.parametrize("code", [1001, None])
async def test_pool_is_told_what_a_node_did_at_once(
    code: int | None, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world() as world:
        upstream = world.service.upstreams["nodes"]
        told: list[object] = []

        def closed_by_node(node: Node, close: int, now: float) -> bool:
            told.append((node, close, now))
            return False

        monkeypatch.setattr(upstream, "closed_by_node", closed_by_node)
        monkeypatch.setattr(upstream, "lost_by_node", told.append)
        begin_to_end(world, code)

        node = upstream.nodes[0]
        assert told == [node if code is None else (node, code, trio.current_time())]
