"""Who is chosen: turns by weight, and the fewest sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Balance, Rest
from proxy.config.upstream import Node as NodeConfig
from proxy.pool.node import Node
from proxy.pool.policy import POLICIES, Policy, least_connections, round_robin

weights = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def make_nodes(weights: Sequence[int]) -> list[Node]:
    """Nodes called A:1, B:1 and so on."""
    return [
        Node(NodeConfig(address=Address(chr(ord("A") + index), 1), weight=weight), Rest())
        for index, weight in enumerate(weights)
    ]


def sequence(policy: Policy, nodes: Sequence[Node], count: int) -> str:
    """Choose so often, and hold on to each that was chosen."""
    chosen = ""
    for _ in range(count):
        node = policy(nodes)
        node.sessions += 1
        chosen += node.address.host
    return chosen


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


@pytest.mark.parametrize(
    ("weights", "expected"), [([1], "A"), ([1, 1, 1], "ABC"), ([2, 1], "AAB"), ([1, 3], "ABBB")]
)
def test_least_connections_fills_evenly(weights: list[int], expected: str) -> None:
    nodes = make_nodes(weights)
    for _ in range(4):
        assert sorted(sequence(least_connections, nodes, len(expected))) == list(expected)


@pytest.mark.parametrize(
    ("weights", "sessions", "expected"),
    [
        ([1, 1], [3, 2], "B"),
        ([1, 1, 1], [0, 0, 1], "A"),
        ([2, 1], [3, 2], "A"),
        ([2, 1], [3, 1], "B"),
        ([256, 1], [255, 1], "A"),
        ([256, 1], [257, 1], "B"),
    ],
)
def test_least_connections_by_weight(
    weights: list[int], sessions: list[int], expected: str
) -> None:
    nodes = make_nodes(weights)
    for node, count in zip(nodes, sessions, strict=True):
        node.sessions = count

    assert least_connections(nodes).address.host == expected


def test_equals_take_turns_though_sessions_end_at_once() -> None:
    nodes = make_nodes([1, 1, 1])
    chosen = [least_connections(nodes).address.host for _ in range(6)]

    assert chosen == list("ABCABC")


def test_node_that_comes_back_empty_is_filled_up() -> None:
    nodes = make_nodes([1, 1])
    sequence(least_connections, nodes[:1], 4)

    assert sequence(least_connections, nodes, 6) == "BBBBAB"


@given(weights, st.integers(1, 4))
def test_share_of_turns_follows_weight(weights: list[int], rounds: int) -> None:
    nodes = make_nodes(weights)
    turns = Counter(round_robin(nodes).name for _ in range(rounds * sum(weights)))

    assert [turns[node.name] for node in nodes] == [rounds * weight for weight in weights]
    assert all(node.credit == 0 for node in nodes)


@given(weights, st.integers(1, 4))
def test_share_of_sessions_follows_weight(weights: list[int], rounds: int) -> None:
    nodes = make_nodes(weights)
    sequence(least_connections, nodes, rounds * sum(weights))

    assert [node.sessions for node in nodes] == [rounds * weight for weight in weights]


@given(weights, st.data())
def test_nodes_that_come_and_go_run_up_no_debt(weights: list[int], data: st.DataObject) -> None:
    nodes = make_nodes(weights)
    subsets = st.lists(st.sampled_from(nodes), min_size=1, unique=True)
    for some in data.draw(st.lists(subsets, max_size=20)):
        assert round_robin(some) in some
    for node in nodes:
        assert abs(node.credit) <= 20 * sum(weights)

    assert sum(node.credit for node in nodes) == 0


def test_every_balance_has_a_policy() -> None:
    assert set(POLICIES) == set(get_args(Balance))
