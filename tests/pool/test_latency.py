"""A mean that forgets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pool.latency import MEMORY, Latency

from .rig import NOW


def measured(*samples: tuple[float, float]) -> float | None:
    """Return the mean after samples, each given as (seconds since the beginning, seconds)."""
    latency = Latency()
    for after, seconds in samples:
        latency.measured(NOW + after, seconds)
    return latency.mean


@pytest.mark.parametrize(
    ("samples", "mean"),
    [
        ([], None),
        ([(0, 0.2)], 0.2),
        ([(0, 0.2), (5, 0.2), (500, 0.2)], 0.2),
        # What is old counts for a third after `MEMORY`, and for nothing in the end.
        ([(0, 1.0), (MEMORY, 0.0)], 1 / math.e),
        ([(0, 1.0), (1000, 0.5)], 0.5),
        # However soon after another, a measurement counts for a tenth.
        ([(0, 1.0), (0, 0.0)], 0.9),
        ([(0, 1.0), (0.5, 0.0)], 0.9),
        ([(0, 1.0), *[(0, 0.0)] * 30], 0.9**30),
    ],
)
def test_mean(samples: list[tuple[float, float]], mean: float | None) -> None:
    assert measured(*samples) == (None if mean is None else pytest.approx(mean, abs=1e-9))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=30))
def test_mean_is_within_what_was_measured(samples: list[tuple[float, float]]) -> None:
    samples.sort()
    mean = measured(*samples)
    seconds = [one for _, one in samples]

    assert mean is not None
    assert min(seconds) - 1e-9 <= mean <= max(seconds) + 1e-9


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_follows_a_change(before: float, after: float, pause: float) -> None:
    latency = Latency()
    latency.measured(NOW, before)
    for index in range(100):
        latency.measured(NOW + pause * index, after)

    assert latency.mean == pytest.approx(after, abs=1e-3)
