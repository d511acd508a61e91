"""Which sessions should leave, and that it comes to an end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.pool.node import Node
from proxy.pool.policy import least_connections
from proxy.pool.rebalance import QUIET, choose, choose_surplus, surplus

from .rig import NOW, make_node, make_nodes, node_config, put_sessions, ramp, weights


def asked(
    weights: Sequence[int], sessions: Sequence[int], tolerance: float = 0.2, **parts: float
) -> dict[str, int]:
    """Return how many sessions should leave which of the nodes A, B and so on."""
    nodes = make_nodes(weights)
    put_sessions(nodes, sessions)
    by_name = {node.address.host: node for node in nodes}
    for name, part in parts.items():
        ramp(by_name[name], part)
    return {node.address.host: count for node, count in surplus(nodes, NOW, tolerance).items()}


@pytest.mark.parametrize(
    ("weights", "sessions", "tolerance", "expected"),
    [
        ([1], [100], 0.2, {}),
        ([1, 1], [0, 0], 0.2, {}),
        ([1, 1], [50, 50], 0.01, {}),
        # A node came back empty: the others give what is above their shares.
        ([1, 1], [100, 0], 0.2, {"A": 50}),
        ([1, 1, 1], [50, 50, 0], 0.2, {"A": 16, "B": 16}),
        ([2, 1], [90, 0], 0.2, {"A": 30}),
        ([2, 1], [0, 90], 0.2, {"B": 60}),
        # Within the tolerance, and just beyond it.
        ([1, 1], [60, 40], 0.2, {}),
        ([1, 1], [61, 41], 0.2, {}),
        ([1, 1], [61, 40], 0.2, {"A": 10}),
        ([1, 1, 1], [66, 43, 43], 0.2, {"A": 15}),
        ([1, 1, 1], [66, 43, 43], 0.3, {}),
        # One of many is empty, though none of the others has much too many.
        ([1] * 10, [100] * 9 + [0], 0.2, dict.fromkeys("ABCDEFGHI", 10)),
        ([1] * 10, [100] * 9 + [71], 0.2, dict.fromkeys("ABCDEFGHI", 2)),
        ([1] * 10, [100] * 9 + [80], 0.2, {}),
        # As even as it gets: one session more or less is nothing.
        ([1, 1], [1, 0], 0.01, {}),
        ([1, 1], [2, 0], 0.01, {}),
        ([1, 1], [3, 0], 0.01, {"A": 1}),
        ([1, 1], [4, 0], 0.01, {"A": 2}),
        ([1, 1, 1, 1], [2, 0, 0, 0], 0.01, {}),
        ([1, 1, 1, 1], [3, 0, 0, 0], 0.01, {"A": 2}),
        # It would only come back: for its weight A is the less loaded one with any of these.
        ([9, *[1] * 9], [18, *[1] * 9], 0.01, {}),
        ([9, *[1] * 9], [19, *[1] * 9], 0.01, {"A": 5}),
    ],
)
def test_surplus(
    weights: list[int], sessions: list[int], tolerance: float, expected: dict[str, int]
) -> None:
    assert asked(weights, sessions, tolerance) == expected


def test_node_that_starts_slowly_is_filled_slowly() -> None:
    """Its share is what it is at the time."""
    assert asked([1, 1], [110, 0], B=0.0) == {"A": 10}
    assert asked([1, 1], [101, 9], B=0.0) == {}
    assert asked([1, 1], [120, 0], B=0.5) == {"A": 40}
    assert asked([1, 1], [80, 40], B=0.5) == {}
    assert asked([1, 1], [120, 0], B=1.0) == {"A": 60}


@pytest.mark.parametrize("state", ["drain", "down", "gone", "resting", "backup", "draining"])
def test_only_nodes_that_take_sessions_count(state: str) -> None:
    """What leaves has to have somewhere to go, and what is out is emptied by other means."""
    first, second = make_nodes([1, 1])
    third = make_node(node_config(2, backup=state == "backup"))
    nodes = [first, second, third]
    match state:
        case "drain" | "down":
            third.admin = state
        case "gone":
            third.gone = True
        case "resting":
            third.failed(NOW, unreachable=True)
        case "draining":
            for _ in range(5):
                third.drain.closed_by_node(NOW, 1001, 0)
    put_sessions(nodes, [50, 50, 0])
    assert surplus(nodes, NOW, 0.2) == {}
    put_sessions(nodes, [50, 50, 500])
    assert surplus(nodes, NOW, 0.2) == {}
    put_sessions(nodes, [100, 0, 500])
    assert surplus(nodes, NOW, 0.2) == {first: 50}


@pytest.mark.parametrize(
    ("limits", "sessions", "expected"),
    [
        # There is no room elsewhere.
        ([0, 10], [100, 10], [0, 0]),
        ([0, 10, 5], [100, 10, 5], [0, 0, 0]),
        # There is room, though less than its share would be.
        ([0, 10], [100, 0], [10, 0]),
        ([0, 10, 0], [100, 10, 0], [50, 0, 0]),
        # All have limits, none near enough to matter.
        ([200, 200], [100, 0], [50, 0]),
        ([100, 100], [100, 100], [0, 0]),
    ],
)
def test_no_node_gets_more_than_it_may_have(
    limits: list[int], sessions: list[int], expected: list[int]
) -> None:
    nodes = [make_node(node_config(i, max_sessions=limit)) for i, limit in enumerate(limits)]
    put_sessions(nodes, sessions)
    excess = surplus(nodes, NOW, 0.05)

    assert [excess.get(node, 0) for node in nodes] == expected


counts = st.lists(st.integers(0, 60), min_size=6, max_size=6)
tolerances = st.floats(0.01, 2)


def fair_parts(nodes: Sequence[Node]) -> list[float]:
    """Return what each should have: as water that is poured into vessels, some of them small."""
    total = sum(node.sessions for node in nodes)

    def poured(level: float) -> list[float]:
        return [min(n.config.max_sessions or total, level * n.share(NOW)) for n in nodes]

    low, high = 0.0, total / min(node.share(NOW) for node in nodes)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(poured(middle)) < total else (low, middle)
    return poured(high)


def check_even(nodes: Sequence[Node], tolerance: float) -> None:
    """Check that none has too many or too few, or else that moving one would not better it."""
    least = min((node.load(NOW) for node in nodes if node.room), default=math.inf)
    parts = [round(part, 6) for part in fair_parts(nodes)]
    within = [
        min(fair * (1 - tolerance), fair - 1)
        <= node.sessions
        <= max(math.ceil(fair * (1 + tolerance)), math.ceil(fair) + 1)
        for node, fair in zip(nodes, parts, strict=True)
    ]
    for node, fair in zip(nodes, parts, strict=True):
        too_many = node.sessions > math.ceil(fair)
        assert all(within) or not too_many or node.sessions / node.share(NOW) <= least


@given(weights, counts, tolerances)
def test_nobody_is_asked_below_its_share(
    weights: list[int], sessions: list[int], tolerance: float
) -> None:
    nodes = make_nodes(weights)
    put_sessions(nodes, sessions[: len(nodes)])
    excess = surplus(nodes, NOW, tolerance)

    each = sum(node.sessions for node in nodes) / sum(weights)
    for node, count in excess.items():
        assert count > 0
        assert node.sessions - count >= each * node.weight
    if not excess:
        check_even(nodes, tolerance)


@given(weights, counts, tolerances)
def test_nobody_is_asked_within_the_tolerance(
    weights: list[int], sessions: list[int], tolerance: float
) -> None:
    nodes = make_nodes(weights)
    put_sessions(nodes, sessions[: len(nodes)])
    each = sum(node.sessions for node in nodes) / sum(weights)
    assume(all(abs(n.sessions - each * n.weight) <= tolerance * each * n.weight for n in nodes))

    assert surplus(nodes, NOW, tolerance) == {}


def move(nodes: Sequence[Node], excess: dict[Node, int], rate: int) -> Counter[Node]:
    """Move up to `rate` sessions, each to where least connections has it; return what left whom."""
    moved: Counter[Node] = Counter()
    for node, count in excess.items():
        for _ in range(min(rate - moved.total(), count)):
            node.sessions -= 1
            candidates = [one for one in nodes if one.takes(NOW) and one.room]
            to = least_connections(candidates, NOW, b"", Random(0))
            to.sessions += 1
            moved[node] += 1
            # Else the client would have been disturbed for nothing.
            assert rate > 1 or to is not node
    return moved


slow_starts = st.lists(st.floats(0, 1), min_size=6, max_size=6)
limits = st.lists(st.integers(0, 40), min_size=6, max_size=6)


@pytest.mark.parametrize("rate", [1, 10, 1000])
@settings(max_examples=60)
@given(weights, counts, tolerances, slow_starts, limits)
def test_it_comes_to_an_end_and_is_even(
    rate: int,
    weights: list[int],
    sessions: list[int],
    tolerance: float,
    slow_starts: list[float],
    limits: list[int],
) -> None:
    """Whatever the start, the weights, the slow starts and the limits."""
    nodes = [
        make_node(node_config(index, weight=weight, max_sessions=limits[index]))
        for index, weight in enumerate(weights)
    ]
    for node, part, count in zip(nodes, slow_starts, sessions, strict=False):
        ramp(node, part)
        node.sessions = min(count, node.config.max_sessions or count)
    total = sum(node.sessions for node in nodes)
    moved: Counter[Node] = Counter()
    while excess := surplus(nodes, NOW, tolerance):
        moved += move(nodes, excess, rate)
        # No session need be moved twice.
        assert moved.total() <= total

    assert sum(node.sessions for node in nodes) == total
    check_even(nodes, tolerance)


@pytest.mark.parametrize(
    ("sessions", "turns", "expected"),
    [
        # At ten a turn, until the one that came has four fifths of its share.
        ([333, 333, 334, 0], 20, [250, 275, 275, 200]),
        ([100] * 9 + [0], 8, []),
    ],
)
def test_node_that_comes_back_is_filled(
    sessions: list[int], turns: int, expected: list[int]
) -> None:
    nodes = make_nodes([1] * len(sessions))
    put_sessions(nodes, sessions)
    taken = 0
    while excess := surplus(nodes, NOW, 0.2):
        assert move(nodes, excess, 10).total() == 10
        taken += 1

    assert taken == turns
    assert nodes[-1].sessions == 10 * turns


@attrs.frozen
class Session:
    name: str
    opened: float = NOW - 100
    quiet_since: float = NOW - 50
    is_between_messages: bool = True


def chosen(sessions: Sequence[Session], count: int) -> str:
    return "".join(session.name for session in choose(sessions, count, NOW))


BUSY, JUST_QUIET = NOW - QUIET / 2, NOW - QUIET


@pytest.mark.parametrize(
    ("sessions", "expected"),
    [
        ([], ""),
        # The oldest first.
        ([Session("a", opened=NOW - 1), Session("b", opened=NOW - 2)], "ba"),
        # The quiet before the busy, be they younger.
        ([Session("a", quiet_since=BUSY), Session("b", opened=NOW - 10)], "ba"),
        ([Session("a", quiet_since=JUST_QUIET), Session("b", opened=NOW - 10)], "ab"),
        # How long they have been quiet makes no difference.
        ([Session("a", quiet_since=NOW - 3), Session("b", opened=NOW - 10)], "ab"),
        # Of the busy the oldest, too.
        (
            [
                Session("a", quiet_since=NOW, opened=NOW - 1),
                Session("b", quiet_since=BUSY, opened=NOW - 2),
                Session("c", opened=NOW),
            ],
            "cba",
        ),
        # Never in the middle of a message.
        ([Session("a", is_between_messages=False), Session("b")], "b"),
        ([Session("a", is_between_messages=False)], ""),
    ],
)
def test_order(sessions: list[Session], expected: str) -> None:
    for count in range(len(sessions) + 2):
        assert chosen(sessions, count) == expected[:count]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ""), (1, "d"), (3, "def"), (4, "defa"), (9, "defab")]
)
def test_surplus_is_of_the_fullest_node_first(count: int, expected: str) -> None:
    """Of each no more than it has above its share, in the order of before."""
    first, second, third = make_nodes([1, 1, 1])
    sessions = {
        first: [
            Session("b", opened=NOW - 2),
            Session("a", opened=NOW - 3),
            Session("c", quiet_since=NOW),
        ],
        second: [Session(name, opened=NOW - 9 + index) for index, name in enumerate("defgh")],
        third: [Session("x", opened=NOW - 99)],
    }
    picked = choose_surplus(sessions, {first: 2, second: 3}, count, NOW)

    assert "".join(session.name for session in picked) == expected
    # A node that nobody knows of here has none.
    assert choose_surplus({}, {first: 2}, count, NOW) == []


times = st.floats(NOW - 10, NOW)
some_sessions = st.lists(st.builds(Session, st.just("s"), times, times, st.booleans()), max_size=20)


@given(some_sessions, st.integers(0, 25))
def test_nobody_left_has_a_better_claim(sessions: list[Session], count: int) -> None:
    picked = choose(sessions, count, NOW)
    free = [session for session in sessions if session.is_between_messages]

    def rank(session: Session) -> tuple[bool, float]:
        return session.quiet_since > NOW - QUIET, session.opened

    assert len(picked) == min(count, len(free))
    assert all(session.is_between_messages for session in picked)
    assert not Counter(picked) - Counter(free)
    left = Counter(free) - Counter(picked)
    assert all(rank(one) <= rank(other) for one in picked for other in left)
