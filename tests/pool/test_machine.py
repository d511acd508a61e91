"""The pool as a whole: whatever happens to it, in any order, what must not be is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from proxy.config.address import Address
from proxy.config.upstream import Balance, DetectDrain, ProbeKind, Rest
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import BadResponse, ClosedEarly, NodeError, ResponseTimeout
from proxy.pool.node import Admin, Lease, Node
from proxy.pool.upstream import needs_resolving

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
)


def what_is_known(node: Node) -> tuple[object, ...]:
    """Return all that no configuration says, what the probes say last."""
    health = node.health
    return (
        node.sessions,
        node.admin,
        node.latency.mean,
        health.rests,
        health.rests_until,
        health.failed_at,
        health.suspect,
        health.back_since,
        health.state,
    )


pauses = st.sampled_from([0.0, 0.05, 0.3, 1.0, 3.0, 20.0, 60.0])


class PoolMachine(RuleBasedStateMachine):
    """Sessions, failures, probes, operators, names and time, in any order."""

    leases = Bundle("leases")

    @initialize(
        balance=st.sampled_from(BALANCES),
        kind=st.sampled_from(["none", "tcp"]),
        fixed=st.lists(
            st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=4
        ),
        slow_start=st.sampled_from([0.0, 10.0]),
        fall=st.integers(1, 2),
    )
    def begin(
        self,
        balance: Balance,
        kind: ProbeKind,
        fixed: list[tuple[int, bool, int]],
        slow_start: float,
        fall: int,
    ) -> None:
        configs = [
            # The first is no backup: one has to be a node of the first choice.
            node_config(index, weight=weight, backup=backup and index > 0, max_sessions=limit)
            for index, (weight, backup, limit) in enumerate(fixed)
        ]
        self.upstream = make_upstream(
            *configs,
            NAME,
            OTHER_NAME,
            balance=balance,
            probe=probe(kind, rise=2, fall=fall),
            rest=Rest(failures=2),
            detect_drain=DetectDrain(closes=3),
            slow_start=slow_start,
        )
        self.now = NOW
        #: What should be: leases not yet released, the operator's will, and the names' addresses.
        self.held: Counter[Node] = Counter()
        self.admin: dict[Node, Admin] = {}
        self.answers: dict[Address, set[Address]] = {}
        #: Names that have come with a new configuration.
        self.unanswered: set[Address] = set()
        self.draining_until: dict[Node, float] = {}
        self.seen = set(self.upstream.nodes)
        self.told = False
        self.upstream.changed = self._tell
        # Somebody always waits, so that he must be told of room.
        self.upstream.hold.join(lambda: None)

    def _tell(self) -> None:
        self.told = True

    def may_be_asked(self, tried: Iterable[Node] = ()) -> set[Node]:
        """Return who should be a candidate."""
        up = [node for node in self.upstream.nodes if node.state(self.now) == "up"]
        first = [node for node in up if not node.config.backup]
        return {
            node
            for node in first or up
            if not (limit := node.config.max_sessions) or self.held[node] < limit
            if node not in set(tried)
        }

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Check that whoever waits hears of it when there is room where there was none."""
        before, self.told = self.may_be_asked(), False
        yield
        if not before and self.may_be_asked():
            assert self.told

    def pick(self, index: int) -> Node:
        return self.upstream.nodes[index % len(self.upstream.nodes)]

    def has_nodes(self) -> bool:
        return bool(self.upstream.nodes)

    @rule(target=leases, tries=st.integers(1, 3), key=st.binary(max_size=2))
    def ask(self, tries: int, key: bytes) -> object:
        """One request, which asks up to so many nodes and holds on to the last."""
        tried: list[Node] = []
        node = None
        for _ in range(tries):
            expected = self.may_be_asked(tried)
            assert self.upstream.any_left(self.now, tried) == bool(expected)
            chosen = self.upstream.choose(self.now, tried, key)
            assert (chosen is None) == (not expected)
            if chosen is None:
                break
            assert chosen in expected
            self.check_takes(chosen)
            node = chosen
            tried.append(node)
        return multiple() if node is None else self.hold(node)

    def check_takes(self, node: Node) -> None:
        """Check by what was told to the pool, not by what it says."""
        assert self.admin.get(node, "ready") == "ready"
        assert self.is_wanted(node) or not node.gone
        assert self.now >= self.draining_until.get(node, 0.0)
        assert self.now >= node.health.rests_until
        assert node.health.state == "up"
        limit = node.config.max_sessions
        assert not limit or self.held[node] < limit
        if node.config.backup:
            assert not any(
                other.takes(self.now) for other in self.upstream.nodes if not other.config.backup
            )

    def is_wanted(self, node: Node) -> bool:
        return node.address in self.wanted()

    def wanted(self) -> set[Address]:
        """Return which addresses should be nodes."""
        nodes = self.upstream.config.nodes
        fixed = {node.address for node in nodes if not needs_resolving(node.address)}
        return fixed.union(*self.answers.values())

    def is_settled(self) -> bool:
        """Whether enough is known of those who should be there to let all others go."""
        nodes = [node for node in self.upstream.nodes if self.is_wanted(node)]
        return not self.unanswered and all(node.health.state != "unknown" for node in nodes)

    def hold(self, node: Node) -> Lease:
        self.held[node] += 1
        return node.lease()

    @rule(target=leases)
    def ask_as_the_last_resort(self) -> object:
        node = self.upstream.last_resort(self.now)
        if node is None:
            # There is nobody to try, or too many have been of late.
            return multiple()
        assert node.state(self.now) in ("up", "unknown", "down", "resting")
        assert node.room
        oldest = (node.backup, node.health.failed_at)
        for other in self.upstream.nodes:
            if other.state(self.now) in ("up", "unknown", "down", "resting") and other.room:
                later = (other.backup, other.health.failed_at) >= oldest
                assert other.drain.draining(self.now) or later
        return self.hold(node)

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        """Some are released again and again."""
        with self.noticing():
            if lease.node is not None:
                self.held[lease.node] -= 1
            lease.release()
            assert lease.node is None

    @rule(lease=leases, error=st.sampled_from([*UNREACHABLE, *BROKEN, ClosedEarly]))
    def fail(self, lease: Lease, error: type[NodeError]) -> None:
        node = lease.node
        if node is None:
            return
        with self.noticing():
            was = node.state(self.now)
            self.upstream.note(node, error(node.name), self.now)
        assert node.health.suspect
        assert self.told
        if error in UNREACHABLE:
            assert not node.takes(self.now)
            self.draining_until.pop(node, None)
        elif error is ClosedEarly:
            assert node.state(self.now) == was

    @rule(lease=leases, seconds=st.none() | st.floats(0, 5))
    def answer(self, lease: Lease, seconds: float | None) -> None:
        if lease.node is not None:
            with self.noticing():
                lease.node.answered(self.now, seconds)
            assert lease.node.health.state != "down"

    @precondition(lambda self: self.has_nodes())
    @rule(
        index=st.integers(0, 9),
        result=st.sampled_from([None, *UNREACHABLE[:2], ResponseTimeout, BadResponse]),
    )
    def be_probed(self, index: int, result: type[NodeError] | None) -> None:
        node = self.pick(index)
        if self.upstream.config.probe.kind == "none":
            return
        with self.noticing():
            error = None if result is None else result(node.name)
            node.probed(self.now, well=result is None, error=error)
        assert not node.health.suspect
        if result in UNREACHABLE and self.draining_until.pop(node, 0.0) > self.now:
            assert not node.takes(self.now)

    @precondition(lambda self: self.has_nodes())
    @rule(index=st.integers(0, 9), admin=st.sampled_from(["ready", "ready", "drain", "down"]))
    def be_told_by_hand(self, index: int, admin: Admin) -> None:
        node = self.pick(index)
        with self.noticing():
            self.upstream.set_admin(node, admin, self.now)
        self.admin[node] = admin

    @precondition(lambda self: self.has_nodes())
    @rule(
        index=st.integers(0, 9),
        count=st.integers(1, 6),
        code=st.sampled_from([1000, 1001, 1005, 1008]),
    )
    def close(self, index: int, count: int, code: int) -> None:
        node = self.pick(index)
        with self.noticing():
            for _ in range(count):
                was = node.drain.draining(self.now)
                if self.upstream.closed_by_node(node, code, self.now):
                    assert not was
                    assert code != 1008
                    assert len(self.upstream.nodes) > 1
                    assert not node.takes(self.now)
                    self.draining_until[node] = self.now + 35

    @rule(
        config=st.sampled_from([NAME, OTHER_NAME]),
        indices=st.lists(st.integers(2, 7), max_size=4),
    )
    def resolve(self, config: NodeConfig, indices: list[int]) -> None:
        if config not in self.upstream.config.nodes:
            return
        addresses = [address(index) for index in indices]
        before = self.wanted()
        with self.noticing():
            self.answers[config.address] = set(addresses)
            self.unanswered.discard(config.address)
            new = self.upstream.resolved(config, addresses, self.now)
        assert new == (self.wanted() != before)
        self.note_nodes()

    def note_nodes(self) -> None:
        self.seen |= set(self.upstream.nodes)
        # An operator's will is forgotten with the node.
        self.admin = {node: self.admin.get(node, "ready") for node in self.upstream.nodes}
        if self.is_settled():
            assert {n.address for n in self.upstream.nodes if not n.gone} == self.wanted()

    @rule(
        fixed=st.dictionaries(
            st.integers(0, 7),
            st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3)),
            max_size=4,
        ),
        names=st.lists(st.sampled_from([NAME, OTHER_NAME]), unique=True),
        balance=st.sampled_from(BALANCES),
        kind=st.sampled_from(["none", "tcp"]),
        slow_start=st.sampled_from([0.0, 10.0]),
        closes=st.sampled_from([3, 3, 0]),
        failures=st.integers(1, 3),
    )
    def reconfigure(
        self,
        fixed: dict[int, tuple[int, bool, int]],
        names: list[NodeConfig],
        balance: Balance,
        kind: ProbeKind,
        slow_start: float,
        closes: int,
        failures: int,
    ) -> None:
        nodes = names + [
            node_config(index, weight=weight, backup=bool(names) and backup, max_sessions=limit)
            for index, (weight, backup, limit) in fixed.items()
        ]
        if not nodes:
            return
        config = UpstreamConfig(
            nodes=tuple(nodes),
            balance=balance,
            probe=probe(kind, rise=2, fall=failures),
            rest=Rest(failures=failures),
            detect_drain=DetectDrain(closes=closes),
            slow_start=slow_start,
        )
        self.note_names({node.address for node in names})
        before = {node: what_is_known(node) for node in self.upstream.nodes}
        gone = {node for node in before if node.gone}
        with self.noticing():
            self.upstream.reconfigure(config, self.now)
        self.check_known(before, gone)
        assert len(self.upstream.hold) == 1
        if not closes:
            self.draining_until.clear()
        self.note_nodes()

    def note_names(self, names: set[Address]) -> None:
        before = {node.address for node in self.upstream.config.nodes}
        self.unanswered = (self.unanswered & names) | (names - before)
        self.answers = {name: answer for name, answer in self.answers.items() if name in names}

    def check_known(self, before: dict[Node, tuple[object, ...]], gone: set[Node]) -> None:
        """Check that what was known of nodes is, and that new ones begin slowly."""
        unprobed = self.upstream.config.probe.kind == "none"
        for node in self.upstream.nodes:
            if node not in before or (node in gone and not node.gone):
                assert node.health.back_since == self.now
            else:
                *known, state = what_is_known(node)
                *was, state_before = before[node]
                assert known == was
                assert state == ("up" if unprobed else state_before)
            assert not self.is_wanted(node) or node.config in self.upstream.config.nodes

    @rule()
    def forget(self) -> None:
        with self.noticing():
            self.upstream.forget_gone(self.now)
        assert all(node.sessions for node in self.upstream.nodes if node.gone)
        self.note_nodes()

    @rule(pause=pauses)
    def let_time_pass(self, pause: float) -> None:
        """Nobody may be asked earlier than was said, if nothing else happens."""
        before, then = self.may_be_asked(), self.upstream.next_change(self.now)
        assert then > self.now
        until = self.now + pause
        for at in (self.now + 0.5 * (min(until, then) - self.now), math.nextafter(then, 0)):
            if at <= until:
                self.now = at
                assert self.may_be_asked() == before
        self.now = until

    @invariant()
    def leases_are_counted(self) -> None:
        for node in getattr(self, "seen", ()):
            assert node.sessions == self.held[node] >= 0

    @invariant()
    def nodes_are_those_of_the_configuration_and_the_names(self) -> None:
        if not hasattr(self, "upstream"):
            return
        nodes = self.upstream.nodes
        assert len({node.address for node in nodes}) == len(nodes)
        assert {node.address for node in nodes if node.wanted} == self.wanted()
        assert not any(node.wanted and node.gone for node in nodes)
        # A node that is forgotten is one that nobody holds.
        for node in self.seen:
            assert node in nodes or not self.held[node]

    @invariant()
    def what_is_told_is_so(self) -> None:
        if not hasattr(self, "upstream"):
            return
        room = 0
        for node in self.upstream.nodes:
            told = node.statistics(self.now)
            assert node.takes(self.now) == (told.state == "up")
            assert 0 < told.share <= 1
            if told.state == "up":
                assert self.now >= self.draining_until.get(node, 0.0)
        for node in self.may_be_asked():
            room += node.room
        assert self.upstream.room(self.now) == room
        nobody = dict(self.upstream.nobody(self.now).headers)
        assert 1 <= int(nobody[b"Retry-After"]) <= 30


TestPoolMachine: Callable[[], object] = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=100, stateful_step_count=40)  # type: ignore[attr-defined]
