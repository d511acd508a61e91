"""How many TLS handshakes there are at a time, and in which order they get the CPU.

Theory.  A step of a handshake is 0.5 to 1.5 ms of OpenSSL's work, as much as a hundred relayed
messages.  In one turn of Trio's loop every task that is ready gets one step, and the splicer, which
moves the messages of all sessions, is one of these tasks.  So where a hundred ClientHellos have
come together, every session waits for a tenth of a second, and meanwhile more of them come.

Hence the turnstile: one step of one handshake, then everybody else, then the next one.  A second
one in the same turn would save some 20 µs of the loop's own work, and cost each session a
millisecond.  It is a lock with one thing more.  To hand it over takes a turn; but who lets go of it
with nobody waiting may be followed by a task in the same turn.  So that one goes round once too,
unless a pause has shown that this is another turn.  Alone, then, a handshake waits for nothing.

What waits for its turn has to be little: each has a socket, buffers and a deadline that comes
nearer.  So where there is a queue, who accepts waits in it as well (`io.listen`).  A flood is kept
by the kernel, in the listener's backlog, where it costs next to nothing, and each handshake that
has been begun goes on soon.  First come, first served: nobody is passed by for ever.

What waits for its client's next bytes is no work, but memory.  It is bounded by a number: beyond it
the oldest one is given up.  A client that means it is done after two round trips, and was not there
for long; one that holds its place with a byte now and then is the oldest before all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

import trio

#: After so long without a handshake the next one is not of the same turn.
_PAUSE: Final = 0.005


class Turnstile:
    """Lets one task pass in a turn of Trio's loop: `async with` around work that awaits nothing."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._quiet_at = float("-inf")

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return self._lock.locked()

    async def __aenter__(self) -> None:
        if self._lock.locked() or trio.current_time() < self._quiet_at:
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._quiet_at = trio.current_time() + _PAUSE
        self._lock.release()


class Handshakes:
    """Those of a process that are not finished, of which there are `most` at a time."""

    def __init__(self, most: int) -> None:
        self.turnstile = Turnstile()
        self.most = most
        self._unfinished: dict[trio.CancelScope, None] = {}

    def __len__(self) -> int:
        return len(self._unfinished)

    @contextmanager
    def counted(self, scope: trio.CancelScope) -> Iterator[None]:
        """Count one as long as the block runs; of too many the oldest has its scope cancelled."""
        while len(self._unfinished) >= self.most:
            oldest = next(iter(self._unfinished))
            del self._unfinished[oldest]
            oldest.cancel("too many handshakes")
        self._unfinished[scope] = None
        try:
            yield
        finally:
            self._unfinished.pop(scope, None)
