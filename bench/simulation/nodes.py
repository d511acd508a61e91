"""A deepstream node, as a balancer sees it: connects, 101s, and how sessions end.

A node is one thread: it answers so many handshakes a second, one after the other.  Those that it
has not got round to wait in its backlog, which is what Node.js asks of the kernel (511).  What
happens beyond that is `overflow`: "refuse" (net.ipv4.tcp_abort_on_overflow), or Linux's default,
"drop", where the connect is tried again after 1, 3, 7, 15 and 31 s.

Its lives (reference/deepstream.md sections 0, 3 and 5, measured):
- up; or slow, when it answers few handshakes a second;
- dead, or about to start: it refuses;
- frozen: the kernel connects, and nothing else happens, so that its sessions are silent;
- leaving: after SIGINT it sends a Close to every session, but listens, and takes sessions that its
  cluster does not know, until the last peer has hung up or 30 s are over: the zombie.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Literal, Protocol

import attrs

from .clock import Clock

__all__ = ["Ending", "Life", "Node", "Outcome", "Overflow", "Patience"]

Overflow = Literal["refuse", "drop"]

#: There and back between balancer and node.
_HOP: Final = 0.0005
#: When Linux sends a SYN again that was not answered, counted from the first.
_AGAIN: Final = (1.0, 3.0, 7.0, 15.0, 31.0, 63.0)
#: What a node takes to exit once its last peer has hung up (measured).
_EXIT: Final = 0.012


class Life(enum.Enum):
    UP = enum.auto()
    DEAD = enum.auto()
    FROZEN = enum.auto()
    LEAVING = enum.auto()


class Outcome(enum.Enum):
    """What a handshake at a node comes to."""

    OPENED = enum.auto()
    REFUSED = enum.auto()
    UNREACHED = enum.auto()  # no connection in time
    CLOSED = enum.auto()  # a connection, but it ended before an answer
    SILENT = enum.auto()  # a connection, but no answer in time


class Ending(enum.Enum):
    """How a session ends."""

    CLOSED = enum.auto()  # the node sent a Close
    LOST = enum.auto()  # the node's connection broke
    LEFT = enum.auto()  # the client went for good
    TIMED_OUT = enum.auto()  # the client gave the silent node up
    MOVED = enum.auto()  # the balancer sent a Close


class Guest(Protocol):
    """What a node has to do with the client of a session."""

    epoch: int  # another one for each session

    def ended(self, how: Ending) -> None: ...
    def silenced(self) -> None: ...
    def heard(self) -> None: ...


@attrs.frozen
class Patience:
    """How long a balancer waits for a connection, and from then on for the answer."""

    connect: float
    answer: float


@attrs.define(eq=False)
class _Dial:
    """One connect, with a handshake to follow."""

    patience: Patience
    then: Callable[[Outcome], object]
    wrong_path: bool
    began: float
    answer_by: float = 0.0


class Node:
    """One node.  `pace` is how many sessions a second it closes, or loses, when it goes."""

    def __init__(
        self,
        index: int,
        clock: Clock,
        *,
        rate: float,
        backlog: int,
        pace: float,
        overflow: Overflow,
    ) -> None:
        self.index = index
        self.life = Life.UP
        self.sessions: dict[Guest, None] = {}
        #: Since it was last asked for; probes among them.
        self.connects = 0
        self._clock = clock
        self._full_rate = self._rate = rate
        self._backlog = backlog
        self._pace = pace
        self._overflow = overflow
        self._under_way: dict[_Dial, None] = {}
        self._busy_until = 0.0
        self._stuck = 0

    @property
    def is_well(self) -> bool:
        """Whether a balancer that knew all would use it."""
        return self.life is Life.UP and self._rate == self._full_rate

    @property
    def accepts(self) -> bool:
        """Whether a TCP connect succeeds now, which is all that a TCP check sees."""
        return self.life is not Life.DEAD and not self._is_full

    @property
    def _is_full(self) -> bool:
        if self.life is Life.FROZEN:
            return self._stuck >= self._backlog
        return (self._busy_until - self._clock.now) * self._rate >= self._backlog

    # What a balancer does with it.

    def dial(
        self,
        patience: Patience,
        then: Callable[[Outcome], object],
        *,
        wrong_path: bool = False,
    ) -> None:
        """Connect and ask for an upgrade; `then` is told what came of it."""
        self._connect(_Dial(patience, then, wrong_path, self._clock.now), 0)

    def _connect(self, dial: _Dial, tries: int) -> None:
        clock = self._clock
        if self.life is not Life.DEAD:
            self.connects += 1
        if self.life is Life.DEAD or (self._is_full and self._overflow == "refuse"):
            clock.after(_HOP, dial.then, Outcome.REFUSED)
        elif self._is_full:
            again, limit = dial.began + _AGAIN[tries], dial.began + dial.patience.connect
            if again < limit and tries + 1 < len(_AGAIN):
                clock.at(again, self._connect, dial, tries + 1)
            else:
                clock.at(limit, dial.then, Outcome.UNREACHED)
        else:
            dial.answer_by = clock.now + dial.patience.answer
            self._under_way[dial] = None
            if self.life is Life.FROZEN:
                self._stuck += 1
                clock.at(dial.answer_by, self._give_up, dial)
            else:
                self._serve(dial)

    def _serve(self, dial: _Dial) -> None:
        # Whoever gives up is served all the same: a node only finds out when it answers.
        now = self._clock.now
        self._busy_until = max(now, self._busy_until) + 1 / self._rate
        if self._busy_until <= dial.answer_by:
            self._clock.at(self._busy_until + _HOP, self._answer, dial)
        else:
            self._clock.at(dial.answer_by, self._give_up, dial)

    def _answer(self, dial: _Dial) -> None:
        if dial in self._under_way and self.life is not Life.FROZEN:
            del self._under_way[dial]
            dial.then(Outcome.CLOSED if dial.wrong_path else Outcome.OPENED)

    def _give_up(self, dial: _Dial) -> None:
        if dial in self._under_way:
            del self._under_way[dial]
            dial.then(Outcome.SILENT)

    # What happens to it.

    def exit(self) -> None:
        """Die: every connection breaks."""
        self.life = Life.DEAD
        self._end_all(Ending.LOST)
        for dial in self._under_way:
            self._clock.after(_HOP, dial.then, Outcome.CLOSED)
        self._under_way.clear()
        self._busy_until = 0.0

    def start(self) -> None:
        """Be up, and idle."""
        self.life = Life.UP
        self._rate = self._full_rate

    def interrupt(self, *, zombie: float, start: float) -> None:
        """Have SIGINT: close all sessions, exit at once or as a zombie later, and start again."""
        self.life = Life.LEAVING
        last = self.close_all()
        gone = max(self._clock.now + zombie, last + _EXIT)
        self._clock.at(gone, self.exit)
        self._clock.at(gone + start, self.start)

    def close_all(self) -> float:
        """Close all sessions; return when the last one will be closed."""
        return self._end_all(Ending.CLOSED)

    def _end_all(self, how: Ending) -> float:
        """End each session, one after the other; return when the last one will be over."""
        now, pause = self._clock.now, 1 / self._pace
        for count, guest in enumerate(self.sessions):
            self._clock.at(now + pause * count, self._end, guest, guest.epoch, how)
        return now + pause * len(self.sessions)

    @staticmethod
    def _end(guest: Guest, epoch: int, how: Ending) -> None:
        if guest.epoch == epoch:
            guest.ended(how)

    def freeze(self) -> None:
        """Stop, as by SIGSTOP."""
        self.life = Life.FROZEN
        self._stuck = len(self._under_way)
        for dial in self._under_way:
            self._clock.at(dial.answer_by, self._give_up, dial)
        for guest in self.sessions:
            guest.silenced()

    def thaw(self) -> None:
        """Go on with those who are still there."""
        self.life = Life.UP
        self._busy_until = self._clock.now
        for dial in self._under_way:
            self._serve(dial)
        for guest in self.sessions:
            guest.heard()

    def slow_down(self, rate: float) -> None:
        self._rate = rate

    def speed_up(self) -> None:
        self._rate = self._full_rate
