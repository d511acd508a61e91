"""The order in which one request tries nodes, and what it leaves behind."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import BadResponse, ClosedEarly, DialRefused, NoNode
from proxy.observe.record import Record
from proxy.serve.reach import Attempt, reach

from .world import World, open_world, silent

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
        assert attempt.others is (len(asked) == 1)
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    attempt, answer = await reach(world.service, world.service.upstreams["nodes"], ask, record)
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
        assert first.available(trio.current_time()) is not rests
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
            node.failed(trio.current_time())
        with pytest.raises(NoNode):
            await ask_of(world, "never asked")


async def test_connection_of_a_failed_attempt_is_closed(autojump_clock: Clock) -> None:
    async with open_world() as world:

        async def ask(attempt: Attempt) -> None:
            await attempt.dial()
            raise DialRefused(attempt.node.name)

        for host in ("node-a", "node-b"):
            world.nodes[host] = silent
        with pytest.raises(DialRefused):
            await reach(world.service, world.service.upstreams["nodes"], ask, fresh())

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
            await reach(world.service, world.service.upstreams["nodes"], ask, fresh())

        # 8 of 10 seconds for the first, 2 for the second.
        nodes = world.service.upstreams["nodes"].nodes
        assert [node.rests_until > 0 for node in nodes] == [True, False]


async def test_limits_shrink_with_the_deadline(autojump_clock: Clock) -> None:
    async with open_world() as world:
        limits: list[float] = []

        async def ask(attempt: Attempt) -> None:
            limits.append(attempt.limit(7.0))
            await trio.sleep(6)
            raise DialRefused(attempt.node.name)

        with pytest.raises(DialRefused):
            await reach(world.service, world.service.upstreams["nodes"], ask, fresh())

        # 10 seconds for all tries: the second has what the first has left.
        assert limits == [pytest.approx(7), pytest.approx(4)]
