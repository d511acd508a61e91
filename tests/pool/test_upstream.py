"""A pool: who is asked next, and what is said when there is nobody."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Balance, Rest
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import BadResponse, ClosedEarly, DialRefused, NodeError, NodeUnwilling
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream

NOW = 1000.0


def make_upstream(
    *weights: int,
    balance: Balance = "round_robin",
    rest: Rest = Rest(first=1.0, longest=30.0),  # noqa: B008  # frozen
    status: int = 500,
) -> Upstream:
    nodes = tuple(
        NodeConfig(address=Address("10.0.0.1", 1 + index), weight=weight)
        for index, weight in enumerate(weights)
    )
    config = UpstreamConfig(nodes=nodes, balance=balance, rest=rest, unavailable_status=status)
    return Upstream("deepstream", config)


def test_nodes_are_those_of_the_configuration() -> None:
    upstream = make_upstream(1, 2)

    assert [(node.name, node.weight) for node in upstream.nodes] == [
        ("10.0.0.1:1", 1),
        ("10.0.0.1:2", 2),
    ]


@pytest.mark.parametrize("balance", ["round_robin", "least_connections"])
def test_one_request_tries_each_node_once(balance: Balance) -> None:
    upstream = make_upstream(1, 5, 2, balance=balance)
    tried: list[Node] = []
    while (node := upstream.choose(NOW, tried)) is not None:
        assert upstream.any_left(NOW, tried)
        tried.append(node)

    assert sorted(node.name for node in tried) == [node.name for node in upstream.nodes]
    assert not upstream.any_left(NOW, tried)


def test_resting_nodes_are_passed_over() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    first.failed(NOW)

    assert {upstream.choose(NOW) for _ in range(4)} == {second}
    assert not upstream.any_left(NOW, {second})
    assert upstream.any_left(NOW + 1, {second})
    assert upstream.choose(NOW + 1, {second}) is first


def test_asking_who_is_left_takes_no_turn() -> None:
    upstream = make_upstream(1, 1, 1)
    for _ in range(5):
        upstream.any_left(NOW, ())

    assert [upstream.choose(NOW) for _ in range(3)] == upstream.nodes


def test_policy_is_the_configured_one() -> None:
    upstream = make_upstream(1, 1, balance="least_connections")
    first, second = upstream.nodes
    with first.lease(), first.lease():
        assert {upstream.choose(NOW) for _ in range(3)} == {second}


@pytest.mark.parametrize(
    ("error", "rests"),
    [
        (DialRefused("n:1"), True),
        (BadResponse("n:1"), True),
        (NodeUnwilling("n:1"), True),
        (ClosedEarly("n:1"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_counts_lets_a_node_rest(error: NodeError, *, rests: bool) -> None:
    upstream = make_upstream(1)
    upstream.note(upstream.nodes[0], error, NOW)

    assert upstream.nodes[0].available(NOW) is not rests


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_nobody_has_the_configured_status(status: int) -> None:
    error = make_upstream(1, status=status).nobody(NOW)

    assert (error.upstream, error.status) == ("deepstream", status)


@pytest.mark.parametrize(
    ("failed_at", "retry_after"),
    [
        ([None, None], b"1"),
        ([NOW, NOW], b"10"),
        ([NOW, NOW - 4], b"6"),
        ([NOW - 9.75, NOW], b"1"),
        ([NOW - 8.5, NOW], b"2"),
        ([NOW - 100, NOW - 100], b"1"),
    ],
)
def test_nobody_says_when_the_first_node_is_back(
    failed_at: list[float | None], retry_after: bytes
) -> None:
    upstream = make_upstream(1, 1, rest=Rest(first=10.0))
    for node, at in zip(upstream.nodes, failed_at, strict=True):
        if at is not None:
            node.failed(at)

    assert upstream.nobody(NOW).headers == ((b"Retry-After", retry_after),)


weights = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@given(weights, st.sampled_from(["round_robin", "least_connections"]), st.integers(1, 5))
def test_share_follows_weight(weights: list[int], balance: Balance, rounds: int) -> None:
    upstream = make_upstream(*weights, balance=balance)
    with ExitStack() as leases:
        for _ in range(rounds * sum(weights)):
            node = upstream.choose(NOW)
            assert node is not None
            leases.enter_context(node.lease())
        sessions = [node.sessions for node in upstream.nodes]

    assert sessions == [rounds * weight for weight in weights]
    assert all(node.sessions == 0 for node in upstream.nodes)


@given(weights, st.lists(st.sampled_from(["ask", "fail", "answer", "end"]), max_size=60))
def test_no_lease_is_lost(weights: list[int], steps: list[str]) -> None:
    upstream = make_upstream(*weights, balance="least_connections")
    held: list[tuple[Node, ExitStack]] = []
    for index, step in enumerate(steps):
        now = NOW + index / 4
        if step == "end" and held:
            held.pop(0)[1].close()
        elif step != "end" and (node := upstream.choose(now)) is not None:
            assert node.available(now)
            stack = ExitStack()
            stack.enter_context(node.lease())
            if step == "fail":
                upstream.note(node, DialRefused(node.name), now)
                stack.close()
            else:
                node.answered()
                held.append((node, stack))
        counts = Counter(node for node, _ in held)

        assert [node.sessions for node in upstream.nodes] == [counts[n] for n in upstream.nodes]
