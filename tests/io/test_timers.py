"""Deadlines by the heap: what is called when, and what is left behind."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy.io.timers import Timers

Action = Callable[[], float]


@asynccontextmanager
async def open_timers() -> AsyncIterator[Timers]:
    """Timers that are served, at the beginning of time."""
    timers = Timers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        yield timers
        nursery.cancel_scope.cancel()


class Calls:
    """What was called when."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []

    def action(self, name: str, *again: float) -> Action:
        """Return an action that is due again at each of these times, and then no more."""
        left = list(again)

        def act() -> float:
            self.seen.append((trio.current_time(), name))
            return left.pop(0) if left else math.inf

        return act


async def test_all_are_called_in_the_order_of_their_times(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()
    async with open_timers() as timers:
        for due in (3.0, 1.0, 2.0, 1.0):
            timers.timer(calls.action(f"for {due}")).hasten(due)
        await trio.sleep(5)

    assert calls.seen == [(1, "for 1.0"), (1, "for 1.0"), (2, "for 2.0"), (3, "for 3.0")]


async def test_nobody_is_called_who_was_not_set(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls()
    async with open_timers() as timers:
        timers.timer(calls.action("never"))
        timers.timer(calls.action("never")).hasten(math.inf)
        await trio.sleep(10**6)

    assert calls.seen == []


async def test_the_earliest_time_counts(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls()
    async with open_timers() as timers:
        timer = timers.timer(calls.action("it"))
        for due in (10, 4, 7):
            timer.hasten(due)
        await trio.sleep(20)

    assert calls.seen == [(4, "it")]


async def test_a_time_that_has_passed_is_now(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls()
    async with open_timers() as timers:
        await trio.sleep(5)
        timers.timer(calls.action("it")).hasten(3)
        await trio.sleep(1)

    assert calls.seen == [(5, "it")]


async def test_an_action_says_when_it_is_due_again(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls()
    async with open_timers() as timers:
        timer = timers.timer(calls.action("it", 2, 5))
        timer.hasten(1)
        await trio.sleep(20)
        # It was not to be called by itself again; it may be set all the same.
        timer.hasten(30)
        await trio.sleep(20)

    assert calls.seen == [(1, "it"), (2, "it"), (5, "it"), (30, "it")]


async def test_a_time_that_was_given_up_and_taken_again_counts_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()
    async with open_timers() as timers:
        timer = timers.timer(calls.action("it", 10, 20))
        timer.hasten(10)
        timer.hasten(5)
        await trio.sleep(15)

    assert calls.seen == [(5, "it"), (10, "it")]


async def test_what_comes_before_all_others_is_not_slept_through(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()
    async with open_timers() as timers:
        await trio.testing.wait_all_tasks_blocked()
        timers.timer(calls.action("late")).hasten(100)
        await trio.testing.wait_all_tasks_blocked()
        timers.timer(calls.action("soon")).hasten(1)
        await trio.sleep(50)

    assert calls.seen == [(1, "soon")]


async def test_cancelled_means_never_and_lets_go(autojump_clock: trio.testing.MockClock) -> None:
    class Session:
        def look(self) -> float:
            raise AssertionError

    session = Session()
    gone = weakref.ref(session)
    async with open_timers() as timers:
        timer = timers.timer(session.look)
        timer.hasten(10)
        timer.cancel()
        timer.hasten(5)
        del session
        assert gone() is None
        await trio.sleep(20)


async def test_an_action_may_set_and_cancel_its_own_timer_and_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()
    async with open_timers() as timers:
        victim = timers.timer(calls.action("victim"))
        sooner = timers.timer(calls.action("sooner"))

        def act() -> float:
            calls.seen.append((trio.current_time(), "actor"))
            actor.hasten(2)
            victim.cancel()
            if trio.current_time() == 1:
                sooner.hasten(1.5)
            else:
                actor.cancel()
            return 3

        actor = timers.timer(act)
        for timer, due in ((actor, 1), (victim, 1), (sooner, 9)):
            timer.hasten(due)
        await trio.sleep(20)

    assert calls.seen == [(1, "actor"), (1.5, "sooner"), (2, "actor")]


async def test_a_bug_is_logged_and_the_others_go_on(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    def explode() -> float:
        raise ZeroDivisionError("at once")

    with caplog.at_level(logging.ERROR, "tidegate.timers"):
        async with open_timers() as timers:
            broken = timers.timer(explode)
            for due in (1, 3):
                timers.timer(calls.action("good")).hasten(due)
            broken.hasten(1)
            await trio.sleep(2)
            broken.hasten(3)
            await trio.sleep(2)

    assert calls.seen == [(1, "good"), (3, "good")]
    assert [record.message for record in caplog.records] == ["bug"] * 2
    assert "at once" in caplog.text


async def test_many_at_once_leave_turns_to_others(autojump_clock: trio.testing.MockClock) -> None:
    fired, between = 0, list[int]()

    def act() -> float:
        nonlocal fired
        fired += 1
        return math.inf

    async def other() -> None:
        await trio.sleep_until(1)
        while fired < 1000:
            between.append(fired)
            await trio.lowlevel.checkpoint()

    async with open_timers() as timers, trio.open_nursery() as nursery:
        for _ in range(1000):
            timers.timer(act).hasten(1)
        nursery.start_soon(other)

    # Batches of 64; of two tasks either may come first in a turn, so that two may follow another.
    assert max(after - before for before, after in pairwise([*between, fired])) <= 128


async def test_who_is_always_due_does_not_keep_others_from_theirs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_timers() as timers:
        greedy, turns = timers.timer(lambda: 0.0), 0
        greedy.hasten(0)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            turns += 1
        greedy.cancel()

    assert turns == 100


@pytest.mark.parametrize("step", [-0.001, 0.001], ids=["earlier", "later"])
async def test_setting_again_and_again_leaves_little_behind(
    step: float, autojump_clock: trio.testing.MockClock
) -> None:
    calls = Calls()
    async with open_timers() as timers:
        timer = timers.timer(calls.action("it"))
        timers.timer(calls.action("other")).hasten(200)
        for number in range(20_000):
            timer.hasten(100 + step * number)
            assert len(timers) < 200
        await trio.sleep(300)

    assert [name for _, name in calls.seen] == ["it", "other"]
    assert (len(timers), timers._left) == (0, 0)


async def test_who_has_gone_leaves_little_behind(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls()
    async with open_timers() as timers:
        for number in range(100):
            timers.timer(calls.action(f"{number}")).hasten(900 + number)
        for _ in range(20_000):
            timer = timers.timer(calls.action("gone"))
            timer.hasten(900)
            timer.cancel()
            assert len(timers) < 400
        await trio.sleep(2000)

    assert calls.seen == [(900 + number, f"{number}") for number in range(100)]
    assert (len(timers), timers._left) == (0, 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 50) | st.just(None), st.integers(0, 9)),
        max_size=400,
    )
)
def test_whatever_is_set_and_cancelled_the_earliest_time_counts(
    steps: list[tuple[int, int | None, int]],
) -> None:
    """Against a model: a time for each name; None cancels it, and another takes its place."""

    async def main() -> None:
        calls, expected = Calls(), list[tuple[float, str]]()
        async with open_timers() as timers:
            make = partial(lambda name: timers.timer(calls.action(str(name))))
            all_ = {name: make(name) for name in range(6)}
            due = dict.fromkeys(range(6), math.inf)
            now = 0.0

            async def wait(until: float) -> None:
                nonlocal now
                for at, name in sorted((at, name) for name, at in due.items()):
                    if at <= until:
                        expected.append((max(at, now), str(name)))
                        due[name] = math.inf
                now = until
                await trio.sleep_until(until)
                await trio.testing.wait_all_tasks_blocked()

            for name, at, pause in steps:
                if at is None:
                    all_[name].cancel()
                    all_[name], due[name] = make(name), math.inf
                else:
                    all_[name].hasten(at)
                    due[name] = min(due[name], at)
                if not pause:
                    await wait(now + 5)
            await wait(now + 100)
        assert sorted(calls.seen) == sorted(expected)
        assert len(timers) == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
