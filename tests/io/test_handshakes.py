"""Turns at the turnstile, and how many handshakes there are."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proxy.io.handshakes import Handshakes, Turnstile


class Turns(trio.abc.Instrument):
    """Counts those of Trio's loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("pause", [0.0, 1.0])
async def test_a_few_pass_in_a_turn(pause: float, width: int, autojump_clock: MockClock) -> None:
    """A hundred that are ready at once: after so many, everybody else has a turn."""
    turnstile, turns, steps = Turnstile(width), Turns(), list[int]()
    ready = trio.Event()

    async def shake_hands() -> None:
        await ready.wait()
        for _ in range(2):
            async with turnstile:
                steps.append(turns.count)

    trio.lowlevel.add_instrument(turns)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(shake_hands)
        await wait_all_tasks_blocked()
        for _ in range(width):
            async with turnstile:
                pass
        await trio.sleep(pause)
        ready.set()

    # Nor is it slower than it has to be.
    assert Counter(steps) == {steps[0] + turn: width for turn in range(200 // width)}


async def test_its_width_changes(autojump_clock: MockClock) -> None:
    turnstile, turns, steps = Turnstile(4), Turns(), list[int]()

    async def shake_hands() -> None:
        async with turnstile:
            steps.append(turns.count)

    trio.lowlevel.add_instrument(turns)
    for width in (1, 3, 2):
        steps.clear()
        async with trio.open_nursery() as nursery, AsyncExitStack() as places:
            for _ in range(turnstile.width):
                await places.enter_async_context(turnstile)
            for _ in range(12):
                nursery.start_soon(shake_hands)
            await wait_all_tasks_blocked()
            turnstile.width = width

        assert [*Counter(steps).values()] == [width] * (12 // width)


async def test_alone_it_waits_for_nothing(autojump_clock: MockClock) -> None:
    turnstile, crowded = Turnstile(1), list[bool]()
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(3):
            # A checkpoint would raise `Cancelled`.
            async with turnstile:
                pass
            crowded.append(turnstile.crowded)
            autojump_clock.jump(1.0)

    assert crowded == [False] * 3


async def test_first_come_first_served(autojump_clock: MockClock) -> None:
    turnstile, passed = Turnstile(1), list[int]()

    async def shake_hands(number: int) -> None:
        async with turnstile:
            passed.append(number)

    async with trio.open_nursery() as nursery, turnstile:
        for number in range(10):
            nursery.start_soon(shake_hands, number)
            await wait_all_tasks_blocked()

    assert passed == [*range(10)]


@pytest.mark.parametrize("turn", [0, 1, 2])
async def test_who_is_cancelled_leaves_the_queue(turn: int, autojump_clock: MockClock) -> None:
    """While it waits, and when it is just being let in."""
    turnstile, passed = Turnstile(1), list[str]()
    scope = trio.CancelScope()

    async def shake_hands(name: str) -> None:
        async with turnstile:
            passed.append(name)

    async def cancelled() -> None:
        with scope:
            await shake_hands("cancelled")

    async with trio.open_nursery() as nursery:
        async with turnstile:
            nursery.start_soon(cancelled)
            await wait_all_tasks_blocked()
            nursery.start_soon(shake_hands, "behind it")
            await wait_all_tasks_blocked()
        for _ in range(turn):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    assert passed[-1] == "behind it"
    assert not turnstile.crowded


async def test_a_step_that_fails_lets_the_next_one_in(autojump_clock: MockClock) -> None:
    turnstile = Turnstile(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            async with turnstile:
                raise ValueError("bad")

    assert not turnstile.crowded


async def test_after_each_step_shorter_work_has_its_turn(autojump_clock: MockClock) -> None:
    turnstile, done = Turnstile(3), list[str]()
    turnstile.between = lambda: done.append("between")

    async def shake_hands() -> None:
        async with turnstile:
            done.append("step")

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(shake_hands)
    assert done == ["step", "between"] * 10


async def test_of_too_many_the_oldest_is_given_up(autojump_clock: MockClock) -> None:
    handshakes, given_up = Handshakes(3, 1), list[int]()

    async def shake_hands(number: int, time: float) -> None:
        scope = trio.CancelScope()
        with handshakes.counted(scope), scope:
            await trio.sleep(time)
        if scope.cancelled_caught:
            given_up.append(number)

    async with trio.open_nursery() as nursery:
        for number, time in enumerate([9.0, 1.0, 9.0, 9.0, 9.0]):
            nursery.start_soon(shake_hands, number, time)
            await wait_all_tasks_blocked()
        assert given_up == [0, 1]
        assert len(handshakes) == 3
        handshakes.most = 1
        nursery.start_soon(shake_hands, 5, 1.0)
        await wait_all_tasks_blocked()
        assert sorted(given_up) == [0, 1, 2, 3, 4]
        assert len(handshakes) == 1

    assert len(given_up) == 5
    assert len(handshakes) == 0
