"""A pool as a whole: who is asked next, who waits, and what is said when there is nobody."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Balance, Hold, Probe, Rest
from proxy.config.upstream import Node as NodeConfig
from proxy.errors import ClosedEarly, DialRefused, NodeError
from proxy.pool.node import FIRST_SHARE, Admin, Lease, Node
from proxy.pool.upstream import Upstream, needs_resolving

from .rig import (
    BALANCES,
    BROKEN,
    NAME,
    NOW,
    OTHER_NAME,
    UNREACHABLE,
    address,
    make_upstream,
    node_config,
    probe,
    weights,
)


def refuse(upstream: Upstream, *nodes: Node, now: float = NOW) -> None:
    for node in nodes:
        upstream.note(node, DialRefused(node.name), now)


def close_burst(upstream: Upstream, node: Node, count: int = 5, now: float = NOW) -> list[bool]:
    """Have the node close so many sessions, which is all it has; each is released after it."""
    leases = [node.lease() for _ in range(count)]
    told = []
    for lease in leases:
        told.append(upstream.closed_by_node(node, 1001, now))
        lease.release()
    return told


def names(nodes: Iterable[Node | None]) -> set[str]:
    return {node.name for node in nodes if node is not None}


def hold_all(upstream: Upstream, count: int, *, now: float = NOW, key: bytes = b"") -> list[Lease]:
    """Choose so often, and hold on to each; stop when there is nobody left to ask."""
    chosen = (upstream.choose(now, key=key) for _ in range(count))
    return [node.lease() for node in chosen if node is not None]


# Who is asked.


def test_nodes_are_those_of_the_configuration() -> None:
    upstream = make_upstream(1, 2, node_config(2, backup=True), NAME)

    assert [(node.name, node.weight, node.backup) for node in upstream.nodes] == [
        ("10.0.0.1:1", 1, False),
        ("10.0.0.1:2", 2, False),
        ("10.0.0.1:3", 1, True),
    ]


@pytest.mark.parametrize("balance", BALANCES)
def test_one_request_tries_each_node_once(balance: Balance) -> None:
    upstream = make_upstream(1, 5, 2, balance=balance)
    tried: list[Node] = []
    while (node := upstream.choose(NOW, tried, b"key")) is not None:
        assert upstream.any_left(NOW, [])
        tried.append(node)

    assert sorted(node.name for node in tried) == [node.name for node in upstream.nodes]
    assert not upstream.any_left(NOW, tried)


def test_resting_nodes_are_passed_over() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    refuse(upstream, first)

    assert {upstream.choose(NOW) for _ in range(4)} == {second}
    assert not upstream.any_left(NOW, {second})
    assert upstream.any_left(NOW + 1, {second})
    assert upstream.choose(NOW + 1, {second}) is first


def test_asking_who_is_left_takes_no_turn() -> None:
    upstream = make_upstream(1, 1, 1, balance="round_robin")
    for _ in range(5):
        upstream.any_left(NOW, ())
        upstream.room(NOW)

    assert [upstream.choose(NOW) for _ in range(3)] == upstream.nodes


def test_policy_is_the_configured_one() -> None:
    upstream = make_upstream(1, 1, balance="least_connections")
    first, second = upstream.nodes
    with first.lease(), first.lease():
        assert {upstream.choose(NOW) for _ in range(3)} == {second}


def test_policy_gets_the_key() -> None:
    upstream = make_upstream(1, 1, 1, balance="hash")
    keys = [b"%d" % number for number in range(30)]
    once = [upstream.choose(NOW, key=key) for key in keys]

    assert once == [upstream.choose(NOW, key=key) for key in keys]
    assert names(once) == names(upstream.nodes)


def test_policy_draws_from_the_random_it_was_given() -> None:
    drawn = [
        [upstream.choose(NOW) for _ in range(20)]
        for upstream in [make_upstream(1, 1, 1, 1, balance="random_two", seed=s) for s in (1, 1, 2)]
    ]
    one, same, other = ([node and node.name for node in nodes] for nodes in drawn)

    assert one == same != other


@pytest.mark.parametrize("admin", ["drain", "down"])
def test_nobody_by_hand(admin: Admin) -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    upstream.set_admin(first, admin, NOW)

    assert {upstream.choose(NOW) for _ in range(4)} == {second}
    assert first.empties_since == (NOW if admin == "drain" else None)
    upstream.set_admin(second, admin, NOW)
    assert upstream.choose(NOW) is None
    assert upstream.last_resort(NOW) is None
    assert upstream.next_change(NOW) == math.inf


def test_nodes_unknown_are_not_asked() -> None:
    upstream = make_upstream(1, 1, probe=probe())
    first, second = upstream.nodes

    assert upstream.choose(NOW) is None
    second.probed(NOW, well=True)
    first.probed(NOW, well=False)
    assert upstream.choose(NOW) is second
    first.probed(NOW, well=True)
    assert upstream.any_left(NOW, [second])


# Backups.


def backed_up(**options: object) -> tuple[Upstream, Node, Node, Node]:
    upstream = make_upstream(1, node_config(1, max_sessions=2), node_config(2, backup=True))
    first, second, backup = upstream.nodes
    return upstream, first, second, backup


def test_backups_are_asked_when_no_other_takes_sessions() -> None:
    upstream, first, second, backup = backed_up()

    assert names(upstream.choose(NOW) for _ in range(6)) == names([first, second])
    refuse(upstream, first)
    assert {upstream.choose(NOW) for _ in range(6)} == {second}
    upstream.set_admin(second, "drain", NOW)
    assert {upstream.choose(NOW) for _ in range(6)} == {backup}
    assert {upstream.choose(NOW + 1) for _ in range(6)} == {first}


def test_backups_are_not_for_those_that_found_no_room_or_have_tried() -> None:
    upstream, first, second, backup = backed_up()
    refuse(upstream, first)
    leases = [second.lease(), second.lease()]

    assert upstream.choose(NOW) is None
    assert upstream.room(NOW) == 0
    leases[0].release()
    assert upstream.choose(NOW) is second
    assert upstream.choose(NOW, [second]) is None
    refuse(upstream, second)
    assert upstream.choose(NOW, [second]) is backup


def test_backups_share_by_the_policy() -> None:
    upstream = make_upstream(1, *(node_config(n, backup=True, weight=n) for n in (1, 2)))
    refuse(upstream, upstream.nodes[0])
    hold_all(upstream, 6)

    assert [node.sessions for node in upstream.nodes] == [0, 2, 4]


# Room.


@pytest.mark.parametrize("balance", BALANCES)
def test_full_nodes_are_passed_over(balance: Balance) -> None:
    upstream = make_upstream(
        node_config(0, max_sessions=3), node_config(1, max_sessions=1, weight=9), balance=balance
    )
    rooms = [upstream.room(NOW)]
    leases = hold_all(upstream, 9, key=b"key")
    rooms.append(upstream.room(NOW))

    assert [node.sessions for node in upstream.nodes] == [3, 1]
    assert upstream.choose(NOW, key=b"key") is None
    assert not upstream.any_left(NOW, [])
    leases.pop().release()
    rooms.append(upstream.room(NOW))
    assert upstream.choose(NOW, key=b"key") is not None
    assert rooms == [4, 0, 1]


def test_room_is_of_those_who_take_sessions() -> None:
    upstream = make_upstream(*(node_config(n, max_sessions=5) for n in range(3)))
    refuse(upstream, upstream.nodes[0])
    upstream.set_admin(upstream.nodes[1], "drain", NOW)

    assert upstream.room(NOW) == 5
    assert upstream.room(NOW + 1) == 10
    assert make_upstream(1).room(NOW) > 10**9


# What became of it.


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: error.__name__)
def test_unreachable_is_down_at_once(error: type[NodeError]) -> None:
    upstream = make_upstream(1, probe=probe())
    (node,) = upstream.nodes
    node.probed(NOW, well=True)
    upstream.note(node, error(node.name), NOW)

    assert node.state(NOW) == "down"
    assert node.health.suspect


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: error.__name__)
def test_other_failures_have_to_come_several_times(error: type[NodeError]) -> None:
    upstream = make_upstream(1, rest=Rest(failures=3))
    (node,) = upstream.nodes
    states = []
    for _ in range(3):
        upstream.note(node, error(node.name), NOW)
        states.append(node.state(NOW))
        assert node.health.suspect

    assert states == ["up", "up", "resting"]


def test_hanging_up_early_makes_suspect_and_no_more() -> None:
    """That is what deepstream does about one client's wrong path."""
    upstream = make_upstream(1, probe=probe())
    (node,) = upstream.nodes
    node.probed(NOW, well=True)
    told: list[bool] = []
    upstream.changed = lambda: told.append(node.health.suspect)
    for _ in range(1000):
        upstream.note(node, ClosedEarly(node.name), NOW)

    assert told == [True] * 1000
    assert node.state(NOW) == "up"
    assert node.statistics(NOW).failures_in_a_row == 0
    node.probed(NOW, well=True)
    assert not node.health.suspect


def test_session_that_broke_off_makes_suspect() -> None:
    upstream = make_upstream(1, 1)
    told: list[None] = []
    upstream.changed = lambda: told.append(None)
    upstream.lost_by_node(upstream.nodes[1])

    assert [node.health.suspect for node in upstream.nodes] == [False, True]
    assert len(told) == 1


# Draining.


def test_burst_of_closes_makes_a_node_draining() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes

    assert close_burst(upstream, first) == [False] * 4 + [True]
    assert first.state(NOW) == "draining"
    assert {upstream.choose(NOW) for _ in range(4)} == {second}
    assert upstream.next_change(NOW) == NOW + 35
    assert upstream.any_left(NOW + 35, [second])


@pytest.mark.parametrize(("sessions", "drains"), [(5, True), (10, True), (11, False)])
@pytest.mark.parametrize("linger", [False, True])
def test_burst_is_measured_by_what_there_was(sessions: int, *, drains: bool, linger: bool) -> None:
    """Five are half of ten, whether they still have their leases when the last Close comes."""
    upstream = make_upstream(1, 1)
    first = upstream.nodes[0]
    leases = [first.lease() for _ in range(sessions)]
    told = []
    for lease in leases[:5]:
        told.append(upstream.closed_by_node(first, 1001, NOW))
        if not linger:
            lease.release()

    assert told == [False] * 4 + [drains]


def test_burst_on_another_node_is_another_matter() -> None:
    upstream = make_upstream(1, 1, 1, 1)
    for node in upstream.nodes:
        assert not any(close_burst(upstream, node, 4))


def test_the_only_node_never_drains() -> None:
    upstream = make_upstream(1)

    assert not any(close_burst(upstream, upstream.nodes[0], 100))
    assert upstream.choose(NOW) is upstream.nodes[0]


def test_draining_node_is_back_when_it_has_gone_and_come() -> None:
    upstream = make_upstream(1, 1, probe=probe(rise=2, fall=2))
    first, second = upstream.nodes
    for node in upstream.nodes:
        node.probed(NOW, well=True)
    close_burst(upstream, first)
    first.probed(NOW + 1, well=True)
    assert first.state(NOW + 1) == "draining"

    # A request that was on its way to it finds that it has gone.
    refuse(upstream, first, now=NOW + 2)
    assert first.state(NOW + 2) == "down"
    first.probed(NOW + 3, well=True)
    assert not upstream.any_left(NOW + 3, [second])
    first.probed(NOW + 4, well=True)
    assert upstream.any_left(NOW + 4, [second])
    assert first.share(NOW + 4) == FIRST_SHARE


def test_backups_are_asked_while_the_others_drain() -> None:
    upstream = make_upstream(1, node_config(1, backup=True))
    first, backup = upstream.nodes
    upstream.hold.join(lambda: None)
    told: list[None] = []
    upstream.changed = lambda: told.append(None)
    close_burst(upstream, first)

    assert told
    assert upstream.choose(NOW) is backup


# By hand.


def test_back_from_being_out_it_starts_slowly() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    told: list[float] = []
    upstream.changed = lambda: told.append(first.share(NOW))
    upstream.set_admin(first, "ready", NOW)
    assert first.share(NOW) == 1
    upstream.set_admin(first, "drain", NOW)
    upstream.set_admin(first, "down", NOW + 1)
    upstream.set_admin(first, "ready", NOW + 2)

    assert first.share(NOW + 2) == FIRST_SHARE
    assert first.share(NOW + 7) == 0.5
    assert first.share(NOW + 12) == 1
    assert second.share(NOW + 2) == 1
    assert len(told) == 4


def test_what_it_was_is_known_when_it_is_back() -> None:
    upstream = make_upstream(1, probe=probe())
    (node,) = upstream.nodes
    upstream.set_admin(node, "down", NOW)
    node.probed(NOW, well=False)
    upstream.set_admin(node, "ready", NOW + 5)

    assert node.state(NOW + 5) == "down"


# The last resort.


def test_last_resort_is_whose_failure_is_the_oldest() -> None:
    upstream = make_upstream(1, 1, 1)
    first, second, third = upstream.nodes
    refuse(upstream, second, now=NOW)
    refuse(upstream, third, now=NOW + 0.1)
    refuse(upstream, first, now=NOW + 0.2)

    assert upstream.choose(NOW + 0.3) is None
    assert upstream.last_resort(NOW + 0.3) is second
    assert upstream.last_resort(NOW + 0.5, [second]) is third
    assert upstream.last_resort(NOW + 0.7, [second, third]) is first
    assert upstream.last_resort(NOW + 0.9, upstream.nodes) is None


def test_last_resorts_are_few() -> None:
    """All that have waited in vain have done so together; one of them is enough to find out."""
    upstream = make_upstream(1)
    refuse(upstream, *upstream.nodes)
    tries = [upstream.last_resort(NOW + 0.001 * step) for step in range(1000)]

    assert 9 <= sum(node is not None for node in tries) <= 11
    # Where there is nobody to try, nothing is used up.
    assert upstream.last_resort(NOW + 2, upstream.nodes) is None
    assert upstream.last_resort(NOW + 2) is not None


def test_new_requests_queue_when_all_nodes_have_just_come_back() -> None:
    upstream = make_upstream(1, 1, hold=Hold(rate=20.0), slow_start=10.0)
    refuse(upstream, *upstream.nodes)
    for node in upstream.nodes:
        node.answered(NOW + 5)

    # 20 a second to each of two nodes, so many as a twentieth of a second is worth at once.
    assert [upstream.first(NOW + 5) is None for _ in range(4)] == [False, False, True, True]
    chosen = [upstream.first(NOW + 5 + 0.01 * step) for step in range(101)]
    assert sum(node is not None for node in chosen) == pytest.approx(40, abs=2)
    assert all(upstream.first(NOW + 16) for _ in range(100))


def test_new_requests_do_not_queue_while_one_node_was_there_all_the_time() -> None:
    upstream = make_upstream(1, 1, hold=Hold(rate=20.0), slow_start=10.0)
    refuse(upstream, upstream.nodes[0])
    upstream.nodes[0].answered(NOW + 5)

    assert all(upstream.first(NOW + 5) for _ in range(100))


@pytest.mark.parametrize("options", [{"hold": Hold(timeout=0)}, {"slow_start": 0}])
def test_new_requests_do_not_queue_where_there_is_no_queue_or_no_slow_start(
    options: dict[str, Any],
) -> None:
    upstream = make_upstream(1, **options)
    refuse(upstream, *upstream.nodes)
    upstream.nodes[0].answered(NOW + 5)

    assert all(upstream.first(NOW + 5) for _ in range(100))


def test_new_requests_queue_behind_those_who_wait() -> None:
    upstream = make_upstream(1)
    assert upstream.first(NOW)
    upstream.hold.join(lambda: None)
    assert upstream.first(NOW) is None

    upstream.hold.release_all()
    assert upstream.first(NOW)


def test_new_requests_find_out_for_themselves_that_there_is_nobody() -> None:
    upstream = make_upstream(1, probe=probe())

    assert upstream.first(NOW) is None
    assert upstream.choose(NOW) is None


def test_last_resort_is_another_after_it_failed() -> None:
    """Though it rests still: who comes next should have a better chance."""
    upstream = make_upstream(1, 1, 1)
    refuse(upstream, *upstream.nodes)
    tried = []
    for after in (0.2, 0.4, 0.6, 0.8):
        node = upstream.last_resort(NOW + after)
        assert node is not None
        tried.append(upstream.nodes.index(node))
        refuse(upstream, node, now=NOW + after)

    assert tried == [0, 1, 2, 0]


def test_last_resort_that_answers_is_back() -> None:
    upstream = make_upstream(1, probe=probe(rise=9))
    (node,) = upstream.nodes
    node.probed(NOW, well=False)
    upstream.hold.join(lambda: None)
    told: list[bool] = []
    upstream.changed = lambda: told.append(upstream.any_left(NOW + 1, ()))
    assert upstream.last_resort(NOW + 1) is node
    node.answered(NOW + 1)

    assert upstream.choose(NOW + 1) is node
    assert node.share(NOW + 1) == FIRST_SHARE
    # Who waits may go as well.
    assert told == [True]


@pytest.mark.parametrize(
    "out",
    [
        lambda upstream, node: upstream.set_admin(node, "drain", NOW),
        lambda upstream, node: upstream.set_admin(node, "down", NOW),
        lambda upstream, node: close_burst(upstream, node),
        lambda upstream, node: setattr(node, "gone", True),
        lambda upstream, node: [node.lease() for _ in range(6)],
    ],
    ids=["drain by hand", "down by hand", "draining", "gone", "full"],
)
def test_last_resort_is_nobody_who_is_out(out: Callable[[Upstream, Node], object]) -> None:
    upstream = make_upstream(*(node_config(n, max_sessions=6) for n in range(4)))
    first, second, third, fourth = upstream.nodes
    upstream.set_admin(fourth, "down", NOW)
    out(upstream, first)
    out(upstream, second)
    refuse(upstream, third)

    assert upstream.last_resort(NOW) is third
    upstream.set_admin(third, "down", NOW)
    assert upstream.last_resort(NOW + 0.5) is None


# When there is nobody.


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_nobody_has_the_configured_status(status: int) -> None:
    error = make_upstream(1, unavailable_status=status).nobody(NOW)

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
            refuse(upstream, node, now=at)

    assert upstream.nobody(NOW).headers == ((b"Retry-After", retry_after),)


def test_nobody_where_no_name_has_been_resolved() -> None:
    upstream = make_upstream(NAME)

    assert upstream.nodes == []
    assert upstream.choose(NOW) is None
    assert upstream.last_resort(NOW) is None
    assert upstream.room(NOW) == 0
    assert upstream.next_change(NOW) == math.inf
    assert upstream.nobody(NOW).headers == ((b"Retry-After", b"1"),)


def test_next_change() -> None:
    upstream = make_upstream(1, 1, 1, rest=Rest(first=2.0))
    first, second, third = upstream.nodes
    assert upstream.next_change(NOW) == math.inf

    close_burst(upstream, third)
    refuse(upstream, second, now=NOW + 1)
    refuse(upstream, first)
    assert upstream.next_change(NOW) == NOW + 2
    assert upstream.next_change(NOW + 2) == NOW + 3
    assert upstream.next_change(NOW + 3) == NOW + 35
    assert upstream.next_change(NOW + 35) == math.inf


# Who waits.


def test_who_waits_is_told_about_room() -> None:
    upstream = make_upstream(node_config(0, max_sessions=1))
    (node,) = upstream.nodes
    told: list[int] = []
    upstream.changed = lambda: told.append(upstream.room(NOW))
    node.lease().release()
    assert told == []

    lease = node.lease()
    upstream.hold.join(lambda: None)
    lease.release()
    lease.release()
    assert told == [1]


def test_waiters_are_let_go_into_the_room_there_is() -> None:
    upstream = make_upstream(*(node_config(n, max_sessions=3) for n in range(2)))
    leases = hold_all(upstream, 6)
    gone: list[int] = []
    for number in range(10):
        upstream.hold.join(partial(gone.append, number))
    assert upstream.hold.release(NOW, upstream.room(NOW)) == 0

    for lease in leases[:4]:
        lease.release()
    refuse(upstream, upstream.nodes[0])
    assert upstream.hold.release(NOW, upstream.room(NOW)) == 2
    assert gone == [0, 1]


def test_as_many_are_let_go_as_there_are_nodes_for() -> None:
    upstream = make_upstream(1, 1, 1, hold=Hold(rate=100))
    gone: list[int] = []
    for number in range(100):
        upstream.hold.join(partial(gone.append, number))
    refuse(upstream, *upstream.nodes)
    refuse(upstream, upstream.nodes[2], now=NOW + 1.5)

    # Nobody, until one may be asked.
    assert upstream.release(NOW) == 1
    assert gone == []
    # Two of them, each at its rate.
    assert upstream.release(NOW + 1) == pytest.approx(1 / 200, abs=1e-5)
    assert gone == list(range(10))
    now = NOW + 1
    while now < NOW + 1.3:
        now += upstream.release(now)
    assert len(gone) == pytest.approx(70, abs=1)

    upstream.hold.release_all()
    assert upstream.release(NOW + 2) == math.inf


def test_nobody_is_let_go_where_there_is_no_room() -> None:
    upstream = make_upstream(node_config(0, max_sessions=2))
    gone: list[int] = []
    for number in range(9):
        upstream.hold.join(partial(gone.append, number))

    upstream.release(NOW)
    assert gone == [0, 1]
    hold_all(upstream, 2)
    assert upstream.release(NOW + 10) == math.inf
    assert gone == [0, 1]


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10.0.0.1:80", False),
        ("[::1]:80", False),
        ("[fe80::1%eth0]:80", False),
        ("unix:/run/node.sock", False),
        ("localhost:80", True),
        ("node-1.example.org:80", True),
        ("10.0.0.1.example:80", True),
        ("10.0.0.256:80", True),
        ("srv:_deepstream._tcp.example.org", True),
    ],
)
def test_what_needs_resolving(text: str, *, name: bool) -> None:
    assert needs_resolving(Address.parse(text)) is name


def resolve(upstream: Upstream, *indices: int, config: NodeConfig = NAME, now: float = NOW) -> bool:
    return upstream.resolved(config, [address(index) for index in indices], now)


def present(upstream: Upstream) -> set[int]:
    """Return which addresses are there and not gone."""
    return {node.address.port - 1 for node in upstream.nodes if not node.gone}


def test_addresses_of_a_name_join() -> None:
    upstream = make_upstream(NAME)

    assert resolve(upstream, 3, 1, 2)
    assert [(node.name, node.weight) for node in upstream.nodes] == [
        # As they were resolved: that order is a random one.
        ("10.0.0.1:4", 2),
        ("10.0.0.1:2", 2),
        ("10.0.0.1:3", 2),
    ]
    assert all(node.config is NAME for node in upstream.nodes)
    # They were there before the proxy was: no need to warm them.
    assert {node.share(NOW) for node in upstream.nodes} == {2}
    assert not resolve(upstream, 1, 2, 3)


def test_address_that_joins_later_starts_slowly() -> None:
    upstream = make_upstream(1, NAME)
    resolve(upstream, 1)
    told: list[int] = []
    upstream.changed = lambda: told.append(len(upstream.nodes))

    assert resolve(upstream, 1, 2, now=NOW + 60)
    assert [node.share(NOW + 60) for node in upstream.nodes] == [1, 2, 2 * FIRST_SHARE]
    assert told == [3]


def test_address_that_vanishes_is_gone_and_keeps_its_sessions() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 1, 2)
    first, second = upstream.nodes
    lease = first.lease()
    told: list[None] = []
    upstream.changed = lambda: told.append(None)

    assert resolve(upstream, 2)
    assert len(told) == 1
    assert (first.state(NOW), first.sessions, first.empties_since) == ("gone", 1, NOW)
    assert {upstream.choose(NOW) for _ in range(4)} == {second}
    assert not resolve(upstream, 2)
    assert first in upstream.nodes

    lease.release()
    upstream.forget_gone(NOW)
    assert upstream.nodes == [second]


def test_address_without_sessions_is_forgotten_at_once() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 1, 2)

    assert resolve(upstream, 2)
    assert present(upstream) == {2}
    assert len(upstream.nodes) == 1


def test_address_that_comes_back_is_the_same_node_and_starts_slowly() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 1, 2)
    first = upstream.nodes[0]
    with first.lease():
        resolve(upstream, 2, now=NOW + 60)
        assert resolve(upstream, 1, 2, now=NOW + 120)

        assert first in upstream.nodes
        assert first.state(NOW + 120) == "up"
        assert first.share(NOW + 120) == 2 * FIRST_SHARE
        assert first.sessions == 1
    assert first.sessions == 0


def test_all_vanish_and_come_back() -> None:
    upstream = make_upstream(1, NAME)
    resolve(upstream, 1, 2)
    resolve(upstream, now=NOW + 60)
    assert names(upstream.nodes) == {"10.0.0.1:1"}

    # They are new, though nobody remembers them: not as when the proxy began.
    resolve(upstream, 1, now=NOW + 120)
    assert upstream.nodes[1].share(NOW + 120) == 2 * FIRST_SHARE


def test_fixed_nodes_are_not_gone_whatever_the_names_say() -> None:
    upstream = make_upstream(1, NAME)
    resolve(upstream, 0, 1)
    assert len(upstream.nodes) == 2

    resolve(upstream)
    assert [node.state(NOW) for node in upstream.nodes] == ["up"]


def test_two_names_for_one_address() -> None:
    upstream = make_upstream(NAME, OTHER_NAME)
    resolve(upstream, 1, 2)
    resolve(upstream, 2, 3, config=OTHER_NAME)
    assert len(upstream.nodes) == 3
    assert present(upstream) == {1, 2, 3}

    # One of them is enough.
    with ExitStack() as leases:
        for node in upstream.nodes:
            leases.enter_context(node.lease())
        resolve(upstream, 1)
        assert present(upstream) == {1, 2, 3}
        resolve(upstream, 3, config=OTHER_NAME)
        assert present(upstream) == {1, 3}


def test_address_of_a_name_that_is_down_by_hand() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 1, 2)
    first, second = upstream.nodes
    upstream.set_admin(first, "down", NOW)
    resolve(upstream, 1, 2)

    assert first.state(NOW) == "down by hand"
    assert upstream.choose(NOW) is second


# By and large.


@given(weights, st.sampled_from(["round_robin", "least_connections"]), st.integers(1, 5))
def test_share_follows_weight(weights: list[int], balance: Balance, rounds: int) -> None:
    upstream = make_upstream(*weights, balance=balance)
    leases = hold_all(upstream, rounds * sum(weights))

    assert [node.sessions for node in upstream.nodes] == [rounds * weight for weight in weights]
    for lease in leases:
        lease.release()
    assert all(node.sessions == 0 for node in upstream.nodes)


@pytest.mark.parametrize("balance", [one for one in BALANCES if one != "hash"])
def test_node_that_comes_back_gets_its_sessions_over_the_slow_start(balance: Balance) -> None:
    """100 sessions a second that last 5 s: it is never given more than its part."""
    upstream = make_upstream(1, 1, probe=probe(), balance=balance, slow_start=10.0)
    first, second = upstream.nodes
    first.probed(NOW, well=True)
    second.probed(NOW, well=False)
    live: list[tuple[float, Lease]] = []
    seen: list[int] = []
    for tick in range(3000):
        now = NOW + tick / 100
        if tick == 1000:
            second.probed(now, well=True)
        while live and live[0][0] <= now:
            live.pop(0)[1].release()
        node = upstream.choose(now)
        assert node is not None
        live.append((now + 5, node.lease()))
        seen.append(second.sessions)

    assert seen[999] == 0
    # A quarter and half of the ramp: shares of 1 in 5 and 1 in 3.
    assert seen[1250] <= 0.25 * 500 + 10
    assert seen[1500] <= 0.40 * 500 + 10
    assert seen[2999] == pytest.approx(250, rel=0.1)
    assert all(other - one <= 1 for one, other in itertools.pairwise(seen))


# Those who were let go, and have no lease yet.


def test_no_more_are_let_go_than_there_is_room_for() -> None:
    upstream = make_upstream(node_config(0, max_sessions=2))
    gone: list[int] = []
    for number in range(5):
        upstream.hold.join(partial(gone.append, number))
    upstream.release(NOW)
    # They are on their way: their places are taken.
    assert upstream.release(NOW + 1) == math.inf
    assert gone == [0, 1]
    assert upstream.first(NOW + 1) is None
    lease = upstream.nodes[0].lease()
    upstream.hold.arrived()
    upstream.release(NOW + 2)
    assert gone == [0, 1]
    upstream.hold.arrived()
    upstream.release(NOW + 3)

    assert gone == [0, 1, 2]
    lease.release()


def test_queue_is_short_where_nodes_were_there_all_the_time() -> None:
    """A burst that was too much for `max_sessions` is no outage."""
    upstream = make_upstream(1, hold=Hold(rate=100.0))
    gone: list[int] = []
    for number in range(100):
        upstream.hold.join(partial(gone.append, number))
        upstream.release(NOW + number / 1000)

    assert len(gone) == 100


def test_last_node_that_takes_sessions_is_not_draining() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    for _ in range(20):
        first.lease()
        second.lease()
    refuse(upstream, first)
    told = [upstream.closed_by_node(second, 1001, NOW) for _ in range(20)]

    assert not any(told)
    assert upstream.choose(NOW) is second


def test_plain_answer_of_a_node_that_is_down_has_it_probed() -> None:
    upstream = make_upstream(1, probe=Probe(kind="tcp"))
    (node,) = upstream.nodes
    node.probed(NOW, well=False)
    changes: list[float] = []
    upstream.changed = lambda: changes.append(NOW)
    upstream.hold.join(lambda: None)
    node.answered(NOW, session=False)

    assert node.state(NOW) == "down"
    assert node.health.suspect
    assert changes
    node.answered(NOW)
    assert node.state(NOW) == "up"


def test_half_of_the_nodes_are_draining_at_most() -> None:
    upstream = make_upstream(*[1] * 7)
    for node in upstream.nodes:
        for _ in range(20):
            node.lease()
    for node in upstream.nodes:
        for _ in range(20):
            upstream.closed_by_node(node, 1001, NOW)

    assert [node.state(NOW) for node in upstream.nodes] == ["draining"] * 3 + ["up"] * 4


# Another configuration.


def reconfigure(
    upstream: Upstream, *nodes: int | NodeConfig, now: float = NOW, **options: Any
) -> None:
    """Give it nodes as for `make_upstream`, and other settings."""
    upstream.reconfigure(make_upstream(*nodes, **options).config, now)


def test_nodes_are_the_same_by_address() -> None:
    upstream = make_upstream(1, 1, 1)
    first, second, third = upstream.nodes
    refuse(upstream, first)
    upstream.set_admin(second, "drain", NOW)
    with third.lease():
        reconfigure(upstream, 5, 1, node_config(2, backup=True), now=NOW + 0.5)

        assert upstream.nodes == [first, second, third]
        assert [node.state(NOW + 0.5) for node in upstream.nodes] == [
            "resting",
            "drain by hand",
            "up",
        ]
        assert (first.weight, third.backup, third.sessions) == (5, True, 1)


def test_new_node_starts_slowly_and_is_told_of() -> None:
    upstream = make_upstream(1)
    told: list[int] = []
    upstream.changed = lambda: told.append(len(upstream.nodes))
    reconfigure(upstream, 1, 2)

    assert [node.share(NOW) for node in upstream.nodes] == [1, 2 * FIRST_SHARE]
    assert told == [2]


def test_node_that_is_taken_out_keeps_its_sessions_and_comes_back_as_it_was() -> None:
    upstream = make_upstream(1, 1)
    first, second = upstream.nodes
    upstream.set_admin(second, "drain", NOW)
    with second.lease():
        reconfigure(upstream, 1, now=NOW + 1)
        assert second.gone
        assert {upstream.choose(NOW + 1) for _ in range(3)} == {first}
        reconfigure(upstream, 1, 3, now=NOW + 2)
        assert upstream.nodes == [first, second]
        assert (second.state(NOW + 2), second.weight) == ("drain by hand", 3)
        assert second.share(NOW + 2) == 3 * FIRST_SHARE
        reconfigure(upstream, 1, now=NOW + 3)
    upstream.forget_gone(NOW)
    assert upstream.nodes == [first]


def test_node_without_sessions_is_forgotten_at_once() -> None:
    upstream = make_upstream(1, 1)
    first, _ = upstream.nodes
    reconfigure(upstream, 1)

    assert upstream.nodes == [first]


def test_old_nodes_stay_until_new_ones_were_probed() -> None:
    upstream = make_upstream(1, probe=probe())
    (old,) = upstream.nodes
    old.probed(NOW, well=True)
    reconfigure(upstream, node_config(1), node_config(2), probe=probe())
    old, *new = upstream.nodes
    assert {upstream.choose(NOW) for _ in range(3)} == {old}
    for number, node in enumerate(new, 1):
        upstream.forget_gone(NOW)
        assert len(upstream.nodes) == 3
        # Whatever it brings: nodes that are down are what was asked for.
        node.probed(NOW, well=number == 1)
    told: list[int] = []
    upstream.changed = lambda: told.append(len(upstream.nodes))
    upstream.forget_gone(NOW)

    assert upstream.nodes == new
    assert told == [2]
    assert {upstream.choose(NOW) for _ in range(3)} == {new[0]}


def test_address_becomes_a_name() -> None:
    upstream = make_upstream(1, 1)
    first = upstream.nodes[0]
    refuse(upstream, first)
    reconfigure(upstream, NAME)
    # Nobody knows yet what the name stands for.
    assert present(upstream) == {0, 1}
    resolve(upstream, 0, 5)

    assert present(upstream) == {0, 5}
    assert upstream.nodes[0] is first
    assert (first.state(NOW), first.weight, first.config) == ("resting", 2, NAME)
    # As one that joins later.
    assert upstream.nodes[1].share(NOW) == 2 * FIRST_SHARE


def test_name_becomes_an_address() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 0, 1)
    first, second = upstream.nodes
    with second.lease():
        reconfigure(upstream, 7)

        assert upstream.nodes == [first, second]
        assert (first.weight, first.gone, second.gone) == (7, False, True)


def test_address_beside_a_name_for_it_goes_by_what_is_said_of_the_address() -> None:
    upstream = make_upstream(NAME)
    resolve(upstream, 0, 1)
    first, second = upstream.nodes
    reconfigure(upstream, 7, NAME)
    assert [node.weight for node in upstream.nodes] == [7, 2]
    resolve(upstream, 0, 1)
    assert [node.weight for node in upstream.nodes] == [7, 2]
    resolve(upstream)
    assert upstream.nodes == [first]
    resolve(upstream, 0)
    reconfigure(upstream, NAME)

    assert upstream.nodes == [first]
    assert first.weight == 2
    assert second not in upstream.nodes


def test_name_that_goes_takes_its_own_addresses_only() -> None:
    upstream = make_upstream(NAME, OTHER_NAME)
    resolve(upstream, 1, 2)
    resolve(upstream, 2, 3, config=OTHER_NAME)
    reconfigure(upstream, OTHER_NAME)

    assert present(upstream) == {2, 3}
    assert {node.weight for node in upstream.nodes} == {1}


def test_name_without_an_answer_since_the_beginning_holds_up_nothing() -> None:
    upstream = make_upstream(1, 1, NAME)
    reconfigure(upstream, 1, NAME)
    assert present(upstream) == {0}
    resolve(upstream, 4)

    # Its first answer is as it would have been at the beginning.
    assert upstream.nodes[1].share(NOW) == 2


def test_policy_and_queue_follow() -> None:
    upstream = make_upstream(1, 1, balance="round_robin", hold=Hold(waiting=1))
    first, second = upstream.nodes
    let_go: list[int] = []
    assert upstream.hold.join(partial(let_go.append, 1))
    reconfigure(upstream, 1, 1, balance="least_connections", hold=Hold(waiting=2))
    with first.lease():
        assert {upstream.choose(NOW) for _ in range(3)} == {second}
    assert upstream.hold.join(partial(let_go.append, 2))
    upstream.release(NOW)

    assert let_go == [1, 2]


def test_busy_while_anybody_holds_on_or_waits() -> None:
    upstream = make_upstream(1)
    told = [upstream.busy]
    with upstream.nodes[0].lease():
        told.append(upstream.busy)
    upstream.hold.join(print)
    told.append(upstream.busy)
    upstream.hold.release_all()
    told.append(upstream.busy)
    upstream.hold.arrived()

    assert [*told, upstream.busy] == [False, True, True, True, False]


def test_forgotten_one_can_still_be_asked() -> None:
    upstream = make_upstream(node_config(max_sessions=1))
    told: list[None] = []
    upstream.changed = lambda: told.append(None)
    upstream.end()
    (node,) = upstream.nodes
    upstream.hold.join(print)

    assert upstream.choose(NOW) is node
    node.lease().release()
    upstream.lost_by_node(node)
    assert told == []
