"""Leaving at a pace: when, in which order, and what is said of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import partial
from random import Random

import pytest
import trio
import trio.testing

from proxy.pool.rebalance import choose
from proxy.pool.schedule import Schedule
from proxy.serve.leave import TURN, Drain, DrainProgress, Leave, turns
from proxy.wire.closing import Ending

Clock = trio.testing.MockClock


class Guest:
    """A session that notes when it was told to leave."""

    def __init__(self, *, opened: float = -100.0, quiet_since: float = -100.0) -> None:
        self.opened = opened
        self.quiet_since = quiet_since
        self.is_between_messages = True
        self.told: tuple[float, Ending, str] | None = None

    @property
    def is_ending(self) -> bool:
        return self.told is not None

    def leave(self, ending: Ending, reason: str) -> None:
        assert self.told is None
        self.told = (trio.current_time(), ending, reason)


def guests(count: int) -> list[Guest]:
    """Guests that came one after the other."""
    return [Guest(opened=-1000.0 + index / 1000) for index in range(count)]


def times(guests: Iterable[Guest]) -> list[float]:
    """Return when each was told, those left out who were not."""
    return [guest.told[0] for guest in guests if guest.told is not None]


def make_drain(
    present: Iterable[Guest], *, jitter: float = 0.0, deadline: float = math.inf, started: float = 0
) -> Drain:
    return Drain(
        "node a:1",
        ("moved", "node is drained"),
        Schedule(jitter, Random(1).random),
        set(present),
        started=started,
        deadline=deadline,
    )


async def run(drain: Drain, sessions: list[Guest], rate: float, seconds: float) -> None:
    """Have sessions leave for so long."""

    def plan(now: float, until: float) -> list[Leave]:
        drain.look(sessions)
        drain.turn(now, until, rate)
        return [drain]

    with trio.move_on_after(seconds):
        await turns(plan)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("count", "rate", "deadline", "expected"),
    [
        (1, 0.01, 25, 0),
        (5, 0.01, 10_000, 400),
        (10, 0.5, 600, 18),
        (10, 1, 600, 9),
        (1000, 100, 25, 9.99),
        (10_000, 10_000, 25, 1),
        # They would not be gone: faster, and as even.
        (1000, 100, 5, 5),
        (1000, 0.01, 20, 20),
        (1000, 100, 0.5, 0.5),
        (3000, 100, 20.5, 20.5),
        # Just in time.
        (1000, 100, 10, 10),
    ],
)
async def test_pace(
    count: int,
    rate: float,
    deadline: float,
    expected: float,
    jitter: float,
    autojump_clock: Clock,
) -> None:
    here = guests(count)
    await run(make_drain(here, jitter=jitter, deadline=deadline), here, rate, deadline + 1)

    told = times(here)
    gap = 1 / max(rate, count / deadline)
    assert len(told) == count
    # The oldest first, evenly, each at its place or up to the next one.
    assert told == sorted(told)
    assert told == pytest.approx([(n + jitter / 2) * gap for n in range(count)], abs=0.8 * gap)
    assert told[0] == 0
    assert told[-1] == pytest.approx(expected, abs=1.01 * gap)
    assert told[-1] <= deadline


async def test_pace_holds_though_it_takes_time_to_tell(autojump_clock: Clock) -> None:
    """What is late, since the process has other things to do, is made up for."""
    here = guests(500)
    drain = make_drain(here)
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, drain, here, 100.0, 20.0)
            for second in range(5):
                await trio.sleep_until(second + 0.5)
                # Nothing else is done meanwhile.
                autojump_clock.jump(0.2)

    assert times(here)[-1] == pytest.approx(5, abs=0.21)
    assert len(times(here)) == 500


async def test_who_joins_is_told_too(autojump_clock: Clock) -> None:
    here = guests(3)
    drain = make_drain(here)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, drain, here, 1.0, 10.0)
        await trio.sleep(5.5)
        here.extend(guests(2))

    assert sorted(times(here)) == pytest.approx([0, 1, 2, 6, 7])
    assert drain.progress.total == 5


async def test_quiet_before_busy_then_the_oldest(autojump_clock: Clock) -> None:
    here = guests(6)
    for index in (0, 2, 4):
        here[index].quiet_since = math.inf
    await run(make_drain(here), here, 1.0, 10.0)

    assert times(here) == pytest.approx([3, 0, 4, 1, 5, 2])


async def test_who_is_within_a_message_is_passed_over(autojump_clock: Clock) -> None:
    """Its time goes to the next in line, and it has another when it is through."""
    here = guests(6)
    first, second = here[:2]
    first.is_between_messages = False

    async def talk() -> None:
        await trio.sleep(0.2)
        second.is_between_messages = False
        await trio.sleep(2)
        first.is_between_messages = second.is_between_messages = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        nursery.start_soon(run, make_drain(here), here, 2.0, 10.0)

    assert times(here[2:]) == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert times([second]) == [0]
    assert times([first]) == [3.0]


async def test_at_the_deadline_all_are_told(autojump_clock: Clock) -> None:
    here = guests(10)
    for talking in here[:3]:
        talking.is_between_messages = False
    await run(make_drain(here, deadline=2.5), here, 100.0, 10.0)

    assert times(here[3:]) == pytest.approx([n / 100 for n in range(7)])
    assert times(here[:3]) == [2.5] * 3
    # Whoever is there after that.
    late = guests(2)
    late[0].is_between_messages = False
    await run(make_drain(late, deadline=5.0), late, 0.01, 1.0)
    assert times(late) == [10.0] * 2


async def test_slots_that_nobody_could_take_make_the_rest_faster(autojump_clock: Clock) -> None:
    """Evenly, as far as that goes, and not all at the deadline."""
    here = guests(100)
    for talking in here:
        talking.is_between_messages = False

    async def fall_silent() -> None:
        await trio.sleep(5.5)
        for talking in here:
            talking.is_between_messages = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fall_silent)
        nursery.start_soon(run, make_drain(here, deadline=10.0), here, 10.0, 20.0)

    assert times(here) == pytest.approx([6 + n / 25 for n in range(100)], abs=0.04)
    assert times(here)[-1] <= 10


async def test_nobody_leaves_when_the_reason_is_gone(autojump_clock: Clock) -> None:
    here = guests(10)
    schedule = Schedule(0.0, Random(1).random)
    leave = Leave("moved", "for a reason", schedule, lambda: trio.current_time() < 0.9)

    def plan(now: float, until: float) -> list[Leave]:
        leave.plan(now, until, 2.0, len(here), partial(choose, here, now=now))
        return [leave]

    with trio.move_on_after(5):
        await turns(plan)

    assert [guest.told for guest in here if guest.told] == [
        (0.0, "moved", "for a reason"),
        (0.5, "moved", "for a reason"),
    ]


async def test_several_leave_beside_each_other(autojump_clock: Clock) -> None:
    """One who has two reasons to leave is told one."""
    here = guests(4)
    drains = [make_drain(here[:3]), make_drain(here[2:])]

    def plan(now: float, until: float) -> list[Leave]:
        for drain, sessions in zip(drains, (here[:3], here[2:]), strict=True):
            drain.look(sessions)
            drain.turn(now, until, 2.0)
        return list(drains)

    with trio.move_on_after(5):
        await turns(plan)

    assert times(here) == pytest.approx([0.0, 0.5, 0.0, 0.5])


async def test_progress(autojump_clock: Clock) -> None:
    here = guests(40)
    present = set(here)
    drain = Drain(
        "shutdown",
        ("shutdown", "shutting down"),
        Schedule(0.0, Random(1).random),
        present,
        started=trio.current_time(),
        deadline=10.0,
    )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, drain, here, 1.0, 20.0)
        await trio.sleep(4.9)
        assert drain.progress == DrainProgress("shutdown", 40, 40, 4.0, 0.0, 10.0)
        # One is over when both sides have said goodbye.
        present.difference_update([guest for guest in here if guest.is_ending])
        assert drain.progress.left == 20
        await trio.sleep(6)
        present.clear()
        assert drain.progress == DrainProgress("shutdown", 40, 0, 0.0, 0.0, 10.0)
        nursery.cancel_scope.cancel()


async def test_log(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    here = guests(12)
    present = set(here)
    drain = Drain(
        "node a:1",
        ("moved", "node is drained"),
        Schedule(0.0, Random(1).random),
        present,
        started=0.0,
        deadline=600.0,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, drain, here, 1.0, 12.5)
        for guest in here:
            await trio.sleep(0.9)
            present.discard(guest)
            await trio.sleep(0.1)
    drain.end(trio.current_time())

    assert [facts(record) for record in caplog.records] == [
        ("draining", {"what": "node a:1", "sessions": 12, "rate": 1.0, "deadline": 600.0}),
        ("drain", {"what": "node a:1", "total": 12, "left": 7}),
        ("drain", {"what": "node a:1", "total": 12, "left": 2}),
        ("drained", {"what": "node a:1", "total": 12, "seconds": 12.5}),
    ]


async def test_log_of_one_that_was_called_off(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    here = guests(12)
    drain = make_drain(here)
    await run(drain, here, 1.0, TURN / 2)
    drain.end(trio.current_time())

    assert facts(caplog.records[-1]) == (
        "drain stopped",
        {"what": "node a:1", "total": 12, "left": 12, "seconds": 0.5},
    )


def facts(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Return an event's name and what was said with it."""
    names = ("what", "sessions", "total", "left", "rate", "deadline", "seconds")
    return record.getMessage(), {
        name: record.__dict__[name] for name in names if name in record.__dict__
    }
