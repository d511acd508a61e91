"""Who has to leave while the proxy goes on: for which reason, and at which pace."""

from __future__ import annotations

import logging
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from proxy.io.relay import Relay
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.serve.leave import DrainProgress
from proxy.serve.move import Mover
from proxy.serve.service import Service
from proxy.serve.session import Session
from proxy.wire.closing import Ending
from proxy.wire.liveness import LegView
from proxy.wire.tunnel import Side, Tunnel

from .world import CONFIG, World, open_world

Clock = trio.testing.MockClock


class Counted(Relay):
    """A relay that notes when it was told to end; then its session is over."""

    def __init__(self, service: Service, upstream: Upstream, node: Node) -> None:
        super().__init__(Tunnel(), Terms(), Timers())
        self.closed: tuple[float, Ending, str] | None = None
        route, record = service.config.routes[0], Record(id="1", client="c")
        self.session = Session(service, self, record, route, upstream, node)
        self._lease = node.lease()
        self.session.__enter__()

    async def run(self, early: tuple[bytes, bytes] = (b"", b"")) -> None:
        raise AssertionError("not run here")

    def held(self, side: Side) -> int:
        return 0

    def view(self, side: Side) -> LegView:
        return LegView()

    def _wake(self) -> None:
        assert self.tunnel.ending is not None
        self.closed = (trio.current_time(), self.tunnel.ending, self.tunnel.detail)
        self.session.__exit__()
        self._lease.release()

    def keep(self) -> None:
        """Have its route let sessions be that a reload has nothing for any more."""
        self.session.route = attrs.evolve(self.session.route, on_removed="keep")


def open_sessions(service: Service, upstream: Upstream, node: Node, count: int) -> list[Counted]:
    return [Counted(service, upstream, node) for _ in range(count)]


def times(relays: list[Counted]) -> list[float]:
    return sorted(relay.closed[0] for relay in relays if relay.closed is not None)


def reasons(relays: list[Counted]) -> set[tuple[str, str]]:
    return {relay.closed[1:] for relay in relays if relay.closed is not None}


def config(**keys: str) -> str:
    """Return a configuration with these keys for its upstream."""
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return CONFIG.replace("[upstreams.nodes]\n", f"[upstreams.nodes]\n{lines}")


def start_mover(world: World) -> Upstream:
    world.nursery.start_soon(Mover(world.service).run)
    return world.service.upstreams["nodes"]


def even(rate: float, count: int) -> object:
    return pytest.approx([n / rate for n in range(count)])


async def test_nothing_moves_by_itself(autojump_clock: Clock) -> None:
    async with open_world() as world:
        upstream = start_mover(world)
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 10)
        await trio.sleep(60)

        assert times(relays) == []
        assert world.service.drains() == []


EVEN = "{ rate = 4.0, jitter = 0.0 }"


@pytest.mark.parametrize("how", ["by hand", "gone"])
async def test_node_is_emptied_at_a_pace(how: str, autojump_clock: Clock) -> None:
    async with open_world(config(drain=EVEN)) as world:
        upstream = start_mover(world)
        first, second = upstream.nodes
        leaving = open_sessions(world.service, upstream, first, 10)
        staying = open_sessions(world.service, upstream, second, 10)
        if how == "by hand":
            upstream.set_admin(first, "drain", trio.current_time())
        else:
            upstream.resolved(first.config, [], trio.current_time())
        await trio.sleep(10)

        assert times(staying) == []
        assert times(leaving) == even(4, 10)
        by_hand = how == "by hand"
        goodbye = ("moved", "node is drained") if by_hand else ("removed", "node was removed")
        assert reasons(leaving) == {goodbye}
        # Nobody holds on to one that is gone.
        assert (first in upstream.nodes) == (how == "by hand")


async def test_chance_has_its_part(autojump_clock: Clock) -> None:
    async with open_world(config(drain="{ rate = 4.0, jitter = 1.0 }")) as world:
        upstream = start_mover(world)
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 40)
        upstream.set_admin(upstream.nodes[0], "drain", trio.current_time())
        await trio.sleep(20)

        late = [time - n / 4 for n, time in enumerate(times(relays))]
        assert len(late) == 40
        assert all(-1e-6 <= moved < 0.25 for moved in late)
        assert max(late) > 0.125


async def test_deadline_counts_from_when_the_node_began_to_be_emptied(
    autojump_clock: Clock,
) -> None:
    """Though somebody looks only once a second."""
    drain = "{ rate = 0.1, jitter = 0.0, deadline = 10.0 }"
    async with open_world(config(drain=drain)) as world:
        upstream = start_mover(world)
        node = upstream.nodes[0]
        relays = open_sessions(world.service, upstream, node, 95)
        relays[0].tunnel.scanners[0].left = 1
        await trio.sleep(0.5)
        upstream.set_admin(node, "drain", trio.current_time())
        await trio.sleep(20)

        ends = times(relays)
        assert len(ends) == 95
        # From 1 on, evenly, and then the one that is within a message.
        assert ends[:94] == pytest.approx([1 + n / 10 for n in range(94)], abs=0.11)
        assert times(relays[:1]) == pytest.approx([10.5])


@pytest.mark.parametrize("admin", ["ready", "down"])
async def test_drain_that_is_called_off(
    admin: Literal["ready", "down"], autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    async with open_world(config(drain=EVEN)) as world:
        upstream = start_mover(world)
        node = upstream.nodes[0]
        relays = open_sessions(world.service, upstream, node, 20)
        upstream.set_admin(node, "drain", trio.current_time())
        await trio.sleep(2.3)
        upstream.set_admin(node, admin, trio.current_time())
        await trio.sleep(10)
        # At once.
        assert times(relays) == even(4, 10)
        assert world.service.drains() == []
        upstream.set_admin(node, "drain", trio.current_time())
        await trio.sleep(10)
        assert len(times(relays)) == 20

    events = [(r.getMessage(), r.__dict__["what"]) for r in caplog.records]
    assert events == [
        (event, "node node-a:1") for event in ("draining", "drain stopped", "draining", "drained")
    ]


async def test_nodes_of_an_upstream_share_its_pace(autojump_clock: Clock) -> None:
    """What the others get is what the operator has said, however many nodes are emptied."""
    async with open_world(config(drain=EVEN)) as world:
        upstream = start_mover(world)
        first, second = upstream.nodes
        thirty = open_sessions(world.service, upstream, first, 30)
        ten = open_sessions(world.service, upstream, second, 10)
        for node in upstream.nodes:
            upstream.set_admin(node, "drain", trio.current_time())
        await trio.sleep(4.9)

        assert len(times(thirty)) == pytest.approx(15, abs=1)
        assert len(times(ten)) == pytest.approx(5, abs=1)
        # They are done together, and in the time that all of them need.
        await trio.sleep(10)
        assert times(thirty)[-1] == pytest.approx(10, abs=0.6)
        assert times(ten)[-1] == pytest.approx(10, abs=1.5)


async def test_sessions_of_a_removed_route_leave(autojump_clock: Clock) -> None:
    async with open_world(config(drain=EVEN)) as world:
        upstream = start_mover(world)
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 12)
        leaving, kept, others = relays[:4], relays[4:8], relays[8:]
        await trio.sleep(0.5)
        for relay in leaving + kept:
            relay.session.removed = True
        for relay in kept:
            relay.keep()
        await trio.sleep(0.9)
        assert world.service.drains() == [DrainProgress("route /deepstream", 4, 2, 4.0, 1.0, 601.0)]
        await trio.sleep(10)

        assert times(leaving) == pytest.approx([1 + n / 4 for n in range(4)])
        assert reasons(leaving) == {("removed", "route was removed")}
        assert times(kept + others) == []
        assert world.service.drains() == []


async def test_sessions_may_keep_a_node_that_is_gone(autojump_clock: Clock) -> None:
    """Until the operator wants it empty."""
    async with open_world(config(drain=EVEN)) as world:
        upstream = start_mover(world)
        node = upstream.nodes[0]
        relays = open_sessions(world.service, upstream, node, 6)
        for relay in relays[:3]:
            relay.keep()
        upstream.resolved(node.config, [], trio.current_time())
        await trio.sleep(10)
        assert times(relays[:3]) == []
        assert times(relays[3:]) == even(4, 3)

        upstream.set_admin(node, "drain", trio.current_time())
        await trio.sleep(10)
        assert len(times(relays[:3])) == 3


async def test_progress(autojump_clock: Clock) -> None:
    async with open_world(config(drain="{ rate = 2.0, jitter = 0.0 }")) as world:
        upstream = start_mover(world)
        node = upstream.nodes[0]
        open_sessions(world.service, upstream, node, 20)
        await trio.sleep(0.9)
        upstream.set_admin(node, "drain", trio.current_time())
        assert world.service.drains() == []
        await trio.sleep(5)

        (progress,) = world.service.drains()
        assert (progress.what, progress.total, progress.left) == ("node node-a:1", 20, 10)
        assert progress.rate == pytest.approx(2)
        assert (progress.started, progress.deadline) == pytest.approx((0.9, 600.9))


async def test_rebalances_when_a_node_is_empty(autojump_clock: Clock) -> None:
    rebalance = "{ tolerance = 0.2, rate = 5.0 }"
    async with open_world(config(rebalance=rebalance)) as world:
        upstream = start_mover(world)
        full = open_sessions(world.service, upstream, upstream.nodes[0], 40)
        await trio.sleep(2.9)

        assert len(times(full)) == 15
        assert {relay.closed[2] for relay in full if relay.closed} == {"rebalancing"}


async def test_busy_sessions_and_those_within_a_message_stay(autojump_clock: Clock) -> None:
    rebalance = "{ tolerance = 0.2, rate = 1.0 }"
    async with open_world(config(rebalance=rebalance)) as world:
        upstream = start_mover(world)
        within, busy, quiet = open_sessions(world.service, upstream, upstream.nodes[0], 3)
        elsewhere = [upstream.nodes[1].lease() for _ in range(3)]
        within.tunnel.scanners[1].scan(b"\x02\x01x")
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
    async with open_world(config(max_session_age="100.0")) as world:
        upstream = start_mover(world)
        relays = open_sessions(world.service, upstream, upstream.nodes[0], 30)
        await trio.sleep(120)

        ends = times(relays)
        assert len(ends) == 30
        assert ends[0] >= 90
        assert ends[-1] <= 113
        assert ends[-1] - ends[0] > 5
        assert all(relay.closed and relay.closed[2] == "session is old" for relay in relays)
