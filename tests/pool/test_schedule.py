"""When sessions leave: so many a second, evenly or nearly so."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pool.schedule import Schedule

from .rig import NOW

RATES = [0.01, 0.3, 1, 7, 100, 10_000]


def run(
    schedule: Schedule, rate: float, count: int, *, turn: float = 1.0, start: float = NOW
) -> list[float]:
    """Take so many times, turn by turn."""
    times: list[float] = []
    now = start
    while len(times) < count:
        taken = schedule.take(now, now + turn, rate, count - len(times))
        assert all(now <= time < now + turn for time in taken)
        times += taken
        now += turn
    return times


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("turn", [1.0, 0.3])
def test_without_jitter_they_are_even(rate: float, turn: float) -> None:
    count = max(3, int(rate * 3))
    times = run(Schedule(0.0, Random(1).random), rate, count, turn=turn)

    assert times == pytest.approx([NOW + n / rate for n in range(count)], abs=1e-9)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("jitter", [0.1, 0.5, 1.0])
def test_with_jitter_each_is_moved_within_its_place(rate: float, jitter: float) -> None:
    count = max(20, int(rate * 3))
    times = run(Schedule(jitter, Random(1).random), rate, count)
    moved = [(time - NOW) * rate - n for n, time in enumerate(times)]

    # The first does not wait for anybody.
    assert moved[0] == 0
    assert times == sorted(times)
    assert all(-1e-6 <= part <= jitter + 1e-6 for part in moved)
    # By chance, and by as much as it may.
    assert min(moved) < jitter / 4
    assert max(moved) > jitter * 3 / 4


def test_chance_is_that_of_the_random_it_was_given() -> None:
    one, same, other = (run(Schedule(1.0, Random(seed).random), 10, 30) for seed in (1, 1, 2))

    assert one == same != other


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_a_thousand_at_a_hundred_a_second_take_ten_seconds(jitter: float) -> None:
    times = run(Schedule(jitter, Random(1).random), 100, 1000)

    assert times[-1] - times[0] == pytest.approx(10, rel=0.01)


def test_not_more_than_there_are() -> None:
    schedule = Schedule(0.0, Random(1).random)

    assert schedule.take(NOW, NOW + 1, 10, 0) == []
    assert schedule.take(NOW, NOW + 1, 10, 3) == pytest.approx([NOW, NOW + 0.1, NOW + 0.2])
    # What nobody has taken is not made up for.
    assert schedule.take(NOW + 5, NOW + 6, 2, 9) == [NOW + 5, NOW + 5.5]


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_another_rate_holds_at_once(jitter: float) -> None:
    """Who would have left in a hundred seconds need not wait for that."""
    schedule = Schedule(jitter, Random(1).random)
    assert schedule.take(NOW, NOW + 1, 0.01, 9) == [NOW]
    assert schedule.take(NOW + 1, NOW + 2, 0.01, 9) == []
    faster = schedule.take(NOW + 2, NOW + 3, 5, 9)
    assert len(faster) == pytest.approx(5, abs=1)

    # And the other way round.
    assert schedule.take(NOW + 3, NOW + 8, 0.1, 9) == []


@pytest.mark.parametrize("turn", [1.0, 0.3, 100.0])
@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize(("count", "seconds"), [(1, 5), (10, 0.2), (999, 7.3), (10_000, 20)])
def test_rate_that_is_needed(count: int, seconds: float, jitter: float, turn: float) -> None:
    """Found anew in every turn it stays what it was, and all are gone in time."""
    schedule, until = Schedule(jitter, Random(1).random), NOW + seconds
    now, left, rates = NOW, count, []
    while left:
        rates.append(schedule.rate(left, now, until))
        left -= len(schedule.take(now, min(now + turn, until), rates[-1], left))
        now += turn

    assert rates == pytest.approx([count / seconds] * len(rates), rel=1e-3 if not jitter else 0.2)


def test_rate_after_a_pause() -> None:
    schedule = Schedule(0.0, Random(1).random)
    assert schedule.take(NOW, NOW + 1, 1, 1) == [NOW]

    # Less than a place after the last, and long after it.
    assert schedule.rate(1, NOW + 1, NOW + 4) == pytest.approx(2 / 4)
    assert schedule.rate(10, NOW + 90, NOW + 100) == pytest.approx(1)


@given(
    st.floats(0, 1),
    st.integers(0, 2**32),
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 300), st.integers(0, 400)), max_size=20),
)
def test_never_closer_than_the_highest_rate_allows(
    jitter: float, seed: int, turns: list[tuple[float, float, int]]
) -> None:
    schedule, now = Schedule(jitter, Random(seed).random), NOW
    times: list[float] = []
    for length, rate, most in turns:
        taken = schedule.take(now, now + length, rate, most)
        assert len(taken) <= most
        assert all(now <= time < now + length for time in taken)
        times += taken
        now += length

    assert times == sorted(times)
    if times:
        rates = [rate for _, rate, _ in turns]
        # Of any number in a row, the first may have been moved, towards the others.
        for count in (1, 2, 10, 100):
            for sooner, later in zip(times, times[count:], strict=False):
                assert later - sooner >= count / max(rates) - jitter / min(rates) - 1e-6
