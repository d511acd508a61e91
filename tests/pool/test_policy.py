"""Who is chosen: by turns, by sessions, by lot, by key and by time; always by share."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.upstream import Balance
from proxy.pool.node import Node
from proxy.pool.policy import (
    POLICIES,
    Policy,
    least_connections,
    least_latency,
    random_two,
    rendezvous,
    round_robin,
)

from .rig import NOW, make_nodes, put_sessions, ramp, weights

ALL = [pytest.param(policy, id=name) for name, policy in POLICIES.items()]
#: Of each node, how much of its slow start is over.
parts = st.lists(st.floats(0, 1), min_size=6, max_size=6)


def pick(policy: Policy, nodes: Sequence[Node], key: bytes = b"", *, seed: int = 0) -> str:
    """Return the letter of the node that is chosen."""
    return policy(nodes, NOW, key, Random(seed)).address.host


def sequence(
    policy: Policy, nodes: Sequence[Node], count: int, *, random: Random | None = None
) -> str:
    """Choose so often, and hold on to each that was chosen."""
    random = random or Random(0)
    chosen = ""
    for index in range(count):
        node = policy(nodes, NOW, b"client %d" % index, random)
        node.sessions += 1
        chosen += node.address.host
    return chosen


def shares_of(nodes: Sequence[Node], total: int) -> list[float]:
    """Return how many of so many sessions each should have."""
    shares = [node.share(NOW) for node in nodes]
    return [total * share / sum(shares) for share in shares]


def start_slowly(nodes: Sequence[Node], parts: Sequence[float]) -> None:
    for node, part in zip(nodes, parts, strict=False):
        ramp(node, part)


def test_every_balance_has_a_policy() -> None:
    assert set(POLICIES) == set(get_args(Balance))


# What all have in common.


@pytest.mark.parametrize("policy", ALL)
@settings(max_examples=30)
@given(st.data())
def test_chooses_one_of_those_it_got(policy: Policy, data: st.DataObject) -> None:
    nodes = make_nodes(data.draw(weights))
    put_sessions(nodes, data.draw(st.lists(st.integers(0, 9), min_size=6))[: len(nodes)])
    start_slowly(nodes, data.draw(parts))
    for node in nodes:
        node.latency.mean = data.draw(st.none() | st.floats(0, 10))
    for some in data.draw(st.lists(st.permutations(nodes), min_size=1, max_size=4)):
        some = some[: data.draw(st.integers(1, len(nodes)))]
        assert policy(some, NOW, data.draw(st.binary(max_size=4)), Random(0)) in some


@pytest.mark.parametrize("policy", ALL)
def test_the_only_one_is_chosen(policy: Policy) -> None:
    assert sequence(policy, make_nodes([3]), 5) == "AAAAA"


@pytest.mark.parametrize("policy", ALL)
def test_choosing_takes_no_lease(policy: Policy) -> None:
    nodes = make_nodes([1, 2])
    for _ in range(5):
        pick(policy, nodes, b"k")

    assert [node.sessions for node in nodes] == [0, 0]


# Round robin.


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1], "AAA"),
        ([1, 1], "ABABAB"),
        ([1, 1, 1], "ABCABC"),
        ([2, 1], "ABAABA"),
        ([1, 2], "BABBAB"),
        ([5, 1, 1], "AABACAAAABACAA"),
        ([4, 3, 2], "ABCABACBA"),
    ],
)
def test_round_robin_is_smooth(weights: list[int], expected: str) -> None:
    assert sequence(round_robin, make_nodes(weights), len(expected)) == expected


@given(weights, st.integers(1, 4))
def test_share_of_turns_follows_weight(weights: list[int], rounds: int) -> None:
    nodes = make_nodes(weights)
    sequence(round_robin, nodes, rounds * sum(weights))

    assert [node.sessions for node in nodes] == [rounds * weight for weight in weights]
    assert all(node.credit == 0 for node in nodes)


@given(weights, parts, st.integers(1, 60))
def test_share_of_turns_follows_the_ramp(
    weights: list[int], parts: list[float], turns: int
) -> None:
    """At no time is a node a whole turn behind its share; with several, ahead by more than that."""
    nodes = make_nodes(weights)
    start_slowly(nodes, parts)
    sequence(round_robin, nodes, turns)

    for node, expected in zip(nodes, shares_of(nodes, turns), strict=True):
        assert node.sessions > expected - 1 - 1e-6
        assert node.sessions < expected + len(nodes) - 1 + 1e-6


@given(weights, st.data())
def test_nodes_that_come_and_go_run_up_no_debt(weights: list[int], data: st.DataObject) -> None:
    nodes = make_nodes(weights)
    subsets = st.lists(st.sampled_from(nodes), min_size=1, unique=True)
    for some in data.draw(st.lists(subsets, max_size=20)):
        assert round_robin(some, NOW, b"", Random(0)) in some
    for node in nodes:
        assert abs(node.credit) <= 20 * sum(weights)

    assert sum(node.credit for node in nodes) == 0


# Least connections.


@pytest.mark.parametrize(
    ("weights", "sessions", "expected"),
    [
        ([1, 1], [3, 2], "B"),
        ([1, 1, 1], [0, 0, 1], "A"),
        # With one more, who would be the less loaded?
        ([2, 1], [0, 0], "A"),
        ([2, 1], [3, 2], "A"),
        ([2, 1], [4, 1], "B"),
        ([2, 1], [2, 1], "A"),
        ([256, 1], [255, 0], "A"),
        ([256, 1], [254, 0], "A"),
        ([256, 1], [256, 0], "B"),
        ([256, 1], [511, 1], "A"),
        ([256, 1], [512, 1], "B"),
        ([3, 2], [0, 0], "A"),
        ([3, 2], [1, 0], "B"),
        ([3, 2], [1, 1], "A"),
    ],
)
def test_least_connections_by_weight(
    weights: list[int], sessions: list[int], expected: str
) -> None:
    nodes = make_nodes(weights)
    put_sessions(nodes, sessions)

    assert pick(least_connections, nodes) == expected


@pytest.mark.parametrize(
    ("weights", "expected"), [([1], "A"), ([1, 1, 1], "ABC"), ([2, 1], "AAB"), ([1, 3], "ABBB")]
)
def test_least_connections_fills_evenly(weights: list[int], expected: str) -> None:
    nodes = make_nodes(weights)
    for _ in range(4):
        assert sorted(sequence(least_connections, nodes, len(expected))) == list(expected)


def test_equals_take_turns_though_sessions_end_at_once() -> None:
    nodes = make_nodes([1, 1, 1])

    assert [pick(least_connections, nodes) for _ in range(6)] == list("ABCABC")


def test_node_that_comes_back_empty_is_filled_up() -> None:
    nodes = make_nodes([1, 1])
    put_sessions(nodes, [4, 0])

    assert sequence(least_connections, nodes, 6) == "BBBBAB"


def test_node_that_comes_back_empty_is_filled_up_slowly() -> None:
    nodes = make_nodes([1, 1])
    put_sessions(nodes, [20, 0])
    ramp(nodes[1], 0.0)

    # A tenth of the share: two for the twenty of the other, and no more.
    assert sequence(least_connections, nodes, 6) == "BBAAAA"
    ramp(nodes[1], 0.5)
    assert sequence(least_connections, nodes, 9) == "BBBBBBBBB"


@given(weights, st.integers(1, 4))
def test_share_of_sessions_follows_weight(weights: list[int], rounds: int) -> None:
    nodes = make_nodes(weights)
    sequence(least_connections, nodes, rounds * sum(weights))

    assert [node.sessions for node in nodes] == [rounds * weight for weight in weights]


def check_even(nodes: Sequence[Node]) -> None:
    """No session would be better off elsewhere, and no node is a whole session below its share."""
    least = min(node.load(NOW) for node in nodes)
    total = sum(node.sessions for node in nodes)
    for node, expected in zip(nodes, shares_of(nodes, total), strict=True):
        assert node.sessions / node.share(NOW) <= least + 1e-6
        assert node.sessions > expected - 1 - 1e-6


@given(weights, parts, st.integers(1, 60))
def test_share_of_sessions_follows_the_ramp(
    weights: list[int], parts: list[float], count: int
) -> None:
    nodes = make_nodes(weights)
    start_slowly(nodes, parts)
    sequence(least_connections, nodes, count)

    check_even(nodes)


@given(weights, st.lists(st.integers(0, 9), min_size=6, max_size=6), parts)
def test_sessions_become_even_from_any_start(
    weights: list[int], sessions: list[int], parts: list[float]
) -> None:
    nodes = make_nodes(weights)
    put_sessions(nodes, sessions[: len(nodes)])
    start_slowly(nodes, parts)
    fullest = max(node.sessions / node.share(NOW) for node in nodes)
    needed = sum(fullest * node.share(NOW) - node.sessions for node in nodes)
    sequence(least_connections, nodes, int(needed) + len(nodes))

    check_even(nodes)


# The better of two.


@pytest.mark.parametrize("sessions", [[9, 1], [2, 1], [1, 0]])
def test_of_two_the_less_loaded_is_chosen(sessions: list[int]) -> None:
    nodes = make_nodes([1, 1])
    put_sessions(nodes, sessions)

    assert {pick(random_two, nodes, seed=seed) for seed in range(20)} == {"B"}


def test_of_two_the_less_loaded_for_its_share_is_chosen() -> None:
    nodes = make_nodes([4, 1])
    put_sessions(nodes, [5, 1])
    assert {pick(random_two, nodes, seed=seed) for seed in range(20)} == {"A"}

    ramp(nodes[0], 0.25)
    assert {pick(random_two, nodes, seed=seed) for seed in range(20)} == {"B"}


def test_the_fullest_of_many_is_never_chosen() -> None:
    nodes = make_nodes([1, 1, 1, 1])
    put_sessions(nodes, [1, 1, 2, 1])

    assert {pick(random_two, nodes, seed=seed) for seed in range(100)} == {"A", "B", "D"}


def test_equals_are_drawn_by_lot() -> None:
    """So proxies that do not talk to each other do not all choose the same one."""
    nodes = make_nodes([1, 1, 1, 1])
    turns = Counter(pick(random_two, nodes, seed=seed) for seed in range(2000))

    assert all(turns[name] == pytest.approx(500, rel=0.15) for name in "ABCD")


def test_both_are_drawn_by_their_shares() -> None:
    # As loaded as each other, so that the first that is drawn is chosen.
    nodes = make_nodes([8, 1, 1])
    put_sessions(nodes, [7, 0, 0])
    turns = Counter(pick(random_two, nodes, seed=seed) for seed in range(1000))
    assert turns["A"] == pytest.approx(800, rel=0.05)

    # The first is nearly always A, the worst, so that the second is chosen.
    nodes = make_nodes([256, 4, 1])
    put_sessions(nodes, [5000, 3, 0])
    turns = Counter(pick(random_two, nodes, seed=seed) for seed in range(1000))
    assert turns["A"] == 0
    assert turns["B"] == pytest.approx(800, rel=0.05)


@pytest.mark.parametrize("weights", [[1, 1], [1, 2, 3], [1, 1, 1, 1, 1, 1], [5, 1, 1, 1]])
@pytest.mark.parametrize("seed", range(3))
def test_share_by_lot_follows_weight(weights: list[int], seed: int) -> None:
    nodes = make_nodes(weights)
    sequence(random_two, nodes, 2000, random=Random(seed))

    for node, expected in zip(nodes, shares_of(nodes, 2000), strict=True):
        assert node.sessions == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_share_by_lot_follows_the_ramp(part: float, seed: int) -> None:
    nodes = make_nodes([2, 2, 2, 2])
    ramp(nodes[2], part)
    sequence(random_two, nodes, 2000, random=Random(seed))

    for node, expected in zip(nodes, shares_of(nodes, 2000), strict=True):
        assert node.sessions == pytest.approx(expected, rel=0.1)


# By key.


KEYS = [b"10.1.%d.%d" % (index // 250, index % 250) for index in range(2000)]
some_keys = st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=20)


def places(nodes: Sequence[Node], keys: Sequence[bytes]) -> list[str]:
    return [pick(rendezvous, nodes, key) for key in keys]


def test_every_proxy_finds_the_same_node() -> None:
    """These are for ever: another release has to find the same."""
    nodes = make_nodes([1, 2, 1])

    assert "".join(places(nodes, KEYS[:24])) == "CCCCBBAAACBBABBBBCBBBCBA"


@given(weights, some_keys, st.randoms(use_true_random=False))
def test_order_of_the_nodes_does_not_matter(
    weights: list[int], keys: list[bytes], random: Random
) -> None:
    nodes = make_nodes(weights)
    before = places(nodes, keys)
    random.shuffle(nodes)

    assert places(nodes, keys) == before


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), some_keys, st.data())
def test_node_that_goes_moves_its_own_keys_only(
    weights: list[int], keys: list[bytes], data: st.DataObject
) -> None:
    """And, read backwards, one that joins moves keys to itself only."""
    nodes = make_nodes(weights)
    gone = data.draw(st.sampled_from(nodes))
    with_it = places(nodes, keys)
    without_it = places([node for node in nodes if node is not gone], keys)

    for before, after in zip(with_it, without_it, strict=True):
        assert before in (after, gone.address.host)


@given(weights, some_keys, st.data())
def test_more_weight_moves_keys_to_that_node_only(
    weights: list[int], keys: list[bytes], data: st.DataObject
) -> None:
    nodes = make_nodes(weights)
    heavier = data.draw(st.sampled_from(nodes))
    before = places(nodes, keys)
    heavier.weight += data.draw(st.integers(1, 9))

    for old, new in zip(before, places(nodes, keys), strict=True):
        assert new in (old, heavier.address.host)


@given(weights, some_keys, parts)
def test_key_stays_whatever_the_load(
    weights: list[int], keys: list[bytes], parts: list[float]
) -> None:
    nodes = make_nodes(weights)
    before = places(nodes, keys)
    put_sessions(nodes, range(0, 100 * len(nodes), 100))
    start_slowly(nodes, parts)

    assert places(nodes, keys) == before


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [1, 2, 3], [8, 1, 1]])
def test_share_of_keys_follows_weight(weights: list[int]) -> None:
    nodes = make_nodes(weights)
    turns = Counter(places(nodes, KEYS))

    for node, expected in zip(nodes, shares_of(nodes, len(KEYS)), strict=True):
        assert turns[node.address.host] == pytest.approx(expected, rel=0.15)


def test_keys_of_a_node_that_goes_are_spread_over_the_others() -> None:
    nodes = make_nodes([1, 1, 1, 1])
    moved = [key for key, place in zip(KEYS, places(nodes, KEYS), strict=True) if place == "A"]
    turns = Counter(places(nodes[1:], moved))

    assert all(turns[name] == pytest.approx(len(moved) / 3, rel=0.2) for name in "BCD")


def test_without_a_key_the_fewest_sessions_count() -> None:
    nodes = make_nodes([1, 1, 1])
    put_sessions(nodes, [2, 1, 2])

    assert pick(rendezvous, nodes) == "B"


# By time.


@pytest.mark.parametrize(
    ("latencies", "sessions", "expected"),
    [
        # As fast as each other: the sessions count.
        ([0.1, 0.1], [3, 2], "B"),
        # Twice as slow, for half as many sessions.
        ([0.1, 0.2], [0, 0], "A"),
        ([0.1, 0.2], [2, 0], "B"),
        ([0.1, 0.2], [2, 1], "A"),
        # Not measured yet: as the fastest of the others.
        ([0.1, None, 0.3], [0, 0, 0], "A"),
        ([0.1, None, 0.3], [1, 0, 0], "B"),
        ([0.1, None, 0.3], [1, 1, 0], "A"),
        ([0.1, None, 0.3], [3, 3, 0], "C"),
        # Nobody was: the fewest sessions.
        ([None, None, None], [2, 1, 2], "B"),
        # Too fast to be measured is no reason to get all.
        ([0.0, 0.0], [2, 1], "B"),
        ([0.0, None], [1, 0], "B"),
    ],
)
def test_least_latency(latencies: list[float | None], sessions: list[int], expected: str) -> None:
    nodes = make_nodes([1] * len(latencies))
    put_sessions(nodes, sessions)
    for node, seconds in zip(nodes, latencies, strict=True):
        if seconds is not None:
            node.latency.measured(NOW, seconds)

    assert pick(least_latency, nodes) == expected


@given(weights, parts, st.lists(st.floats(0.001, 1), min_size=6, max_size=6), st.integers(1, 60))
def test_share_by_time_follows_weight_and_speed(
    weights: list[int], parts: list[float], latencies: list[float], count: int
) -> None:
    """Twice as fast is as good as twice the weight; within one session, as least connections."""
    nodes = make_nodes(weights)
    start_slowly(nodes, parts)
    for node, seconds in zip(nodes, latencies, strict=False):
        node.latency.measured(NOW, seconds)
    sequence(least_latency, nodes, count)

    costs = [
        (seconds * node.sessions / node.share(NOW), seconds * node.load(NOW))
        for node, seconds in zip(nodes, latencies, strict=False)
    ]
    least = min(with_one_more for _, with_one_more in costs)
    assert all(cost <= least * (1 + 1e-9) for cost, _ in costs)


@given(weights, st.integers(1, 4))
def test_share_by_equal_times_follows_weight(weights: list[int], rounds: int) -> None:
    nodes = make_nodes(weights)
    for node in nodes:
        node.latency.measured(NOW, 0.05)
    count = rounds * sum(weights)
    sequence(least_latency, nodes, count)

    for node, weight in zip(nodes, weights, strict=True):
        assert node.sessions == pytest.approx(rounds * weight, abs=1)


# Slow start as a whole.


@pytest.mark.parametrize("policy", [p for p in ALL if p.id != "hash"])
def test_slow_start_is_a_ramp_of_share(policy: Policy) -> None:
    """A node that came back among three gets its part of what comes, not all and not by luck."""
    got = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        nodes = make_nodes([1, 1, 1])
        ramp(nodes[2], part)
        chosen = sequence(policy, nodes, 1000, random=Random(1))
        got.append(chosen.count("C"))

    expected = [1000 * share / (2 + share) for share in (0.1, 0.25, 0.5, 0.75, 1.0)]
    assert got == pytest.approx(expected, rel=0.1)
    assert all(one < other for one, other in itertools.pairwise(got))


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_lot_is_the_callers(seed: int) -> None:
    first = sequence(random_two, make_nodes([1, 2, 3, 4]), 50, random=Random(seed))
    again = sequence(random_two, make_nodes([1, 2, 3, 4]), 50, random=Random(seed))

    assert first == again
