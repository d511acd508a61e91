"""How the cost grows: scenarios that differ in one number, drawn as a line for each proxy.

A curve is refused if Tidegate's grows more steeply than its rule says.
"""

from __future__ import annotations

import itertools

import attrs

from .report import OURS, Outcome
from .scenarios import Scenario

__all__ = ["CURVES", "Curve", "verdict"]

#: How far a point may lie above the rule: with more sockets than the CPU's caches hold, a message
#: costs any proxy up to twice as much.
_TOLERANCE = 2.0


@attrs.frozen(kw_only=True, eq=False)
class Curve:
    """Scenarios by the number in which they differ.

    `linear` says that cost may grow with that number; else it is to stay as it is.
    """

    name: str
    title: str
    axis: str
    points: dict[int, Scenario]
    linear: bool = False

    @property
    def unit(self) -> str:
        return next(iter(self.points.values())).unit


def _messages(name: str, title: str, drive: str) -> Scenario:
    return Scenario(
        name=name, title=title, drive=drive, of_curve=True, unit="µs/message", relayed=2
    )


def _sessions(count: int) -> Scenario:
    title = f"ping-pong, {count} sessions x 128 B"
    return _messages(
        f"sessions-{count}", title, f"echo --sessions {count} --size 128 --patience 60"
    )


def _size(size: int) -> Scenario:
    title = f"ping-pong, 32 sessions x {size} B"
    return _messages(f"size-{size}", title, f"echo --sessions 32 --size {size}")


def _rate(rate: int) -> Scenario:
    title = f"open loop, {rate} echoes/s of 128 B over 200 sessions"
    return _messages(f"rate-{rate}", title, f"open --sessions 200 --size 128 --rate {rate}")


def _memory(count: int) -> Scenario:
    return Scenario(
        name=f"memory-{count}",
        title=f"idle sessions, {count}",
        drive=f"idle --sessions {count} --patience 60",
        of_curve=True,
        unit="KiB/session",
        sessions=count,
    )


def _wakeup(legs: int) -> Scenario:
    return Scenario(
        name=f"wakeup-{legs}",
        title=f"a wake-up with {legs} legs ready",
        drive="",
        of_curve=True,
        unit="µs/leg",
        ready_legs=legs,
    )


CURVES = (
    Curve(
        name="by-sessions",
        title="a message, by the number of sessions that send",
        axis="sessions",
        points={count: _sessions(count) for count in (64, 250, 1000, 4000, 8000)},
    ),
    # The least that a message can be and still prove that it is the one that was sent: 32 bytes.
    Curve(
        name="by-size",
        title="a message, by its size",
        axis="bytes",
        points={size: _size(size) for size in (32, 256, 1024, 4096, 16384, 65536, 262144, 1048576)},
        linear=True,
    ),
    Curve(
        name="by-rate",
        title="a message, by how many are sent",
        axis="echoes/s",
        points={rate: _rate(rate) for rate in (250, 1000, 4000, 8000, 16000)},
    ),
    Curve(
        name="by-ready",
        title="a wake-up of the splicer, for each leg that is ready",
        axis="legs",
        points={legs: _wakeup(legs) for legs in (1, 4, 16, 64, 256, 1024)},
    ),
    Curve(
        name="by-idle",
        title="memory of an idle session, by their number",
        axis="sessions",
        points={count: _memory(count) for count in (250, 1000, 4000, 8000)},
    ),
)


def verdict(curve: Curve, outcomes: dict[int, Outcome]) -> str:
    """Say where Tidegate's cost grows more steeply than it may, from one point to the next."""
    costs = {
        x: outcome.spread(OURS).median for x, outcome in outcomes.items() if OURS in outcome.samples
    }
    for (x, cost), (larger, then) in itertools.pairwise(sorted(costs.items())):
        allowed = larger / x if curve.linear else 1.0
        if then > cost * allowed * _TOLERANCE:
            return f"{curve.name}: too steep from {x} to {larger} {curve.axis}"
    return f"{curve.name}: " + ("no steeper than linear" if curve.linear else "flat")
