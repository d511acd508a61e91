"""A burst of Closes, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.upstream import DetectDrain
from proxy.pool.drain import PERSONAL, DrainDetector

from .rig import NOW

#: What a Close without a code counts as.
NO_CODE = 1005
Close = tuple[float, int, int]


def burst(
    count: int, *, sessions: int, every: float = 0.0, code: int = NO_CODE, linger: bool = False
) -> list[Close]:
    """Closes as (seconds since the beginning, code, sessions there), of a node with `sessions`.

    With `linger` none of the sessions has ended before the last of the Closes has come.
    """
    return [
        (index * every, code, sessions if linger else sessions - index) for index in range(count)
    ]


def noticed(config: DetectDrain, closes: list[Close]) -> list[int]:
    """Return which Closes, counted from 1, made the node a draining one."""
    detector = DrainDetector(config)
    return [
        number
        for number, (after, code, sessions) in enumerate(closes, 1)
        if detector.closed_by_node(NOW + after, code, sessions)
    ]


@pytest.mark.parametrize(
    ("config", "closes", "expected"),
    [
        # The default: five within a second, and half of all there were.
        ({}, burst(4, sessions=4), []),
        ({}, burst(5, sessions=5), [5]),
        ({}, burst(5, sessions=10), [5]),
        ({}, burst(5, sessions=11), []),
        ({}, burst(50, sessions=100), [50]),
        ({}, burst(49, sessions=100), []),
        ({}, burst(100, sessions=100), [50]),
        # Spread out a little, and too far.
        ({}, burst(20, sessions=20, every=0.05), [10]),
        ({}, burst(5, sessions=8, every=0.2), [5]),
        ({}, burst(5, sessions=8, every=0.3), []),
        ({}, burst(1000, sessions=1000, every=1.0), []),
        # Whatever the code, but for those that are about one client.
        ({}, burst(9, sessions=9, code=1000), [5]),
        ({}, burst(9, sessions=9, code=1001), [5]),
        ({}, burst(9, sessions=9, code=1012), [5]),
        ({}, burst(9, sessions=9, code=4000), [5]),
        *[({}, burst(99, sessions=99, code=code), []) for code in sorted(PERSONAL)],
        # Whether the sessions have ended when the next Close comes makes no difference.
        ({}, burst(5, sessions=10, linger=True), [5]),
        ({}, burst(5, sessions=11, linger=True), []),
        ({}, burst(100, sessions=100, linger=True), [50]),
        ({}, burst(100, sessions=105, linger=True), [53]),
        ({"share": 0.9}, burst(100, sessions=100, linger=True), [90]),
        ({"share": 1.0}, burst(100, sessions=100, linger=True), [100]),
        ({}, burst(20, sessions=20, every=0.05, linger=True), [10]),
        # What there was long before is no matter.
        ({}, [(0, NO_CODE, 1000), *[(1.5, NO_CODE, 10)] * 5], [6]),
        ({}, [(0, NO_CODE, 1000), *[(0.8, NO_CODE, 10)] * 9], []),
        # Other numbers.
        ({"closes": 2}, burst(9, sessions=9), [5]),
        ({"closes": 2, "share": 0.1}, burst(9, sessions=9), [2]),
        ({"closes": 1, "share": 0.01}, burst(1, sessions=100), [1]),
        ({"share": 1.0}, burst(9, sessions=10), []),
        ({"share": 1.0}, burst(10, sessions=10), [10]),
        ({"window": 10.0}, burst(5, sessions=8, every=2), [5]),
        ({"window": 0.1}, burst(5, sessions=8, every=0.05), []),
        ({"closes": 0}, burst(99, sessions=99), []),
    ],
)
def test_burst(config: dict[str, float], closes: list[Close], expected: list[int]) -> None:
    assert noticed(DetectDrain(**config), closes) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("pause", [1.0 + tenths / 10 for tenths in range(25)])
def test_what_was_before_the_window_does_not_count(pause: float) -> None:
    detector = DrainDetector(DetectDrain())
    for start in (NOW, NOW + pause):
        assert not any(detector.closed_by_node(start, NO_CODE, 1) for _ in range(4))


def test_it_is_draining_until_the_time_is_over() -> None:
    detector = DrainDetector(DetectDrain(timeout=35.0))
    for after, code, sessions in burst(5, sessions=5):
        assert not detector.draining(NOW)
        assert detector.until() == 0
        detector.closed_by_node(NOW + after, code, sessions)

    assert detector.draining(NOW)
    assert detector.until() == NOW + 35
    assert detector.draining(NOW + 34.99)
    assert not detector.draining(NOW + 35)


def test_more_closes_do_not_make_it_longer() -> None:
    detector = DrainDetector(DetectDrain(timeout=35.0))
    for after, code, sessions in burst(20, sessions=20, every=0.05):
        detector.closed_by_node(NOW + after, code, sessions)

    # The tenth was half of them.
    assert detector.until() == pytest.approx(NOW + 0.45 + 35)


def test_it_is_over_when_the_node_has_gone() -> None:
    detector = DrainDetector(DetectDrain())
    for after, code, sessions in burst(9, sessions=9):
        detector.closed_by_node(NOW + after, code, sessions)
    detector.over()

    assert not detector.draining(NOW)
    assert detector.until() == 0
    # Nothing of the burst is left to make one more a burst.
    assert not detector.closed_by_node(NOW, NO_CODE, 1)
    assert [detector.closed_by_node(NOW, NO_CODE, 1) for _ in range(4)] == [False] * 3 + [True]


def test_it_may_drain_again_after_the_time() -> None:
    detector = DrainDetector(DetectDrain(timeout=35.0))
    for start in (NOW, NOW + 35, NOW + 100):
        told = [detector.closed_by_node(start, NO_CODE, 10 - n) for n in range(10)]
        assert told.count(True) == 1
        assert detector.until() == start + 35


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 30)), max_size=60),
    st.integers(1, 6),
    st.floats(0.1, 3),
)
def test_no_drain_without_so_many_within_the_window(
    steps: list[tuple[float, int]], closes: int, window: float
) -> None:
    detector = DrainDetector(DetectDrain(closes=closes, share=0.01, window=window))
    now, times = NOW, list[float]()
    for pause, sessions in steps:
        now += pause
        times.append(now)
        if detector.closed_by_node(now, NO_CODE, sessions):
            # The first of the slices may have begun just before.
            assert sum(at > now - window - 1e-6 for at in times) >= closes


@given(
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0, 5)), min_size=5, max_size=60),
    st.floats(0, 10),
)
def test_any_burst_of_all_is_noticed(ends: list[tuple[float, float]], start: float) -> None:
    """However the Closes are spread over nine tenths of the window, and however long they take."""
    closes = [
        (start + at, NO_CODE, sum(at <= close + wait for close, wait in ends))
        for at, _ in sorted(ends)
    ]
    expected = max(5, (len(ends) + 1) // 2)

    assert noticed(DetectDrain(), closes) == [expected]


def count_closes(detector: DrainDetector, count: int, *, at: float, sessions: int = 10) -> bool:
    """Let a node close so many of its sessions; return whether that made it a draining one."""
    told = [detector.closed_by_node(at, NO_CODE, sessions) for _ in range(count)]
    return True in told


def test_draining_node_is_one_with_other_settings_too() -> None:
    detector = DrainDetector(DetectDrain(timeout=35.0))
    assert count_closes(detector, 5, at=NOW)
    detector.reconfigure(DetectDrain(closes=100, timeout=10.0, window=7.0))

    assert detector.draining(NOW + 9)
    assert not detector.draining(NOW + 11)


def test_draining_is_over_when_nobody_looks_any_more() -> None:
    detector = DrainDetector(DetectDrain())
    assert count_closes(detector, 5, at=NOW)
    detector.reconfigure(DetectDrain(closes=0))

    assert not detector.draining(NOW)
    assert detector.until() == 0


@pytest.mark.parametrize(("window", "noticed"), [(1.0, True), (0.1, False), (60.0, False)])
def test_closes_of_before_count_within_the_same_window(window: float, *, noticed: bool) -> None:
    detector = DrainDetector(DetectDrain(closes=8))
    assert not count_closes(detector, 4, at=NOW)
    detector.reconfigure(DetectDrain(closes=5, window=window))

    assert count_closes(detector, 1, at=NOW) is noticed
    # From then on it is as ever.
    assert count_closes(detector, 5, at=NOW + 100) is True
