"""The express lane: a client's common requests, served without a task switch.

Theory.  A small request that is answered at once costs some 50 µs of system calls, TLS and reading
and writing heads.  A Trio task would add as much for each of the two waits, for the request and for
its answer: a turn of the scheduler, two changes of its epoll, a cancel scope for the deadline.  So
between two requests a connection's task is parked, and its socket is in the splicer's epoll, as a
session's are.  There a request is read, routed and put to a node over a kept connection, and its
answer sent on, by the same `Exchange` and `Forward` that serve any other request, as far as nothing
has to be waited for but the two sockets.

Whatever is not like that wakes the task, which goes on from there: a head or a body that is not all
here, no node or no kept connection, a handshake, an answer of the proxy's own, an answer in pieces
or none for a tenth of a second, an error.  So each deadline, retry and refusal is where it was.

A connection in the lane is quiet, or waits for an answer, or is handed over: its task was woken, or
cancelled, and has not had its turn yet.  Once it is handed over nobody touches it but the task: its
socket is out of the splicer, and whoever calls without a parked task is not heard.

What it sends, a request or a small answer, it puts aside, to be sent in a row with others at the
batch's end, as the splicer does with messages, and for the same reason.  Until then neither is out:
what a node says before is no answer, and a request is under way until its answer has gone.

Deadlines of the lane: a connection that nothing comes on is over after `timeouts.keepalive`, looked
after by one timer that is set anew only when it is due; and all requests that wait for an answer
are in one queue, since all have the same patience.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import outcome
import trio

from proxy.errors import ClientGone
from proxy.io.client_http import ClientHttp
from proxy.io.patience import Patience
from proxy.io.splicer import IN, Splicer
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport

from .exchange import Exchange

if TYPE_CHECKING:
    from .connection import Connection


#: What half a request counts for in the splicer's turn, where a session's message counts for one.
_WEIGHT: Final = 8
#: Up to how many bytes of an answer are put aside; larger ones are worth to be sent by themselves.
_ASIDE: Final = 4096


class Express:
    """One client's connection in the lane."""

    __slots__ = (
        "_connection",
        "_exchange",
        "_http",
        "_patience",
        "_quiet_since",
        "_result",
        "_splicer",
        "_task",
        "_waits",
        "events",
        "transport",
    )

    def __init__(
        self,
        connection: Connection,
        http: ClientHttp,
        transport: SocketTransport,
        splicer: Splicer,
        patience: Patience,
    ) -> None:
        self._connection = connection
        self._http = http
        self._splicer = splicer
        self._patience = patience
        self._exchange: Exchange | None = None
        #: For a node's answer.
        self._waits = False
        self._quiet_since = 0.0
        self._task: trio.lowlevel.Task | None = None
        self._result: outcome.Outcome[Exchange | None] | None = None
        #: What the splicer knows of the client's end.
        self.transport = transport
        self.events = 0

    async def serve(self, timers: Timers) -> Exchange | None:
        """Serve requests until one needs its task; return that one, as far as it has come.

        None: the connection carries no more.

        Raises:
            ClientGone: the client has hung up, or asked nothing for too long.
        """
        self._quiet_since = trio.current_time()
        timer = timers.timer(self._look)
        timer.hasten(self._quiet_since + self._keepalive)
        self._splicer.watch(self, IN)
        self._http.aside = _ASIDE
        try:
            while self._result is None:
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            result, self._result = self._result, None
            try:
                exchange = result.unwrap()
            finally:
                # Its traceback has this frame: together they would be a cycle.
                del result
            self._exchange = None
            return exchange
        finally:
            timer.cancel()
            self._http.aside = -1
            self._splicer.watch(self, 0)
            if self._exchange is not None:
                # Cancelled, or a bug.
                self._patience.end(self)
                self._exchange.abandon()

    @property
    def _keepalive(self) -> float:
        return self._connection.service.config.timeouts.keepalive

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self._splicer.watch(self, 0)
        return trio.lowlevel.Abort.SUCCEEDED

    def _end(self, result: outcome.Outcome[Exchange | None]) -> None:
        """Wake the task: until it has its turn, what comes is left where it is."""
        self._splicer.watch(self, 0)
        if self._task is not None:
            self._result = result
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def give_up(self) -> None:
        """Leave the request to the task, as far as it has come."""
        if self._task is None:
            return
        if self._waits:
            self._waits = False
            assert self._exchange is not None
            self._exchange.leave()
        self._end(outcome.Value(self._exchange))

    def _look(self) -> float:
        """End the connection if it was quiet for too long; return when to look again."""
        if self._exchange is not None:
            return trio.current_time() + self._keepalive
        until = self._quiet_since + self._keepalive
        if until <= trio.current_time():
            self._end(outcome.Error(ClientGone("It sent no request in time.")))
            return math.inf
        return until

    def ready(self, _: int) -> None:
        """Take what the client has sent."""
        try:
            self._receive()
        except Exception as exc:
            self._end(outcome.Error(exc))

    def push(self) -> None:
        """Send what was put aside: a request to a node, or its answer to the client."""
        if self._task is None or self._exchange is None:
            return
        try:
            if self._exchange.push():
                if not self._waits:
                    self._conclude()
            else:
                self._patience.end(self)
                self.give_up()
        except Exception as exc:
            self._end(outcome.Error(exc))

    def _receive(self) -> None:
        if self._exchange is not None:
            # It sends ahead, or has hung up: that can wait until it has its answer.
            self._splicer.watch(self, 0)
            return
        if not (self._http.receive_nowait() and self._http.has_begun):
            # Or an empty line behind the last request's body, which begins none.
            return
        now = trio.current_time()
        connection = self._connection
        self._exchange = exchange = Exchange(
            connection, self._http, connection.new_record(), first=False
        )
        if exchange.begin(now, self):
            self._waits = True
            self._patience.begin(self, now)
            self._splicer.unsent.append(self)
        else:
            self.give_up()
        # Behind all that: it may send what has just been put aside, and find that it cannot.
        self._splicer.spend(_WEIGHT)

    def answered(self) -> None:
        """Take what the node has sent, unless the task is about to see to it."""
        if self._task is None:
            return
        try:
            self._finish()
        except Exception as exc:
            self._end(outcome.Error(exc))
        self._splicer.spend(_WEIGHT)

    def _finish(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._patience.end(self)
        if exchange.finish(trio.current_time()):
            self._waits = False
            self._splicer.unsent.append(self)
        else:
            self.give_up()

    def _conclude(self) -> None:
        """Go on to the next request: all of this one's answer is out."""
        assert self._exchange is not None
        now = trio.current_time()
        exchange, self._exchange = self._exchange, None
        exchange.conclude(now)
        http = self._http
        if not http.next_request():
            self._end(outcome.Value(None))
        elif http.has_begun or self.transport.pending:
            exchange = Exchange(self._connection, http, self._connection.new_record(), first=False)
            self._end(outcome.Value(exchange))
        else:
            self._quiet_since = now
            self._splicer.watch(self, IN)
