"""The order in which one request tries nodes, and what it leaves behind."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import (
    BadResponse,
    ClientGone,
    ClosedEarly,
    DialRefused,
    Draining,
    HoldFull,
    NoNode,
)
from proxy.observe.record import Record
from proxy.serve.reach import Attempt, Reach
from proxy.wire.proxy_protocol import Source

from .world import CONFIG, World, open_world, silent

Clock = trio.testing.MockClock


def fresh() -> Record:
    return Record(id="1", client="c")


async def ask_of(world: World, *outcomes: Exception | str) -> tuple[str, list[str], Record]:
    """Reach for a node, attempts ending as given; return the answer, who was asked, the record."""
    left, asked, record = list(outcomes), [], fresh()

    async def ask(attempt: Attempt) -> str:
        await trio.lowlevel.checkpoint()
        asked.append(attempt.node.name)
        assert attempt.node.sessions == 1
        assert attempt.others() is (len(asked) == 1)
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    attempt, answer = await Reach(world.service, world.service.upstreams["nodes"], record).ask(ask)
    assert attempt.node.sessions == 1
    await attempt.release()
    assert attempt.node.sessions == 0
    return answer, asked, record


async def test_first_answer_wins(autojump_clock: Clock) -> None:
    async with open_world() as world:
        answer, asked, record = await ask_of(world, "yes")

        assert (answer, asked) == ("yes", ["node-a:1"])
        assert (record.node, record.attempts) == ("node-a:1", 1)


@pytest.mark.parametrize(("error", "rests"), [(DialRefused("n"), True), (ClosedEarly("n"), False)])
async def test_next_node_on_failure(
    error: Exception, *, rests: bool, autojump_clock: Clock
) -> None:
    async with open_world() as world:
        answer, asked, record = await ask_of(world, error, "yes")

        assert (answer, asked) == ("yes", ["node-a:1", "node-b:1"])
        assert record.attempts == 2
        first = world.service.upstreams["nodes"].nodes[0]
        assert first.takes(trio.current_time()) is not rests
        assert first.sessions == 0


async def test_last_error_when_all_fail(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with pytest.raises(ClosedEarly):
            await ask_of(world, DialRefused("a"), ClosedEarly("b"))


async def test_no_second_try_after_an_answer_that_made_no_sense(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with pytest.raises(BadResponse):
            await ask_of(world, BadResponse("a"), "never asked")


async def test_nobody_to_ask(autojump_clock: Clock) -> None:
    async with open_world() as world:
        for node in world.service.upstreams["nodes"].nodes:
            node.failed(trio.current_time(), unreachable=True)
        with pytest.raises(NoNode):
            await ask_of(world, "never asked")


async def test_connection_of_a_failed_attempt_is_closed(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def ask(attempt: Attempt) -> None:
            await attempt.dial(Source)
            raise DialRefused(attempt.node.name)

        for host in ("node-a", "node-b"):
            world.nodes[host] = silent
        with pytest.raises(DialRefused):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(ask)

        for stream in world.streams:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
        assert len(world.streams) == 2


async def test_who_had_too_little_time_is_not_blamed(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def ask(attempt: Attempt) -> None:
            await trio.sleep(attempt.limit(8.0))
            raise DialRefused(attempt.node.name)

        with pytest.raises(DialRefused):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(ask)

        # 8 of 10 seconds for the first, 2 for the second.
        nodes = world.service.upstreams["nodes"].nodes
        assert [node.health.rests_until > 0 for node in nodes] == [True, False]


async def test_limits_shrink_with_the_deadline(autojump_clock: Clock) -> None:
    async with open_world() as world:
        limits: list[float] = []

        async def ask(attempt: Attempt) -> None:
            limits.append(attempt.limit(7.0))
            await trio.sleep(6)
            raise DialRefused(attempt.node.name)

        with pytest.raises(DialRefused):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(ask)

        # 10 seconds for all tries: the second has what the first has left.
        assert limits == [pytest.approx(7), pytest.approx(4)]


HOLDING = CONFIG.replace("hold = { timeout = 0.0 }", "hold = { timeout = 5.0, waiting = 2 }")


def take_down(world: World) -> None:
    for node in world.service.upstreams["nodes"].nodes:
        node.failed(trio.current_time(), unreachable=True)


def bring_back(world: World) -> None:
    upstream = world.service.upstreams["nodes"]
    for node in upstream.nodes:
        node.answered(trio.current_time())
    upstream.hold.release_all()


async def answer(attempt: Attempt) -> str:
    await trio.lowlevel.checkpoint()
    return attempt.node.name


async def test_waits_for_a_node(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream, record = world.service.upstreams["nodes"], fresh()
        take_down(world)
        changes: list[int] = []
        upstream.changed = lambda: changes.append(len(upstream.hold))
        world.nursery.start_soon(back_after, 3.0, world)
        attempt, name = await Reach(world.service, upstream, record).ask(answer)

        assert name == "node-a:1"
        assert record.hold_time == pytest.approx(3.0)
        assert changes[0] == 1
        assert len(upstream.hold) == 0
        await attempt.release()


async def back_after(seconds: float, world: World) -> None:
    await trio.sleep(seconds)
    bring_back(world)


async def test_answers_when_the_wait_was_in_vain(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream = world.service.upstreams["nodes"]
        take_down(world)
        started = trio.current_time()
        with pytest.raises(NoNode):
            await Reach(world.service, upstream, fresh()).ask(answer)

        assert trio.current_time() - started == pytest.approx(5.0)
        assert len(upstream.hold) == 0


async def test_waits_again_but_not_for_longer(autojump_clock: Clock) -> None:
    """Nodes that come back for a moment only don't make a request wait for ever."""
    async with open_world(HOLDING) as world:
        upstream, record = world.service.upstreams["nodes"], fresh()
        take_down(world)
        world.nursery.start_soon(back_after, 2.0, world)

        async def refuse(attempt: Attempt) -> None:
            raise DialRefused(attempt.node.name)

        started = trio.current_time()
        with pytest.raises((NoNode, DialRefused)):
            await Reach(world.service, upstream, record).ask(refuse)

        assert trio.current_time() - started == pytest.approx(5.0)
        assert record.hold_time == pytest.approx(5.0)
        assert record.attempts == 2


async def test_all_nodes_die_under_a_request_and_it_waits(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream, record = world.service.upstreams["nodes"], fresh()
        world.nursery.start_soon(back_after, 1.0, world)

        async def refuse_twice(attempt: Attempt) -> str:
            if record.attempts <= 2:
                raise DialRefused(attempt.node.name)
            return attempt.node.name

        attempt, _ = await Reach(world.service, upstream, record).ask(refuse_twice)

        assert record.attempts == 3
        assert record.hold_time == pytest.approx(1.0)
        await attempt.release()


async def test_no_wait_while_a_node_is_up_that_refused_just_this(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:

        async def hang_up(attempt: Attempt) -> None:
            raise ClosedEarly(attempt.node.name)

        started = trio.current_time()
        with pytest.raises(ClosedEarly):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(hang_up)

        assert trio.current_time() == started


@pytest.mark.parametrize("panic", ["try", "refuse"])
async def test_last_resort(panic: str, autojump_clock: Clock) -> None:
    config = HOLDING.replace('panic = "refuse"', f'panic = "{panic}"')
    async with open_world(config) as world:
        first, second = world.service.upstreams["nodes"].nodes
        second.failed(trio.current_time(), unreachable=True)
        await trio.sleep(1)
        first.failed(trio.current_time(), unreachable=True)
        reach = Reach(world.service, world.service.upstreams["nodes"], fresh())
        if panic == "refuse":
            with pytest.raises(NoNode):
                await reach.ask(answer)
        else:
            attempt, name = await reach.ask(answer)
            # The one whose failure is the older.
            assert name == "node-b:1"
            await attempt.release()


async def test_last_resort_that_fails_is_nobody_to_ask(autojump_clock: Clock) -> None:
    config = HOLDING.replace('panic = "refuse"', 'panic = "try"')
    async with open_world(config) as world:
        take_down(world)
        record = fresh()

        async def refuse(attempt: Attempt) -> None:
            raise DialRefused(attempt.node.name)

        with pytest.raises(NoNode):
            await Reach(world.service, world.service.upstreams["nodes"], record).ask(refuse)
        assert record.attempts == 1


async def test_queue_is_bounded(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream, served = world.service.upstreams["nodes"], list[str]()
        take_down(world)

        async def wait(name: str) -> None:
            attempt, _ = await Reach(world.service, upstream, fresh()).ask(answer)
            served.append(name)
            await attempt.release()

        for name in ("first", "second"):
            world.nursery.start_soon(wait, name)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(HoldFull):
            await Reach(world.service, upstream, fresh()).ask(answer)
        bring_back(world)
        await trio.testing.wait_all_tasks_blocked()

        assert sorted(served) == ["first", "second"]


async def test_who_comes_later_waits_behind(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream, served = world.service.upstreams["nodes"], list[str]()

        async def wait(name: str) -> None:
            attempt, _ = await Reach(world.service, upstream, fresh()).ask(answer)
            served.append(name)
            await attempt.release()

        take_down(world)
        world.nursery.start_soon(wait, "early")
        await trio.testing.wait_all_tasks_blocked()
        for node in upstream.nodes:
            node.answered(trio.current_time())
        world.nursery.start_soon(wait, "late")
        await trio.testing.wait_all_tasks_blocked()

        assert served == []
        upstream.hold.release(trio.current_time() + 1, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert served == ["early"]
        upstream.hold.release_all()


async def test_who_hangs_up_is_forgotten(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream = world.service.upstreams["nodes"]
        take_down(world)

        async def hang_up() -> None:
            await trio.sleep(1)

        with pytest.raises(ClientGone):
            await Reach(world.service, upstream, fresh(), hung_up=hang_up).ask(answer)
        assert len(upstream.hold) == 0
        assert upstream.hold.left == 1


async def test_draining_ends_the_wait(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        take_down(world)

        async def drain() -> None:
            await trio.sleep(1)
            await world.service.drain()

        world.nursery.start_soon(drain)
        with pytest.raises(Draining):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(answer)


async def test_whose_time_is_over_as_a_node_is_back_keeps_its_place(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream, record = world.service.upstreams["nodes"], fresh()
        take_down(world)

        async def back_but_slowly() -> None:
            await trio.sleep(4.5)
            for node in upstream.nodes:
                node.answered(trio.current_time())
            await trio.sleep(2)
            upstream.hold.release_all()

        world.nursery.start_soon(back_but_slowly)
        attempt, _ = await Reach(world.service, upstream, record).ask(answer)

        assert record.hold_time == pytest.approx(6.5)
        assert upstream.hold.under_way == 0
        await attempt.release()


async def test_but_does_not_wait_for_ever(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        upstream = world.service.upstreams["nodes"]
        take_down(world)

        async def back_and_nobody_is_let_go() -> None:
            await trio.sleep(1)
            for node in upstream.nodes:
                node.answered(trio.current_time())

        world.nursery.start_soon(back_and_nobody_is_let_go)
        started = trio.current_time()
        with pytest.raises(NoNode):
            await Reach(world.service, upstream, fresh()).ask(answer)

        assert trio.current_time() - started == pytest.approx(10.0)


async def test_nobody_begins_to_wait_during_a_drain(autojump_clock: Clock) -> None:
    async with open_world(HOLDING) as world:
        take_down(world)
        world.service.draining = True
        started = trio.current_time()
        with pytest.raises(Draining):
            await Reach(world.service, world.service.upstreams["nodes"], fresh()).ask(answer)

        assert trio.current_time() == started


async def ask_only(world: World, only: str, *outcomes: Exception | str) -> list[str]:
    """Reach for one node; return who was asked."""
    left, asked = list(outcomes), []

    async def ask(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(attempt.node.name)
        assert not attempt.others()
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome

    reach = Reach(world.service, world.service.upstreams["nodes"], fresh(), only=only)
    attempt, _ = await reach.ask(ask)
    await attempt.release()
    return asked


async def test_only_one_node(autojump_clock: Clock) -> None:
    async with open_world() as world:
        assert [await ask_only(world, "node-b:1", "yes") for _ in range(3)] == [["node-b:1"]] * 3


async def test_only_one_node_and_that_fails(autojump_clock: Clock) -> None:
    async with open_world() as world:
        with pytest.raises(DialRefused):
            await ask_only(world, "node-b:1", DialRefused("b"), "never asked")

        node = world.service.upstreams["nodes"].nodes[1]
        assert node.sessions == 0
        assert not node.takes(trio.current_time())
        # Now it rests, and for just this one nobody waits or tries in spite of that.
        with pytest.raises(NoNode):
            await ask_only(world, "node-b:1", "never asked")


async def test_only_one_node_that_is_none(autojump_clock: Clock) -> None:
    async with open_world(HOLDING.replace(' "refuse"', ' "try"')) as world:
        started = trio.current_time()
        with pytest.raises(NoNode):
            await ask_only(world, "node-z:1", "never asked")

        assert trio.current_time() == started


async def test_only_one_node_and_that_a_backup_or_full(autojump_clock: Clock) -> None:
    nodes = """[ "node-a:1", { address = "node-b:1", backup = true, max_sessions = 1 } ]"""
    async with open_world(CONFIG.replace('[ "node-a:1", "node-b:1" ]', nodes)) as world:
        assert await ask_only(world, "node-b:1", "yes") == ["node-b:1"]
        with world.service.upstreams["nodes"].nodes[1].lease(), pytest.raises(NoNode):
            await ask_only(world, "node-b:1", "never asked")
