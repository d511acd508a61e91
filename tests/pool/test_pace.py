"""How many may go, and when the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pool.pace import Pace

from .rig import NOW

rates = st.floats(0.1, 1e6)


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.1, 1), (1, 1), (20, 1), (39, 1), (40, 2), (200, 10), (1e6, 50_000)]
)
def test_a_twentieth_of_a_second_at_once(rate: float, burst: int) -> None:
    pace = Pace(rate)

    assert pace.take(NOW, 10**6) == burst
    assert pace.take(NOW, 10**6) == 0
    # After a pause, however long, not more than that.
    assert pace.take(NOW + 1000, 10**6) == burst


@pytest.mark.parametrize(
    ("rate", "steps"),
    [
        # (seconds since the beginning, wanted, taken)
        (10, [(0, 5, 1), (0.05, 5, 0), (0.1, 5, 1), (0.1, 5, 0), (0.3, 5, 1)]),
        (200, [(0, 3, 3), (0, 3, 3), (0, 3, 3), (0, 3, 1), (0.0126, 9, 2), (0.0151, 9, 1)]),
        (0.5, [(0, 1, 1), (1.9, 1, 0), (2, 1, 1), (3.9, 1, 0), (4, 1, 1)]),
        (100, [(0, 0, 0), (0, 5, 5), (0.5, 0, 0), (0.5, 9, 5)]),
    ],
)
def test_what_may_go(rate: float, steps: list[tuple[float, int, int]]) -> None:
    pace = Pace(rate)
    for after, wanted, taken in steps:
        assert pace.take(NOW + after, wanted) == taken


def test_the_rate_may_change() -> None:
    pace = Pace(100)
    assert pace.take(NOW, 10**6) == 5
    pace.rate = 1000
    assert pace.take(NOW + 0.0101, 10**6) == 10
    assert pace.wait(NOW + 0.0101) == pytest.approx(0.0009, abs=1e-5)
    # What was saved up at the higher rate is not kept.
    pace.rate = 100
    assert pace.take(NOW + 10, 10**6) == 5
    pace.rate = 1
    assert pace.wait(NOW + 10) == pytest.approx(1, abs=1e-5)


def test_nobody_has_to_wait_while_some_may_go() -> None:
    pace = Pace(200)

    assert pace.wait(NOW) == 0
    assert pace.take(NOW, 9) == 9
    assert pace.wait(NOW) == 0
    assert pace.take(NOW, 9) == 1
    assert pace.wait(NOW) == pytest.approx(1 / 200, abs=1e-5)
    assert pace.wait(NOW + 0.002) == pytest.approx(0.003, abs=1e-5)


@given(rates, st.floats(0, 1e8), st.integers(1, 30))
def test_who_waits_as_long_as_told_may_go(rate: float, start: float, times: int) -> None:
    """Else a task that waits just so would come too early, again and again."""
    pace, now = Pace(rate), start
    pace.take(now, 10**6)
    for _ in range(times):
        now += pace.wait(now)
        assert pace.take(now, 1) == 1


@given(rates, st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10**6)), max_size=40))
def test_never_more_than_burst_and_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    pace, now = Pace(rate), NOW
    taken: list[tuple[float, int]] = []
    for pause, wanted in steps:
        now += pause
        count = pace.take(now, wanted)
        assert 0 <= count <= wanted
        taken.append((now, count))

    burst = max(1.0, rate / 20)
    for index, (since, _) in enumerate(taken):
        total = 0
        for until, count in taken[index:]:
            total += count
            assert total <= burst + rate * (until - since) + 1e-3


@given(st.floats(0.1, 1000), st.lists(st.floats(0.0001, 0.04), min_size=1, max_size=60))
def test_whoever_always_asks_gets_the_rate(rate: float, pauses: list[float]) -> None:
    """Nothing that was earned is lost while somebody takes it at once."""
    pace, now = Pace(rate), NOW
    total = pace.take(now, 10**6)
    for pause in pauses:
        now += pause
        total += pace.take(now, 10**6)

    assert total >= rate * (now - NOW) - 1
