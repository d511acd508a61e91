"""Tidegate: the real `proxy.pool`, carried out by events in place of Trio tasks.

Every decision is the pool's.  What stands here and in `driver` says `proxy.serve` over again, turn
by turn, and has to follow it: `Tidegate` is what `serve/connection.py` and `serve/keep.py` do,
`TidegateRebalancing` does the turns of `serve/move.py` too.  The configuration is the default one,
with probes as conf/ has them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.config.address import Address
from proxy.config.model import Timeouts
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Probe, Rebalance
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.pool.node import Lease
from proxy.pool.node import Node as PoolNode
from proxy.pool.rebalance import choose_surplus, surplus
from proxy.pool.schedule import Schedule
from proxy.pool.upstream import Upstream
from proxy.serve.leave import TURN
from proxy.wire.closing import NO_STATUS

from .clients import Client, Request
from .driver import Reach, Watch
from .nodes import Ending, Node

if TYPE_CHECKING:
    from .world import World

__all__ = ["Tidegate", "TidegateRebalancing", "TidegateWorkers"]

#: 100,000 sessions at the default `limits.connections`.
_WORKERS: Final = 10


class Tidegate:
    """The pool and what drives it."""

    def __init__(
        self, world: World, *, name: str = "tidegate", rebalance: Rebalance | None = None
    ) -> None:
        addresses = [Address(host="10.0.0.1", port=6020 + node.index) for node in world.nodes]
        config = UpstreamConfig(
            nodes=tuple(NodeConfig(address=address) for address in addresses),
            probe=Probe(kind="deepstream"),
            rebalance=rebalance,
        )
        self.clock = world.clock
        self.random = world.random(name)
        self.timeouts = Timeouts()
        self.close_wait = self.timeouts.close
        self.upstream = Upstream("deepstream", world.config.adjust(config), self.random)
        self.upstream.changed = self._changed
        #: The nodes as they are, by what the pool thinks of them.
        self.nodes: dict[PoolNode, Node] = dict(zip(self.upstream.nodes, world.nodes, strict=True))
        self._watches = [Watch(self, seen, node) for seen, node in self.nodes.items()]
        self._leases: dict[Client, Lease] = {}
        self._turns = 0
        self._woken = False

    def start(self) -> None:
        for watch in self._watches:
            watch.start()

    def adopt(self, client: Client, node: Node) -> None:
        self._leases[client] = self._seen(node).lease()

    def ask(self, request: Request) -> None:
        Reach(self, request).next(None)

    def opened(self, request: Request, node: Node, lease: Lease) -> None:
        """Have a session, with the lease that it keeps to its end."""
        if request.client is None:
            raise AssertionError("a wrong path is never opened")
        self._leases[request.client] = lease
        request.opened(node)

    def ended(self, client: Client, node: Node, how: Ending) -> None:
        seen = self._seen(node)
        if how is Ending.CLOSED:
            self.upstream.closed_by_node(seen, NO_STATUS, self.clock.now)
        elif how is Ending.LOST:
            self.upstream.lost_by_node(seen)
        self._leases.pop(client).release()

    def uses(self, node: Node) -> bool:
        return self._seen(node).takes(self.clock.now)

    def _seen(self, node: Node) -> PoolNode:
        return self.upstream.nodes[node.index]

    def _changed(self) -> None:
        for watch in self._watches:
            if watch.seen.health.suspect:
                watch.nudge()
        if not self._woken:
            self._woken = True
            self._turns += 1
            self.clock.after(0.0, self._release, self._turns)

    def _release(self, turn: int) -> None:
        """Let go those who may go: one turn of `Keeper._release`."""
        if turn != self._turns:
            return
        self._woken = False
        pause = self.upstream.release(self.clock.now)
        if pause < math.inf and not self._woken:
            self._turns += 1
            self.clock.after(pause, self._release, self._turns)


class TidegateRebalancing(Tidegate):
    """The same with `rebalance = {}`: what that is by default, once it is asked for."""

    def __init__(self, world: World) -> None:
        super().__init__(world, rebalance=Rebalance())
        self._schedule = Schedule(self.upstream.config.drain.jitter, self.random.random)

    def start(self) -> None:
        super().start()
        self._move()

    def _move(self) -> None:
        """Move whom the pool wants moved: one turn of `serve/move.py`."""
        config, now = self.upstream.config.rebalance, self.clock.now
        assert config is not None
        self.clock.after(TURN, self._move)
        excess = surplus(self.upstream.nodes, now, config.tolerance)
        times = self._schedule.take(now, now + TURN, config.rate, sum(excess.values()))
        if not times:
            return
        guests = {
            seen: [guest for guest in self.nodes[seen].sessions if isinstance(guest, Client)]
            for seen in excess
        }
        chosen = choose_surplus(guests, excess, 2 * len(times), now)
        line = deque((client, client.epoch) for client in chosen)
        for time in times:
            self.clock.after(time - now, self._next, line)

    @staticmethod
    def _next(line: deque[tuple[Client, int]]) -> None:
        while line:
            client, epoch = line.popleft()
            if client.epoch == epoch:
                client.ended(Ending.MOVED)
                return


class TidegateWorkers:
    """Ten processes, each with a pool of its own; the kernel spreads the clients over them."""

    def __init__(self, world: World) -> None:
        self._workers = [Tidegate(world, name=f"tidegate {n}") for n in range(_WORKERS)]
        self._random = world.random("tidegate workers")
        self._by_client: dict[Client, Tidegate] = {}
        self.close_wait = self._workers[0].close_wait

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def adopt(self, client: Client, node: Node) -> None:
        self._spread(client).adopt(client, node)

    def ask(self, request: Request) -> None:
        self._spread(request.client).ask(request)

    def ended(self, client: Client, node: Node, how: Ending) -> None:
        self._by_client[client].ended(client, node, how)

    def uses(self, node: Node) -> bool:
        return any(worker.uses(node) for worker in self._workers)

    def _spread(self, client: Client | None) -> Tidegate:
        worker = self._random.choice(self._workers)
        if client is not None:
            self._by_client[client] = worker
        return worker
