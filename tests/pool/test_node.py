"""One node: why it is asked or not, its share, and who holds on to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import DialRefused, DialTimeout, NodeTlsError, ResponseTimeout
from proxy.pool.node import FIRST_SHARE, Admin, Node, NodeState, NodeStatistics

from .rig import NOW, make_node, node_config, probe, ramp


def put_draining(node: Node) -> None:
    for left in reversed(range(5)):
        node.drain.closed_by_node(NOW, 1001, left)


def put_resting(node: Node) -> None:
    for _ in range(3):
        node.failed(NOW, unreachable=False)


def put_up(node: Node) -> None:
    node.probed(NOW, well=True)


def put_down(node: Node) -> None:
    node.probed(NOW, well=False)


def put_gone(node: Node) -> None:
    node.gone = True


def put_by_hand(node: Node) -> None:
    node.admin = "down"


def put_drain_by_hand(node: Node) -> None:
    node.admin = "drain"


Change = Callable[[Node], None]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ([], "unknown"),
        ([put_up], "up"),
        ([put_down], "down"),
        ([put_up, put_resting], "resting"),
        ([put_up, put_draining], "draining"),
        # Of several reasons, the one that will last longest or was somebody's will.
        ([put_up, put_draining, put_resting], "resting"),
        ([put_down, put_draining, put_resting], "down"),
        ([put_draining, put_resting], "unknown"),
        ([put_up, put_draining, put_gone], "gone"),
        ([put_up, put_gone, put_by_hand], "down by hand"),
        ([put_down, put_gone, put_drain_by_hand], "drain by hand"),
    ],
)
def test_state(changes: list[Change], state: NodeState) -> None:
    node = make_node(probe=probe())
    for change in changes:
        change(node)

    assert node.state(NOW) == state
    assert node.statistics(NOW).state == state
    assert node.takes(NOW) == (state == "up")


@pytest.mark.parametrize(
    ("change", "empties"),
    [
        (put_up, False),
        (put_down, False),
        (put_resting, False),
        (put_draining, False),
        (put_gone, True),
        (put_drain_by_hand, True),
        (put_by_hand, False),
    ],
)
def test_whose_sessions_should_leave(change: Change, *, empties: bool) -> None:
    node = make_node(probe=probe())
    change(node)

    assert node.empties is empties


def test_since_when_they_should_leave() -> None:
    node = make_node()
    steps: list[tuple[Admin | None, bool | None, float | None]] = [
        ("down", None, None),
        ("drain", None, NOW + 1),
        # A second reason, and the first one's end, make no difference.
        ("drain", None, NOW + 1),
        (None, True, NOW + 1),
        ("ready", None, NOW + 1),
        (None, False, None),
        (None, False, None),
        (None, True, NOW + 7),
        ("down", False, None),
    ]
    for after, (admin, gone, since) in enumerate(steps):
        node.want(NOW + after, admin=admin, gone=gone)

        assert node.empties_since == since
        assert node.empties is (since is not None)
    assert (node.admin, node.gone) == ("down", False)


@pytest.mark.parametrize(
    ("change", "over"),
    [
        # It has gone, as it said it would: it is over, and it is not asked before it is back.
        (lambda node: node.failed(NOW, unreachable=True), True),
        (lambda node: node.probed(NOW, well=False, error=DialRefused("n")), True),
        (lambda node: node.probed(NOW, well=False, error=DialTimeout("n")), True),
        (lambda node: node.probed(NOW, well=False, error=NodeTlsError("n")), True),
        # It still answers, one way or the other.
        (lambda node: node.failed(NOW, unreachable=False), False),
        (lambda node: node.probed(NOW, well=False, error=ResponseTimeout("n")), False),
        (lambda node: node.probed(NOW, well=False), False),
        (lambda node: node.probed(NOW, well=True), False),
        (lambda node: node.answered(NOW), False),
    ],
)
def test_draining_is_over_when_it_has_gone(change: Change, *, over: bool) -> None:
    node = make_node(probe=probe(fall=3))
    put_up(node)
    put_draining(node)
    change(node)

    assert node.state(NOW) == ("down" if over else "draining")
    if over:
        node.probed(NOW + 2, well=True)
    assert node.state(NOW + 2) == ("up" if over else "draining")
    assert node.state(NOW + 35) == "up"


def test_back_from_draining_it_starts_slowly_if_it_has_gone() -> None:
    node = make_node(probe=probe(fall=3, rise=2))
    put_up(node)
    put_draining(node)
    node.probed(NOW + 1, well=False, error=DialRefused("n"))
    node.probed(NOW + 2, well=True)

    assert node.state(NOW + 2) == "down"
    node.probed(NOW + 3, well=True)
    assert node.state(NOW + 3) == "up"
    assert node.share(NOW + 3) == FIRST_SHARE
    assert node.statistics(NOW + 3).failures_in_a_row == 1


def test_a_probe_that_is_refused_counts_like_any_other_where_nobody_drains() -> None:
    node = make_node(probe=probe(fall=2))
    put_up(node)
    node.probed(NOW, well=False, error=DialRefused("n"))

    assert node.state(NOW) == "up"
    assert node.health.rests == 0


@pytest.mark.parametrize("part", [0.0, 0.05, 0.1, 0.25, 0.5, 0.99, 1.0, 7.0])
@pytest.mark.parametrize("weight", [1, 4, 256])
def test_share_grows_while_it_starts_slowly(weight: int, part: float) -> None:
    node = make_node(node_config(weight=weight), slow_start=10)
    assert node.share(NOW) == weight

    ramp(node, part)
    assert node.share(NOW) == pytest.approx(weight * min(1, max(FIRST_SHARE, part)))
    assert node.statistics(NOW).share == pytest.approx(min(1, max(FIRST_SHARE, part)))


def test_without_slow_start_it_has_its_share_at_once() -> None:
    node = make_node(node_config(weight=3), slow_start=0)
    ramp(node, 0)

    assert node.share(NOW) == 3


@pytest.mark.parametrize(
    ("slow_start", "part", "warm"),
    [(10, 0.0, False), (10, 0.99, False), (10, 1.0, True), (10, 5.0, True), (0, 0.0, True)],
)
def test_warm_is_who_has_its_whole_share(slow_start: float, part: float, *, warm: bool) -> None:
    node = make_node(slow_start=slow_start)
    assert node.is_warm(NOW)

    ramp(node, part)
    assert node.is_warm(NOW) is warm
    assert (node.share(NOW) == 1) is warm


@given(st.floats(0, 20), st.floats(0, 20))
def test_share_never_shrinks(one: float, other: float) -> None:
    node = make_node(node_config(weight=7), slow_start=10)
    ramp(node, 0)

    assert node.share(NOW + min(one, other)) <= node.share(NOW + max(one, other)) <= 7


@pytest.mark.parametrize(
    ("weight", "sessions", "part", "load"),
    [(1, 0, 1, 1.0), (2, 0, 1, 0.5), (2, 3, 1, 2.0), (2, 3, 0.5, 4.0), (1, 0, 0.0, 10.0)],
)
def test_load_is_with_one_session_more(
    weight: int, sessions: int, part: float, load: float
) -> None:
    node = make_node(node_config(weight=weight), slow_start=10)
    node.sessions = sessions
    ramp(node, part)

    assert node.load(NOW) == pytest.approx(load)


def test_room() -> None:
    node = make_node(node_config(max_sessions=2))
    rooms = [node.room]
    leases = []
    for _ in range(3):
        leases.append(node.lease())
        rooms.append(node.room)
    for lease in leases:
        lease.release()
        rooms.append(node.room)

    assert rooms == [2, 1, 0, 0, 0, 1, 2]
    assert make_node().room > 10**9


@pytest.mark.parametrize(
    ("max_sessions", "calls"), [(0, []), (1, [1]), (2, [2]), (3, [3]), (4, []), (5, [])]
)
def test_who_waits_is_told_that_there_is_room_again(max_sessions: int, calls: list[int]) -> None:
    node = make_node(node_config(max_sessions=max_sessions))
    told: list[int] = []
    leases = [node.lease() for _ in range(3)]
    node.freed = lambda: told.append(node.sessions + 1)
    for lease in leases:
        lease.release()

    assert told == calls


@pytest.mark.parametrize(
    ("before", "change", "told"),
    [
        (put_down, lambda node: node.answered(NOW), [True]),
        (put_down, put_up, [True]),
        (put_down, put_down, []),
        (put_down, lambda node: node.failed(NOW, unreachable=True), []),
        # Where it takes none any more, the backups may be asked.
        (put_up, lambda node: node.probed(NOW, well=False), [False]),
        (put_up, lambda node: node.answered(NOW), []),
        (put_up, put_up, []),
    ],
)
def test_who_waits_is_told_that_it_takes_sessions_or_not(
    before: Change, change: Change, told: list[bool]
) -> None:
    calls: list[bool] = []
    node = make_node(probe=probe(fall=1))
    before(node)
    node.freed = lambda: calls.append(node.takes(NOW))
    change(node)
    change(node)

    assert calls == told


def test_statistics() -> None:
    node = make_node(node_config(weight=4, backup=True), probe=probe())
    assert node.statistics(NOW) == NodeStatistics(
        address="10.0.0.1:1",
        weight=4,
        backup=True,
        state="unknown",
        sessions=0,
        failures_in_a_row=0,
        rests_until=0.0,
        share=1.0,
        latency=None,
    )

    node.lease()
    node.failed(NOW, unreachable=True)
    node.probed(NOW, well=True, seconds=0.25)
    node.failed(NOW + 1, unreachable=True)
    assert node.statistics(NOW + 6) == NodeStatistics(
        address="10.0.0.1:1",
        weight=4,
        backup=True,
        state="down",
        sessions=1,
        failures_in_a_row=2,
        rests_until=NOW + 3,
        share=0.6,
        latency=0.25,
    )


def test_its_address_may_be_one_of_a_name() -> None:
    named = node_config()
    upstream = UpstreamConfig(nodes=(named,))
    node = Node(named, upstream, address=Address("10.9.9.9", 5), joined=NOW)

    assert (node.name, node.config) == ("10.9.9.9:5", named)
    assert node.share(NOW) == FIRST_SHARE
    assert node.share(NOW + 10) == 1


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_latency_is_of_probes_and_requests(seconds: float | None) -> None:
    asked, probed = make_node(), make_node(probe=probe())
    asked.answered(NOW, seconds)
    probed.probed(NOW, well=True, seconds=seconds)

    assert asked.latency.mean == probed.latency.mean == seconds


def test_lease_counts_a_session() -> None:
    node = make_node()
    lease = node.lease()
    with lease:
        holders = [lease.node]
        assert node.sessions == 1
        with node.lease():
            assert node.statistics(NOW).sessions == 2
    lease.release()
    holders.append(lease.node)

    assert holders == [node, None]
    assert node.sessions == 0


def test_lease_ends_with_an_exception() -> None:
    node = make_node()
    with pytest.raises(KeyError), node.lease():
        raise KeyError

    assert node.sessions == 0


@given(st.lists(st.booleans(), max_size=40))
def test_no_lease_is_lost(steps: list[bool]) -> None:
    """True takes a lease, False gives the oldest back, twice."""
    node, held = make_node(), list[ExitStack]()
    for taken in steps:
        if taken:
            stack = ExitStack()
            lease = stack.enter_context(node.lease())
            stack.callback(lease.release)
            held.append(stack)
        elif held:
            held.pop(0).close()

        assert node.sessions == len(held)


def test_other_settings_change_nothing_that_is_known() -> None:
    node = make_node(node_config(weight=1, max_sessions=2), probe=probe(fall=2))
    put_up(node)
    node.answered(NOW, 0.25)
    node.admin = "drain"
    node.health.back_since = NOW
    upstream = UpstreamConfig(nodes=(node_config(),), probe=probe(fall=1), slow_start=100.0)
    with node.lease(), node.lease():
        node.reconfigure(node_config(weight=5, max_sessions=3, backup=True), upstream, NOW)

        assert (node.sessions, node.room) == (2, 1)
        assert (node.weight, node.backup) == (5, True)
        assert (node.admin, node.latency.mean, node.health.state) == ("drain", 0.25, "up")
        assert node.share(NOW + 50) == 2.5
        put_down(node)
        assert node.health.state == "down"


def test_room_appears_below_a_limit_that_was_lowered() -> None:
    told: list[None] = []
    node = make_node(node_config())
    node.freed = lambda: told.append(None)
    leases = [node.lease() for _ in range(4)]
    node.reconfigure(node_config(max_sessions=2), UpstreamConfig(nodes=(node_config(),)), NOW)
    for lease, room in zip(leases, [0, 0, 1, 2], strict=True):
        lease.release()
        assert node.room == room

    assert len(told) == 1
