"""Leave at a pace: the one way in which sessions are sent away, whatever the reason.

Nothing can move a WebSocket but its client: it gets a Close and comes back, at once, to the node or
the proxy that takes it then.  So not too many may be sent away at a time.

Time is cut into turns of a second.  At the beginning of each it is decided when somebody leaves in
it, as the pace allows, and who: the quiet before the busy, then the oldest.  One that is within a
message when its time comes is passed over, for the next in line; at a deadline all are told that
are still there, and the Close of one within a message goes at the next boundary of a frame.

Who has to leave is said elsewhere: in `move`, and in `service` when the process ends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from operator import itemgetter
from typing import Final, NoReturn, Protocol

import attrs
import trio

from proxy.observe.log import LOG
from proxy.pool.rebalance import Movable, choose
from proxy.pool.schedule import Schedule
from proxy.wire.closing import Ending

#: How long a decision holds.
TURN: Final = 1.0
#: How often the log is told how far a drain has come.
_NEWS: Final = 5.0


class Leaver(Movable, Protocol):
    """What is asked of a session, and how it is told."""

    @property
    def is_ending(self) -> bool: ...

    def leave(self, ending: Ending, reason: str) -> None: ...


#: Returns up to so many who may leave, best first.
Pick = Callable[[int], Sequence[Leaver]]


@attrs.frozen
class DrainProgress:
    """How far a drain has come; times are Trio's, in seconds."""

    #: "shutdown", "node 10.0.0.7:6020" or "route /x".
    what: str
    #: Sessions there were in all, and how many of them are not over yet.
    total: int
    left: int
    #: So many a second are told to leave, at the moment.
    rate: float
    started: float
    #: When those are told who are still within a message.
    deadline: float


class Leave:
    """Sessions that leave for one reason, for as long as it is `still` there."""

    def __init__(
        self, ending: Ending, reason: str, schedule: Schedule, still: Callable[[], bool]
    ) -> None:
        #: When somebody leaves in this turn.
        self.times: list[float] = []
        self._ending: Ending = ending
        self._reason = reason
        self._schedule = schedule
        self._still = still
        self._line: deque[Leaver] = deque()

    def plan(self, now: float, until: float, rate: float, most: int, pick: Pick) -> None:
        """Decide when up to `most` of them leave from now until then, and who."""
        self.times = self._schedule.take(now, until, rate, most)
        # As many again, in place of those who will be within a message.
        self._line = deque(pick(2 * len(self.times)) if self.times else ())

    def next(self, time: float) -> None:
        """Have one leave, as was planned for this time."""
        while self._line:
            session = self._line.popleft()
            # What was true at the beginning of the turn may have changed.
            if session.is_between_messages and self._tell(session):
                return

    def _tell(self, session: Leaver) -> bool:
        if session.is_ending or not self._still():
            return False
        session.leave(self._ending, self._reason)
        return True


class Drain(Leave):
    """A leave that has an end: of so many sessions none is to be left, by a deadline.

    They leave faster than at the pace if they would not be gone by then.  `present` are those
    sessions, of this drain or not, that are not over yet.
    """

    def __init__(
        self,
        what: str,
        leave: tuple[Ending, str],
        schedule: Schedule,
        present: AbstractSet[Leaver],
        *,
        started: float,
        deadline: float,
        still: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(*leave, schedule, still)
        self.what = what
        self._present = present
        self._started = started
        self._deadline = deadline
        self._rate = 0.0
        self._total = 0
        self._sessions: frozenset[Leaver] = frozenset()
        self._waiting: list[Leaver] = []
        self._news_at = -math.inf

    @property
    def progress(self) -> DrainProgress:
        left = len(self._sessions & self._present)
        return DrainProgress(
            self.what, self._total, left, self._rate, self._started, self._deadline
        )

    def look(self, sessions: Iterable[Leaver]) -> int:
        """Take who has to leave, told so or not; return how many were not."""
        seen = frozenset(sessions)
        self._total += len(seen - self._sessions)
        self._sessions = seen
        self._waiting = [session for session in seen if not session.is_ending]
        return len(self._waiting)

    def turn(self, now: float, until: float, rate: float) -> None:
        """Decide about those whom `look` took, at this rate or, if that is too slow, faster."""
        waiting = self._waiting
        count, deadline = len(waiting), self._deadline
        self.times, self._rate = [], 0.0
        if waiting and now < deadline:
            self._rate = max(rate, self._schedule.rate(count, now, deadline))
            pick = partial(choose, waiting, now=now)
            self.plan(now, min(until, deadline), self._rate, count, pick)
        if waiting and deadline < until:
            self.times.append(max(now, deadline))
        self._tell_log(now)

    def next(self, time: float) -> None:
        if time < self._deadline:
            super().next(time)
        else:
            for session in self._waiting:
                self._tell(session)

    def _tell_log(self, now: float) -> None:
        if self._news_at == -math.inf:
            facts = {"sessions": self._total, "deadline": self._deadline - self._started}
            self._log("draining", rate=round(self._rate, 2), **facts)
        elif now >= self._news_at:
            self._log("drain", total=self._total, left=self.progress.left)
        else:
            return
        self._news_at = now + _NEWS

    def end(self, now: float) -> None:
        """Say that it is over: all have left, or they may stay."""
        facts = {"total": self._total, "seconds": round(now - self._started, 3)}
        if left := self.progress.left:
            self._log("drain stopped", left=left, **facts)
        else:
            self._log("drained", **facts)

    def _log(self, event: str, **facts: object) -> None:
        LOG.info(event, extra={"what": self.what, **facts})


async def turns(plan: Callable[[float, float], Iterable[Leave]]) -> NoReturn:
    """Turn by turn, have those leave whom `plan` has leave from now until then."""
    now = trio.current_time()
    while True:
        leaves = plan(now, now + TURN)
        due = [(time, leave) for leave in leaves for time in leave.times]
        for time, leave in sorted(due, key=itemgetter(0)):
            await trio.sleep_until(time)
            leave.next(time)
        # On time, lest every turn be a little too long; but what is missed for long is missed.
        now = max(now + TURN, trio.current_time() - TURN)
        await trio.sleep_until(now)
