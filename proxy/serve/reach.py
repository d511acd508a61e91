"""Find a node that answers: choose, ask, and on failure choose another.

All tries of one request share one deadline.  Nothing has been sent to the client meanwhile, so it
sees one handshake, which took a little longer, where a node has just died.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from proxy.errors import NodeError
from proxy.io.http1 import NodeHttp
from proxy.io.transport import SocketTransport
from proxy.observe.record import Record
from proxy.pool.node import Lease, Node
from proxy.pool.upstream import Upstream

from .service import Service

T = TypeVar("T")


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
    #: Whether another node can be asked after this one.
    others: bool
    stream: trio.abc.Stream | None = None

    def limit(self, seconds: float) -> float:
        """Return how long a step may take that has `seconds` by itself."""
        return max(0.0, min(seconds, self.deadline - trio.current_time()))

    async def dial(self) -> NodeHttp:
        """Connect to the node.

        Raises:
            DialError: it can't be reached.
        """
        started = trio.current_time()
        limit = self.limit(self.service.config.timeouts.dial)
        self.stream = await self.service.dial(self.upstream, self.node.address, limit)
        self.record.dial_time = trio.current_time() - started
        return NodeHttp(self.stream, self.node.name)

    async def release(self) -> None:
        """Hang up on the node and let go of it."""
        self.lease.release()
        if isinstance(self.stream, SocketTransport):
            self.stream.close()
        elif self.stream is not None:
            await trio.aclose_forcefully(self.stream)


async def reach(
    service: Service,
    upstream: Upstream,
    ask: Callable[[Attempt], Awaitable[T]],
    record: Record,
    *,
    repeatable: Callable[[NodeError], bool] = lambda error: error.retry,
) -> tuple[Attempt, T]:
    """Ask one node after the other, all within `timeouts.reach`, until one has answered.

    `repeatable` says whether another node may be asked after this error.  Returns the attempt that
    was answered, which the caller releases, and the answer.

    Raises:
        NodeError: the last one's, when all that could be asked have failed.
        NoNode: there was nobody to ask.
    """
    deadline = trio.current_time() + service.config.timeouts.reach
    tried: list[Node] = []
    error: NodeError | None = None
    try:
        while (node := upstream.choose(trio.current_time(), tried)) is not None:
            tried.append(node)
            record.node, record.attempts = node.name, len(tried)
            others = upstream.any_left(trio.current_time(), tried)
            attempt = Attempt(service, upstream, node.lease(), node, record, deadline, others)
            try:
                return attempt, await ask(attempt)
            except NodeError as exc:
                await attempt.release()
                error = exc
                late = trio.current_time() >= deadline
                if not late or len(tried) == 1:
                    # The last of several may just have had too little time left.
                    upstream.note(node, exc, trio.current_time())
                if late or not repeatable(exc):
                    raise
            except BaseException:
                await attempt.release()
                raise
        raise error or upstream.nobody(trio.current_time())
    finally:
        # Its traceback has this frame: together they would be a cycle.
        error = None
