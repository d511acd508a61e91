"""Who waits: first come first served, bounded, and let go at a pace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.config.upstream import Hold
from proxy.pool.hold import HoldQueue, Waiter

from .rig import NOW

ANY_ROOM = 2**31


class Line:
    """A queue whose waiters are numbers, and who of them was told to go, in that order."""

    def __init__(self, **config: float) -> None:
        self.queue = HoldQueue(Hold(**config))  # type: ignore[arg-type]
        self.told: list[int] = []
        self._waiters: dict[int, Waiter] = {}

    def waiter(self, number: int) -> Waiter:
        return self._waiters.setdefault(number, lambda: self.told.append(number))

    def join(self, *numbers: int) -> list[bool]:
        return [self.queue.join(self.waiter(number)) for number in numbers]

    def leave(self, number: int) -> None:
        self.queue.leave(self.waiter(number))


def test_first_come_first_served() -> None:
    line = Line()

    assert line.join(3, 1, 2) == [True, True, True]
    assert len(line.queue) == 3
    assert line.queue.release(NOW, 2) == 2
    assert line.told == [3, 1]
    assert line.queue.release(NOW, ANY_ROOM) == 1
    assert line.told == [3, 1, 2]
    assert len(line.queue) == 0
    assert line.queue.release(NOW, ANY_ROOM) == 0


def test_who_leaves_is_forgotten() -> None:
    line = Line()
    line.join(1, 2, 3)
    line.leave(2)
    line.leave(2)
    line.queue.release(NOW, ANY_ROOM)
    line.leave(1)

    assert line.told == [1, 3]
    assert (line.queue.released, line.queue.left) == (2, 1)


@pytest.mark.parametrize("waiting", [1, 3])
def test_no_more_than_may_wait(waiting: int) -> None:
    line = Line(waiting=waiting)

    assert line.join(*range(waiting + 2)) == [True] * waiting + [False] * 2
    assert len(line.queue) == waiting
    line.leave(0)
    assert line.join(10, 11) == [True, False]
    line.queue.release(NOW, 1)
    assert line.join(12) == [True]


def test_nobody_waits_where_there_is_no_hold() -> None:
    line = Line(timeout=0)

    assert line.join(1) == [False]
    assert len(line.queue) == 0


def test_no_more_than_there_is_room_for() -> None:
    line = Line(rate=1e6)
    line.join(*range(10))

    assert [line.queue.release(NOW + after, 3) for after in range(4)] == [3, 3, 3, 1]
    assert line.queue.release(NOW, 0) == 0


def test_a_thousand_are_let_go_at_the_pace() -> None:
    """A node that comes back meets them at this rate, whenever it is looked whether they may go."""
    line = Line(rate=200)
    line.join(*range(1000))
    now, let_go = NOW, list[float]()
    while len(line.queue):
        released = line.queue.release(now, ANY_ROOM)
        assert released
        assert line.queue.release(now, ANY_ROOM) == 0
        let_go += [now] * released
        now += line.queue.wait(now)

    assert line.told == list(range(1000))
    assert let_go.count(NOW) == 10
    assert let_go[-1] - NOW == pytest.approx(990 / 200, rel=0.01)
    for since in let_go:
        assert sum(since <= at < since + 1 for at in let_go) <= 210


def test_each_node_is_met_by_its_part_only() -> None:
    """So with more nodes more may go."""
    line = Line(rate=100)
    line.join(*range(100))
    counts = [
        line.queue.release(NOW + after, ANY_ROOM, nodes)
        for after, nodes in [(0, 1), (1, 4), (2, 2), (3, 1)]
    ]

    assert counts == [5, 20, 10, 5]
    assert line.told == list(range(40))


def test_who_comes_new_is_let_through_at_the_pace() -> None:
    line = Line(rate=100)
    assert [line.queue.admit(NOW, 1) for _ in range(9)].count(True) == 5
    assert [line.queue.admit(NOW + 1, 4) for _ in range(99)].count(True) == 20

    # Not past those who wait, and at no cost to them.
    line.join(*range(9))
    assert not any(line.queue.admit(NOW + 2, 1) for _ in range(9))
    assert line.queue.release(NOW + 2, ANY_ROOM) == 5


def test_all_at_once_when_there_is_nothing_to_wait_for() -> None:
    line = Line(rate=1)
    line.join(*range(1000))
    line.queue.release_all()

    assert line.told == list(range(1000))
    assert (len(line.queue), line.queue.released) == (0, 1000)


def test_who_is_let_go_may_have_others_leave_and_join() -> None:
    queue = HoldQueue(Hold(rate=1000))
    told: list[str] = []

    def first() -> None:
        told.append("first")
        queue.leave(second)
        queue.join(first)

    def second() -> None:
        told.append("second")

    def third() -> None:
        told.append("third")

    for waiter in (first, second, third):
        queue.join(waiter)
    queue.release_all()

    assert told == ["first", "third"]
    assert (len(queue), queue.released, queue.left) == (1, 2, 1)


def test_others_still_wait_if_telling_one_fails() -> None:
    line = Line()

    def fail() -> None:
        raise KeyError

    line.queue.join(fail)
    line.join(1)
    with pytest.raises(KeyError):
        line.queue.release(NOW, ANY_ROOM)
    line.queue.release(NOW, ANY_ROOM)

    assert line.told == [1]


def test_those_who_wait_keep_their_places_whatever_the_limit_is() -> None:
    line = Line(waiting=3)
    line.join(1, 2, 3)
    line.queue.reconfigure(Hold(waiting=1))
    assert line.join(4) == [False]
    line.leave(2)
    line.queue.reconfigure(Hold(waiting=3))
    assert line.join(5, 6) == [True, False]
    line.queue.reconfigure(Hold(timeout=0.0))
    assert line.join(7) == [False]

    line.queue.release_all()
    assert line.told == [1, 3, 5]


def test_rate_is_the_latest() -> None:
    line = Line(rate=0.1)
    line.join(*range(30))
    assert line.queue.release(NOW, ANY_ROOM) == 1
    assert line.queue.wait(NOW) == pytest.approx(10)
    line.queue.reconfigure(Hold(rate=100.0))

    assert line.queue.release(NOW + 1, ANY_ROOM) == 5
    assert line.queue.wait(NOW + 1) == pytest.approx(0.01, abs=1e-3)


class HoldMachine(RuleBasedStateMachine):
    """Anybody comes and goes, room comes and goes, time passes; a list is what should be."""

    @initialize(
        waiting=st.integers(1, 6),
        rate=st.sampled_from([0.5, 3.0, 10.0, 50.0, 1000.0]),
        nodes=st.integers(1, 3),
    )
    def begin(self, waiting: int, rate: float, nodes: int) -> None:
        self.limit, self.nodes, self.rate = waiting, nodes, rate * nodes
        self.line = Line(waiting=waiting, rate=rate)
        self.now = NOW
        self.waiting: list[int] = []
        self.expected: list[int] = []
        self.gone: list[int] = []
        self.let_go: list[tuple[float, int]] = []
        self.joined = 0

    @rule()
    def join(self) -> None:
        number = self.joined
        self.joined += 1
        there_is_a_place = len(self.waiting) < self.limit
        assert self.line.join(number) == [there_is_a_place]
        (self.waiting if there_is_a_place else self.gone).append(number)

    @rule(pick=st.integers(0, 100))
    def leave(self, pick: int) -> None:
        """Anybody who was ever there; who has gone before does no harm."""
        if self.joined:
            number = pick % self.joined
            self.line.leave(number)
            if number in self.waiting:
                self.waiting.remove(number)
                self.gone.append(number)

    @rule(pause=st.sampled_from([0.0, 0.001, 0.02, 0.3, 5.0]), room=st.integers(0, 8))
    def release(self, pause: float, room: int) -> None:
        self.now += pause
        count = self.line.queue.release(self.now, room, self.nodes)
        assert count <= min(room, len(self.waiting))
        rested = self.now - self.let_go[-1][0] if self.let_go else 1e9
        if room and self.waiting and self.rate * rested > 1.001:
            assert count
        self._let_go(count)

    def _let_go(self, count: int) -> None:
        self._leave_in_order(count)
        self.let_go.append((self.now, count))
        total = 0
        for at, some in reversed(self.let_go):
            total += some
            assert total <= max(1.0, self.rate / 20) + self.rate * (self.now - at) + 1e-6

    @rule()
    def wait_as_long_as_told(self) -> None:
        self.now += self.line.queue.wait(self.now)
        count = self.line.queue.release(self.now, 1, self.nodes)
        assert count == min(1, len(self.waiting))
        self._let_go(count)

    @rule(waiting=st.integers(1, 6))
    def reconfigure(self, waiting: int) -> None:
        self.limit = waiting
        self.line.queue.reconfigure(Hold(waiting=waiting, rate=self.rate / self.nodes))

    @rule()
    def release_all(self) -> None:
        self.line.queue.release_all()
        self._leave_in_order(len(self.waiting))

    def _leave_in_order(self, count: int) -> None:
        self.expected += self.waiting[:count]
        del self.waiting[:count]

    @invariant()
    def told_are_those_who_came_first(self) -> None:
        if hasattr(self, "line"):
            assert self.line.told == self.expected
            assert not set(self.line.told) & set(self.gone)
            assert len(self.line.queue) == len(self.waiting)
            assert self.line.queue.released == len(self.expected)


TestHoldMachine: Callable[[], object] = HoldMachine.TestCase
TestHoldMachine.settings = settings(max_examples=60, stateful_step_count=40)  # type: ignore[attr-defined]
