"""How many TLS handshakes there are at a time, and in which order they get the CPU.

Theory.  A step of a handshake is 0.3 ms of OpenSSL's work with an ECDSA key, and 3 ms with one of
RSA 4096, as much as some 30 or 300 relayed messages.  In one turn of Trio's loop every task that is
ready gets one step, and the splicer, which moves the messages of all sessions, is one of these
tasks.  So where a hundred ClientHellos have come together, every session waits for 30 or 300 ms,
and meanwhile more of them come.

Hence the turnstile: a few steps of handshakes, then everybody else, then the next few.  To pass one
by one would be best for sessions; but a turn of the loop costs something too, a tenth of a new
session's CPU time, of which two at a time save most.

It is a semaphore with one thing more.  Who leaves hands its place to the next one, which runs in
the next turn.  But if nobody waits, another task may come in the same turn, and one more; nobody
can see from within where a turn ends.  So when as many have passed as may, all others go round
once, until a pause has shown that the turn must be another one.  Alone a handshake waits for
nothing.

The turn of the loop has other work as well, of the connections that come and go beside.  So that
sessions need not wait for its end, the splicer moves after each step what has come meanwhile
(`between`).

What waits for its turn has to be little: each has a socket, buffers and a deadline that comes
nearer.  So where there is a queue, who accepts waits in it as well (`io.listen`).  A flood is kept
by the kernel, in the listener's backlog, where it costs next to nothing, and each handshake that
has been begun goes on soon.  First come, first served: nobody is passed by for ever.

What waits for its client's next bytes is no work, but memory.  It is bounded by a number: beyond it
the oldest one is given up.  A client that means it is done after two round trips, and was not there
for long; one that holds its place with a byte now and then is the oldest before all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

#: After so long without a step the next one is in another turn, or in one that is lost anyway.
_PAUSE: Final = 0.005


def _nothing() -> None:
    pass


class Turnstile:
    """Lets `width` tasks pass in a turn of Trio's loop: `async with` around what awaits nothing."""

    def __init__(self, width: int) -> None:
        self.width = width
        #: Called after each, and wherever else a connection's beginning or end takes its time: work
        #: that is shorter, and should not wait for a whole turn.
        self.between: Callable[[], object] = _nothing
        self._inside = 0
        self._queue = trio.lowlevel.ParkingLot()
        #: How many more may pass at once, before the next pause.
        self._free = width
        self._quiet_at = float("-inf")

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    async def __aenter__(self) -> None:
        if self._inside >= self.width or self._queue:
            # Who leaves hands its place over.
            await self._queue.park()
            return
        if trio.current_time() >= self._quiet_at:
            self._free = self.width
        if self._free:
            self._free -= 1
            self._inside += 1
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self._inside += 1
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def __aexit__(self, *_: object) -> None:
        self.between()
        self._quiet_at = trio.current_time() + _PAUSE
        self._inside -= 1
        # They run in the next turn.  There may be room for several: the width is not for ever.
        while self._queue and self._inside < self.width:
            self._inside += 1
            self._queue.unpark()


class Handshakes:
    """Those of a process that are not finished, of which there are `most` at a time."""

    def __init__(self, most: int, width: int) -> None:
        self.turnstile = Turnstile(width)
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
