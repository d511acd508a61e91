"""Rates: what is allowed at once and in the long run, and what a pause is worth."""

from __future__ import annotations

import copy
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.frames import Scanner
from proxy.wire.opaque import Flow
from proxy.wire.rate import Meter, Rate

from .peers import KEY
from .strategies import frame

#: Clocks don't begin at 0, and floats are coarser far away from it.
starts = st.sampled_from([0.0, 1.0, 12_345.678, 4_000_000.123])
rates = st.sampled_from([0.1, 0.3, 1, 3, 7, 100, 1e6])
bursts = st.sampled_from([0.01, 0.1, 1 / 3, 1, 2, 30])


@pytest.mark.parametrize(
    ("spent", "pauses"),
    [
        # Ten a second, two seconds' worth at once.
        ([(0, 20)], [0]),
        ([(0, 21)], [0.1]),
        ([(0, 20.05)], [0.005]),
        ([(0, 20), (0, 1)], [0, 0.1]),
        ([(0, 20), (1, 10), (1, 1)], [0, 0, 0.1]),
        # What was not used is not saved beyond the burst.
        ([(100, 20), (100, 1)], [0, 0.1]),
        # What has come has come: it is paid for afterwards, and then there is nothing to spare.
        ([(0, 120), (10, 1), (10.1, 1)], [10, 0.1, 0.1]),
        ([(0, 120), (12, 20)], [10, 0]),
    ],
)
def test_a_burst_at_once_and_the_rate_ever_after(
    spent: list[tuple[float, float]], pauses: list[float]
) -> None:
    rate = Rate(10, 2)

    assert [rate.spend(*one) for one in spent] == pytest.approx(pauses)


@given(starts, rates, bursts)
def test_one_is_always_allowed_at_once(start: float, rate: float, burst: float) -> None:
    one = Rate(rate, burst)

    assert one.allows(start) == 0
    assert one.spend(start) == 0


@given(starts, rates, bursts, st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 50))))
def test_who_obeys_sends_no_more_than_the_rate(
    start: float, rate: float, burst: float, schedule: list[tuple[float, float]]
) -> None:
    """Between any two moments: the rate, a burst, and the one read that was beyond it."""
    one, now, came = Rate(rate, burst), start, list[tuple[float, float]]()
    worth = max(burst, 1 / rate)
    for waited, share in schedule:
        amount = share * rate
        now += waited
        came.append((now, amount))
        now += one.spend(now, amount)
    for first in range(len(came)):
        total, largest = 0.0, max(amount for _, amount in came[first:])
        for at, amount in came[first:]:
            total += amount

            assert total <= rate * (at - came[first][0] + worth + 0.001) + largest


@given(starts, rates, bursts, st.lists(st.floats(0.01, 1), min_size=1), st.floats(0, 0.5))
def test_who_keeps_the_rate_is_never_paused(
    start: float, rate: float, burst: float, shares: list[float], spare: float
) -> None:
    one, now = Rate(rate, burst), start
    worth = max(burst, 1 / rate)
    for share in shares:
        assert one.spend(now, share * worth * rate) == 0
        now += share * worth * (1 + spare)


@given(starts, rates, bursts, st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 5)), min_size=1))
def test_asking_spends_nothing_and_tells_what_spending_would(
    start: float, rate: float, burst: float, schedule: list[tuple[float, float]]
) -> None:
    one, now = Rate(rate, burst), start
    for waited, amount in schedule:
        one.spend(now, amount)
        now += waited
        asked = [one.allows(now) for _ in range(3)]

        assert asked == [copy.copy(one).spend(now)] * 3


def test_who_has_waited_as_told_is_allowed() -> None:
    rate, now = Rate(0.3, 2), 12_345.678
    rate.spend(now, 5)
    now += rate.allows(now)

    assert rate.allows(now) == 0
    assert rate.spend(now) == 0


def test_idle_is_who_has_paid_for_all() -> None:
    rate = Rate(10, 2)

    assert rate.idle(0)
    rate.spend(100, 5)
    assert not rate.idle(100.4)
    assert rate.idle(100.6)


def test_a_meter_counts_messages_since_the_last_time() -> None:
    scanner = Scanner(masked=True)
    meter = Meter(scanner, messages=10, size=0, burst=1)
    text = frame(1, b"hello", key=KEY)

    assert meter.pause(0) == 0
    scanner.scan(text * 10)
    assert meter.pause(0) == 0
    # Nothing has come since.
    assert meter.pause(0) == 0
    scanner.scan(text)
    assert meter.pause(0) == pytest.approx(0.1)
    scanner.scan(frame(9, b"no message", key=KEY) + frame(1, b"part", fin=False, key=KEY))
    assert meter.pause(0) == 0


def test_a_meter_counts_bytes_of_all_kinds() -> None:
    scanner = Scanner(masked=True)
    meter = Meter(scanner, messages=0, size=100, burst=1)
    ping = frame(9, b"x" * 94, key=KEY)
    scanner.scan(ping)
    assert len(ping) == 100
    assert meter.pause(0) == 0
    scanner.scan(frame(2, b"x" * 1000, key=KEY)[:50])

    assert meter.pause(0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("data", "pause"),
    [
        (frame(1, b"", key=KEY) * 30, 2.0),
        (frame(1, b"x" * 1000, key=KEY)[:600], 5.0),
        (frame(1, b"x" * 592, key=KEY) + frame(1, b"", key=KEY) * 50, 8.0),
    ],
    ids=["messages", "bytes", "both"],
)
def test_the_longer_pause_counts(data: bytes, pause: float) -> None:
    scanner = Scanner(masked=True)
    meter = Meter(scanner, messages=10, size=100, burst=1)
    scanner.scan(data)

    assert meter.pause(0) == pytest.approx(pause)


def test_a_meter_without_limits_never_pauses() -> None:
    scanner = Scanner(masked=True)
    meter = Meter(scanner, messages=0, size=0, burst=1)
    scanner.scan(frame(2, b"x" * 100_000, key=KEY) * 10)

    assert meter.pause(0) == 0


def test_a_meter_of_unseen_bytes() -> None:
    flow = Flow()
    meter = Meter(flow, messages=0, size=10, burst=1)
    flow.scan(b"x" * 30)

    assert meter.pause(0) == pytest.approx(2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400)), min_size=1))
def test_who_obeys_a_meter_keeps_both_rates(schedule: list[tuple[float, int]]) -> None:
    scanner = Scanner(masked=True)
    meter, now = Meter(scanner, messages=50, size=1000, burst=0.5), 0.0
    arrivals = []
    for waited, count in schedule:
        now += waited
        data = frame(1, b"x", key=KEY) * count
        assert scanner.plain(data, len(data))
        arrivals.append((now, count))
        now += meter.pause(now)
    totals = accumulate(count for _, count in arrivals)
    for (at, count), total in zip(arrivals, totals, strict=True):
        assert total - count <= 50 * (at + 0.5) + 1
        assert 7 * (total - count) <= 1000 * (at + 0.5) + 1
