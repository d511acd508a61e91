"""One node: when it rests, and who holds on to it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Rest
from proxy.pool.node import Node, NodeStatistics

ADDRESS = Address("127.0.0.1", 6020)


def make_node(*, weight: int = 1, first: float = 1.0, longest: float = 30.0) -> Node:
    config = NodeConfig(address=ADDRESS, weight=weight)
    return Node(config, Rest(first=first, longest=longest))


def fail_whenever_awake(node: Node, times: int) -> list[float]:
    """Let it fail as soon as it may be asked again; return how long it rested each time."""
    now, rests = 100.0, []
    for _ in range(times):
        node.failed(now)
        rests.append(node.rests_until - now)
        now = node.rests_until
    return rests


def test_fresh_node_is_available() -> None:
    node = make_node(weight=3)

    assert node.available(0.0)
    assert node.statistics() == NodeStatistics("127.0.0.1:6020", 3, 0, 0, 0.0)


def test_rests_after_a_failure() -> None:
    node = make_node(first=2.0)
    node.failed(10.0)

    assert not node.available(10.0)
    assert not node.available(11.999)
    assert node.available(12.0)


@pytest.mark.parametrize(
    ("first", "longest", "expected"),
    [
        (1.0, 30.0, [1, 2, 4, 8, 16, 30, 30]),
        (0.5, 2.0, [0.5, 1, 2, 2]),
        (5.0, 5.0, [5, 5, 5]),
    ],
)
def test_rest_doubles_up_to_the_longest(
    first: float, longest: float, expected: list[float]
) -> None:
    node = make_node(first=first, longest=longest)

    assert fail_whenever_awake(node, len(expected)) == expected


def test_thousands_of_failures_do_no_harm() -> None:
    node = make_node()

    assert fail_whenever_awake(node, 5000)[-1] == 30.0


def test_attempts_that_fail_together_count_once() -> None:
    node = make_node(first=1.0)
    for now in (10.0, 10.0, 10.2, 10.9):
        node.failed(now)

    assert node.rests_until == 11.0
    assert node.statistics().failures_in_a_row == 1


def test_answer_resets_the_doubling() -> None:
    node = make_node(first=1.0)
    fail_whenever_awake(node, 4)
    node.answered()

    assert node.available(0.0)
    assert node.statistics().failures_in_a_row == 0
    assert fail_whenever_awake(node, 2) == [1.0, 2.0]


def test_lease_counts_a_session() -> None:
    node = make_node()
    with node.lease() as lease:
        assert lease.node is node
        assert node.sessions == 1
        with node.lease():
            assert node.statistics().sessions == 2
    lease.release()

    assert node.sessions == 0


def test_lease_ends_with_an_exception() -> None:
    node = make_node()
    with pytest.raises(KeyError), node.lease():
        raise KeyError

    assert node.sessions == 0


@given(st.lists(st.booleans(), max_size=40))
def test_no_lease_is_lost(steps: list[bool]) -> None:
    """True takes a lease, False gives the oldest back."""
    node, held = make_node(), list[ExitStack]()
    for taken in steps:
        if taken:
            stack = ExitStack()
            stack.enter_context(node.lease())
            held.append(stack)
        elif held:
            held.pop(0).close()

        assert node.sessions == len(held)
