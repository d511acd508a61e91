"""Find a node that answers: choose, ask, and on failure choose another; wait where there is none.

Nothing has been sent to the client meanwhile, so it sees one handshake, which took a little longer,
where a node has just died, or all of them have.  A client of deepstream has five failed tries
before it is dead for good: waiting costs it none.

The tries of one request share `timeouts.reach`; while it is held in the queue that clock stands,
and `hold.timeout` is the limit.  After that it may try one node that is thought to be down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from proxy.errors import ClientGone, Draining, HoldFull, NodeError, Refusal
from proxy.io.kept import Line
from proxy.io.node_http import NodeHttp
from proxy.io.transport import SocketTransport
from proxy.observe.record import Record
from proxy.pool.node import Lease, Node
from proxy.pool.upstream import Upstream
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts
from proxy.wire.keys import hash_key
from proxy.wire.proxy_protocol import Source, build

from .service import Service

T = TypeVar("T")


def key_of(upstream: Upstream, request: Request, target: str, facts: ClientFacts) -> bytes:
    """Return what the policy `hash` goes by; for the others it is no matter.

    `target` is as the client sent it: what the route makes of it may have lost the query.
    """
    if upstream.config.balance != "hash":
        return b""
    return hash_key(upstream.config.hash_on, facts.address, target.encode(), request.headers)


def client_key(upstream: Upstream, address: str) -> bytes:
    """Return the same where nothing is known of a client but its address."""
    if upstream.config.balance != "hash":
        return b""
    return hash_key(upstream.config.hash_on, address, b"", [])


@attrs.define(eq=False)
class Attempt:
    """One try at one node, with the lease and the connection it has until `release`."""

    service: Service
    upstream: Upstream
    lease: Lease
    node: Node
    record: Record
    #: When all tries of this request are over.
    deadline: float
    #: Tells whether another node can be asked after this one.
    others: Callable[[], bool]
    stream: trio.abc.Stream | None = None
    #: The same while it is in the splicer.
    line: Line | None = None
    #: Of the kept connections, when this one was made or taken: since then a reload may have come.
    _generation: int = 0

    def kept(self) -> NodeHttp | None:
        """Return a connection to the node that has carried a request before, if there is one."""
        node = self.take_line(trio.current_time())
        self.leave_line()
        return node

    def take_line(self, now: float, *, quiet: bool = True) -> NodeHttp | None:
        """Do the same, and leave the connection in the splicer: it is this attempt's `line` then.

        `quiet` is as in `Kept.take`.
        """
        kept = self.service.kept
        self._generation = kept.generation
        self.line = line = kept.take(self.node, now, quiet=quiet)
        if line is None:
            return None
        self.stream = line.transport
        return NodeHttp(self.stream, self.node.name, kept=True, lines=line.lines)

    def leave_line(self) -> None:
        """Take the connection out of the splicer, for a task to go on with."""
        if self.line is not None:
            self.line.leave()
            self.line = None

    def limit(self, seconds: float) -> float:
        """Return how long a step may take that has `seconds` by itself."""
        return max(0.0, min(seconds, self.deadline - trio.current_time()))

    async def dial(self, source: Callable[[], Source]) -> NodeHttp:
        """Connect to the node, to speak HTTP; see `connect`."""
        return NodeHttp(await self.connect(source), self.node.name)

    async def connect(self, source: Callable[[], Source]) -> trio.abc.Stream:
        """Connect to the node; `source` tells whom it is for, if the node wants to know.

        Raises:
            DialError: it can't be reached.
        """
        started = trio.current_time()
        limit = self.limit(self.service.config.timeouts.dial)
        version = self.upstream.config.proxy_protocol
        header = build(version, source()) if version else b""
        self._generation = self.service.kept.generation
        self.stream = await self.service.dial(self.upstream, self.node, limit, header)
        self.record.dial_time = trio.current_time() - started
        return self.stream

    async def hang_up(self) -> None:
        """Close the connection to the node."""
        if isinstance(self.stream, SocketTransport):
            self.stream.close()
        elif self.stream is not None:
            await trio.aclose_forcefully(self.stream)

    async def release(self, *, keep: bool = False) -> None:
        """Let go of the node, and hang up on it, or keep the connection for another request."""
        self.lease.release()
        config = self.upstream.config
        if keep and config.keeps_connections and isinstance(self.stream, SocketTransport):
            until = trio.current_time() + config.keepalive_idle
            bounds = config.keepalive, until, self._generation
            self.service.kept.keep(self.node, self.stream, *bounds)
        else:
            await self.hang_up()

    def release_line(self, now: float, *, keep: bool = False) -> None:
        """Do the same with the `line`."""
        self.lease.release()
        assert self.line is not None
        if keep:
            config = self.upstream.config
            until = now + config.keepalive_idle
            self.service.kept.put_back(self.line, config.keepalive, until, self._generation)
        else:
            self.line.close()


@attrs.define(eq=False)
class Reach:
    """One request on its way to a node.

    `key` is what the policy `hash` goes by.  `hung_up` returns when the client has gone, for a
    request that waits.  `repeatable` says whether another node may be asked after an error.  `only`
    is the address of the one node that may be asked, None: any; for that one nobody waits.
    """

    service: Service
    upstream: Upstream
    record: Record
    key: bytes = b""
    hung_up: Callable[[], Awaitable[object]] = trio.sleep_forever
    repeatable: Callable[[NodeError], bool] = lambda error: error.retry
    only: str | None = None
    #: When it has begun.
    now: float = attrs.field(factory=trio.current_time)
    _began: float = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)
    _held_until: float | None = attrs.field(init=False, default=None)
    _tried: list[Node] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._restart(self.now)

    def _restart(self, now: float) -> None:
        self._began = now
        self._deadline = self._began + self.service.config.timeouts.reach
        self._tried.clear()

    def begin(self) -> Attempt | None:
        """Choose the first node if that needs no waiting, for `ask` to go on with."""
        node = self.upstream.first(self._began, self.key)
        return None if node is None else self._attempt(node)

    async def ask(
        self, ask: Callable[[Attempt], Awaitable[T]], attempt: Attempt | None = None
    ) -> tuple[Attempt, T]:
        """Ask one node after the other, the one of `attempt` first, until one has answered.

        Returns the attempt that was answered, which the caller releases, and the answer.

        Raises:
            NodeError: the last one's, when all that could be asked have failed.
            NoNode: there was nobody to ask, however long it waited.
            HoldFull, Draining, ClientGone: it could not wait, or needs not any more.
        """
        error: NodeError | None = None
        try:
            while True:
                last_resort = False
                if attempt is None:
                    node = await self._next(error)
                    last_resort = node is None
                    if node is None and (node := self._last_resort()) is None:
                        raise error or self._nobody()
                    attempt = self._attempt(node)
                asked, attempt = attempt, None
                try:
                    return asked, await ask(asked)
                except NodeError as exc:
                    await asked.release()
                    error = exc
                    self._failed(asked.node, exc)
                    if last_resort:
                        raise self._nobody() from exc
                except BaseException:
                    await asked.release()
                    raise
        finally:
            # Its traceback has this frame: together they would be a cycle.
            error = None

    async def _next(self, error: NodeError | None) -> Node | None:
        """Return the node to ask, waiting for one if need be; None if that was in vain."""
        upstream = self.upstream
        if self.only is not None:
            return None if error else self._only_node(self.only)
        if not self._tried:
            if (node := upstream.first(self._began, self.key)) is not None:
                return node
            if not await self._hold():
                return None
        while True:
            now = trio.current_time()
            if (node := upstream.choose(now, self._tried, self.key)) is not None:
                return node
            if error is not None and upstream.any_left(now, ()):
                # All that may be asked have been; another try would be the same again.
                raise error
            if not await self._hold():
                return None

    def _only_node(self, address: str) -> Node | None:
        now = trio.current_time()
        for node in self.upstream.nodes:
            if node.name == address and node.takes(now) and node.room:
                return node
        return None

    async def _hold(self) -> bool:
        """Wait in the queue; return whether there is a node now, False when the time is over."""
        limit, queue = self.upstream.config.hold.timeout, self.upstream.hold
        began = trio.current_time()
        if self._held_until is None:
            self._held_until = began + limit
        if began >= self._held_until:
            return False
        if self.service.draining:
            raise Draining
        let_go = trio.Event()
        if not queue.join(let_go.set):
            raise HoldFull
        self.upstream.changed()
        try:
            gone = await self._wait(let_go, self._held_until)
            if not (gone or let_go.is_set()) and self.upstream.any_left(trio.current_time(), ()):
                # There is a node, and the queue moves: it would be a pity to lose one's place.
                gone = await self._wait(let_go, self._held_until + limit)
        finally:
            queue.leave(let_go.set)
            if let_go.is_set():
                # Whoever was let go in vain leaves its place to the next.
                queue.arrived()
                self.upstream.changed()
            waited = trio.current_time() - began
            self.record.hold_time = (self.record.hold_time or 0.0) + waited
        if gone:
            raise ClientGone("It hung up while it waited for a node.")
        if self.service.draining:
            raise Draining
        self._restart(trio.current_time())
        return let_go.is_set()

    async def _wait(self, let_go: trio.Event, until: float) -> bool:
        """Return whether the client has gone."""
        with trio.move_on_at(until):
            return await gone_before(self.hung_up, let_go.wait)
        return False

    def _last_resort(self) -> Node | None:
        if self.only is not None or self.upstream.config.panic == "refuse":
            return None
        return self.upstream.last_resort(trio.current_time(), self._tried)

    def _nobody(self) -> Refusal:
        return self.upstream.nobody(trio.current_time())

    def _attempt(self, node: Node) -> Attempt:
        self._tried.append(node)
        record = self.record
        record.node, record.attempts = node.name, record.attempts + 1
        lease = node.lease()
        return Attempt(
            self.service, self.upstream, lease, node, record, self._deadline, self._others
        )

    def _others(self) -> bool:
        """Whether another node can be asked after those that were."""
        return self.only is None and self.upstream.any_left(trio.current_time(), self._tried)

    def _failed(self, node: Node, error: NodeError) -> None:
        """Note a failure; raise it again if no other node may be asked after it."""
        now = trio.current_time()
        late = now >= self._deadline
        if not late or len(self._tried) == 1:
            # The last of several may just have had too little time left.
            self.upstream.note(node, error, now)
        if late or not self.repeatable(error):
            raise error


async def gone_before(
    hung_up: Callable[[], Awaitable[object]], done: Callable[[], Awaitable[object]]
) -> bool:
    """Wait for something to be done, or for the client to hang up; return whether it was that."""
    gone = False

    async def watch() -> None:
        nonlocal gone
        await hung_up()
        gone = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await done()
        nursery.cancel_scope.cancel()
    return gone
