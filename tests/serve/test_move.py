"""Moving sessions: who leaves, for which reason, at which pace."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.io.relay import Relay
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.serve.move import Mover
from proxy.serve.service import Service, Session
from proxy.wire.closing import Ending
from proxy.wire.liveness import LegView
from proxy.wire.tunnel import Side, Tunnel

from .world import CONFIG, open_world

Clock = trio.testing.MockClock


class Counted(Relay):
    """A relay that notes when it was told to end."""

    def __init__(self) -> None:
        super().__init__(Tunnel(), Terms(), Timers())
        self.closed: tuple[float, Ending, str] | None = None

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        raise AssertionError("not run here")

    def held(self, side: Side) -> int:
        return 0

    def view(self, side: Side) -> LegView:
        return LegView()

    def _wake(self) -> None:
        assert self.tunnel.ending is not None
        self.closed = (trio.current_time(), self.tunnel.ending, self.tunnel.detail)


def open_sessions(service: Service, upstream: Upstream, node: Node, count: int) -> list[Counted]:
    relays = [Counted() for _ in range(count)]
    for relay in relays:
        node.lease()
        route = service.config.routes[0]
        Session(service, relay, Record(id="1", client="c"), route, upstream, node).__enter__()
    return relays


def times(relays: list[Counted]) -> list[float]:
    return sorted(relay.closed[0] for relay in relays if relay.closed is not None)


async def test_nothing_moves_by_itself(autojump_clock: Clock) -> None:
    async with open_world() as world:
        upstream = world.service.upstreams["nodes"]
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 10)
        world.nursery.start_soon(Mover(world.service, upstream).run)
        await trio.sleep(60)

        assert times(relays) == []


@pytest.mark.parametrize("how", ["by hand", "gone"])
async def test_drained_node_is_emptied_at_a_pace(how: str, autojump_clock: Clock) -> None:
    config = CONFIG.replace("[upstreams.nodes]", "[upstreams.nodes]\ndrain = { rate = 4.0 }")
    async with open_world(config) as world:
        upstream = world.service.upstreams["nodes"]
        first, second = upstream.nodes
        leaving = open_sessions(world.service, upstream, first, 10)
        staying = open_sessions(world.service, upstream, second, 10)
        if how == "by hand":
            upstream.set_admin(first, "drain", trio.current_time())
        else:
            upstream.resolved(first.config, [], trio.current_time())
        world.nursery.start_soon(Mover(world.service, upstream).run)
        await trio.sleep(10)

        assert times(staying) == []
        gaps = [
            later - sooner
            for sooner, later in zip(times(leaving), times(leaving)[1:], strict=False)
        ]
        assert len(gaps) == 9
        assert gaps == pytest.approx([0.25] * 9, abs=0.3)
        assert times(leaving)[-1] < 3.0
        assert {relay.closed[1:] for relay in leaving if relay.closed} == {
            ("moved", "node is drained")
        }


async def test_rebalances_when_a_node_is_empty(autojump_clock: Clock) -> None:
    rebalance = "rebalance = { tolerance = 0.2, rate = 5.0 }"
    config = CONFIG.replace("[upstreams.nodes]", f"[upstreams.nodes]\n{rebalance}")
    async with open_world(config) as world:
        upstream = world.service.upstreams["nodes"]
        full = open_sessions(world.service, upstream, upstream.nodes[0], 40)
        world.nursery.start_soon(Mover(world.service, upstream).run)
        await trio.sleep(2.9)

        assert len(times(full)) == 15
        assert {relay.closed[2] for relay in full if relay.closed} == {"rebalancing"}


async def test_busy_sessions_and_those_within_a_message_stay(autojump_clock: Clock) -> None:
    rebalance = "rebalance = { tolerance = 0.2, rate = 1.0 }"
    config = CONFIG.replace("[upstreams.nodes]", f"[upstreams.nodes]\n{rebalance}")
    async with open_world(config) as world:
        upstream = world.service.upstreams["nodes"]
        within, busy, quiet = open_sessions(world.service, upstream, upstream.nodes[0], 3)
        elsewhere = [upstream.nodes[1].lease() for _ in range(3)]
        within.tunnel.scanners[1].scan(b"\x02\x01x")
        world.nursery.start_soon(Mover(world.service, upstream).run)
        async with trio.open_nursery() as talking:

            async def talk() -> None:
                while True:
                    busy.tunnel.scanners[0].bytes += 10
                    await trio.sleep(0.5)

            talking.start_soon(talk)
            await trio.sleep(3.5)
            # Now there is somewhere to go.
            for lease in elsewhere:
                lease.release()
            await trio.sleep(1)
            talking.cancel_scope.cancel()

        assert within.closed is None
        assert busy.closed is None
        assert quiet.closed is not None


async def test_old_sessions_leave_and_not_all_at_once(autojump_clock: Clock) -> None:
    config = CONFIG.replace("[upstreams.nodes]", "[upstreams.nodes]\nmax_session_age = 100.0")
    async with open_world(config) as world:
        upstream = world.service.upstreams["nodes"]
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 30)
        world.nursery.start_soon(Mover(world.service, upstream).run)
        await trio.sleep(120)

        ends = times(relays)
        assert len(ends) == 30
        assert ends[0] >= 90
        assert ends[-1] <= 113
        assert ends[-1] - ends[0] > 5
        assert all(relay.closed and relay.closed[2] == "session is old" for relay in relays)
