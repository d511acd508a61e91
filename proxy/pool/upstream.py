"""A named pool of nodes: who may be asked, in which order, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from proxy.config.address import Address
from proxy.config.checks import is_numeric
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import ClosedEarly, DialError, NodeError, NoNode

from .budget import RetryBudget
from .hold import HoldQueue
from .node import Admin, Node
from .pace import Pace
from .policy import POLICIES, Random

#: How many requests a second may try a node that is thought to be down.
LAST_RESORTS = 10.0
#: How many times faster those who wait are let go to nodes past their slow start.
WARM_PACE = 10


class Upstream:
    """The nodes under one name, the policy that chooses among them, and those who wait for one.

    `random` is for the policies that draw.  `changed` is called whenever there may be room where
    there was none, or a node wants to be probed at once; whoever drives the pool sets it.
    """

    def __init__(self, name: str, config: UpstreamConfig, random: Random) -> None:
        self.name = name
        self.config = config
        #: A name's addresses join when they are known.
        self.nodes = [
            Node(node, config, freed=self._freed)
            for node in config.nodes
            if not needs_resolving(node.address)
        ]
        self.hold: HoldQueue = HoldQueue(config.hold)
        self.changed: Callable[[], None] = _nobody
        #: What each name stands for; one address may have several.  None: it is new, nobody knows.
        self._answers: dict[Address, dict[Address, None] | None] = {}
        self._random = random
        self._last_resorts = Pace(LAST_RESORTS)
        #: For plain requests.
        self.retries = RetryBudget()
        self._policy = POLICIES[config.balance]

    def _join(self, config: NodeConfig, address: Address, joined: float | None) -> Node:
        return Node(config, self.config, address=address, joined=joined, freed=self._freed)

    def _freed(self) -> None:
        if len(self.hold):
            self.changed()

    def first(self, now: float, key: bytes = b"") -> Node | None:
        """Return the node to ask for a new request, None if it has to queue.

        It queues behind those who wait already; and where all nodes have just come back, it goes
        at the queue's pace: else all clients would meet the first node that is there.
        """
        candidates, hold = self._candidates(now), self.hold
        if not candidates or len(hold) or (hold.under_way and self._room(candidates) <= 0):
            return None
        cold = not candidates[0].is_warm(now) and self.config.hold.timeout
        if cold and not (
            any(node.is_warm(now) for node in candidates) or hold.admit(now, len(candidates))
        ):
            return None
        if len(candidates) == 1:
            return candidates[0]
        return self._policy(candidates, now, key, self._random)

    def choose(self, now: float, tried: Collection[Node] = (), key: bytes = b"") -> Node | None:
        """Return the node to ask next, None if none is left that may be asked and was not tried."""
        candidates = self._candidates(now, tried)
        return self._policy(candidates, now, key, self._random) if candidates else None

    def any_left(self, now: float, tried: Collection[Node]) -> bool:
        """Whether `choose` would find a node, which it would then count on."""
        return bool(self._candidates(now, tried))

    def _candidates(self, now: float, tried: Collection[Node] = ()) -> list[Node]:
        """Return who may be asked: backups only when no other node takes sessions at all."""
        taking = [node for node in self.nodes if node.takes(now)]
        first = [node for node in taking if not node.backup]
        return [node for node in first or taking if node.has_room and node not in tried]

    def room(self, now: float) -> int:
        """Return how many sessions there is room for."""
        return max(0, self._room(self._candidates(now)))

    def _room(self, candidates: Iterable[Node]) -> int:
        """Return how many sessions there is room for, besides those who are on their way."""
        return sum(node.room for node in candidates) - self.hold.under_way

    def release(self, now: float) -> float:
        """Let go those who may; return the seconds until, if nothing else happens, more may."""
        if not len(self.hold):
            return math.inf
        candidates = self._candidates(now)
        if not candidates:
            return self.next_change(now) - now
        room = self._room(candidates)
        if room <= 0:
            return math.inf
        # A node that was there all the time is not met by a stampede; the queue should be short.
        warm = any(node.is_warm(now) for node in candidates)
        self.hold.release(now, room, len(candidates) * (WARM_PACE if warm else 1))
        return self.hold.wait(now)

    def next_change(self, now: float) -> float:
        """Return when, if nothing else happens, another node may be asked; infinity: never."""
        times = [t for node in self.nodes for t in (node.health.rests_until, node.drain.until())]
        return min((t for t in times if t > now), default=math.inf)

    def last_resort(self, now: float, tried: Collection[Node] = ()) -> Node | None:
        """Return the node to try when all are down: the one whose failure is the oldest.

        Never one that was taken out by hand, is draining, gone or full; and only a few times a
        second, for all who have waited in vain have done so together.
        """
        least_bad = [
            node
            for node in self.nodes
            if node not in tried
            and node.admin == "ready"
            and not node.gone
            and not node.drain.draining(now)
            and node.room
        ]
        if not least_bad or not self._last_resorts.take(now, 1):
            return None
        return min(least_bad, key=lambda node: (node.backup, node.health.failed_at))

    def note(self, node: Node, error: NodeError, now: float) -> None:
        """Take notice of how asking a node failed."""
        if error.counts:
            node.failed(now, unreachable=isinstance(error, DialError))
        elif isinstance(error, ClosedEarly):
            node.health.suspect = True
        if node.health.suspect:
            self.changed()

    def closed_by_node(self, node: Node, code: int, now: float) -> bool:
        """Take notice of a Close that a node sent first; return whether the node is now draining.

        The only one that takes sessions never is: better a dying node than none.  Nor are more than
        half of all: when they all close their sessions at once, it is the network.
        """
        others = any(one is not node and one.takes(now) for one in self.nodes)
        draining = sum(one.drain.draining(now) for one in self.nodes)
        if (
            others
            and 2 * (draining + 1) <= len(self.nodes)
            and node.drain.closed_by_node(now, code, node.sessions)
        ):
            # The backups may be asked now; and should it be gone already, a probe can tell.
            node.health.suspect = True
            self.changed()
            return True
        return False

    def lost_by_node(self, node: Node) -> None:
        """Take notice that a session's connection broke off: it may be the first of all."""
        node.health.suspect = True
        self.changed()

    def set_admin(self, node: Node, admin: Admin, now: float) -> None:
        """Have a node as the operator wants it; back from being out it starts slowly."""
        if admin == "ready" and node.admin != "ready":
            node.health.back_since = now
        node.want(now, admin=admin)
        self.changed()

    def resolved(self, config: NodeConfig, addresses: Iterable[Address], now: float) -> bool:
        """Take a name's addresses: new ones join, those that vanished are gone, but keep sessions.

        Returns whether anything is new.
        """
        # Those that are there at the start of the proxy are not warmed: all would be alike.
        joined = now if config.address in self._answers else None
        # Their order is a random one, which a set would not keep.
        self._answers[config.address] = dict.fromkeys(addresses)
        new = self._arrange(now, joined)
        if new:
            self.changed()
        return new

    def reconfigure(self, config: UpstreamConfig, now: float) -> None:
        """Go by another configuration.

        By address, nodes keep what is known of them and who holds on to them.  New ones join as a
        name's new address does, and those that vanished are gone as those are.  Whoever waits does
        so in the same place.
        """
        known = {node.address for node in self.config.nodes}
        self._answers = {
            node.address: self._answers.get(node.address)
            for node in config.nodes
            # A name that nobody has answered for since the beginning is as it was then.
            if node.address in self._answers
            or (needs_resolving(node.address) and node.address not in known)
        }
        self.config = config
        self._policy = POLICIES[config.balance]
        self.hold.reconfigure(config.hold)
        self._arrange(now, now)
        self.changed()

    def _wanted(self) -> dict[Address, NodeConfig]:
        """Return every address that should be a node, and where its settings stand.

        What stands there as an address goes before the names that stand for it.
        """
        nodes = self.config.nodes
        wanted = {node.address: node for node in nodes if not needs_resolving(node.address)}
        for node in nodes:
            for address in self._answers.get(node.address) or ():
                wanted.setdefault(address, node)
        return wanted

    def _arrange(self, now: float, joined: float | None) -> bool:
        """Have those for nodes who are wanted; return whether anybody joins or is to leave."""
        wanted = self._wanted()
        before = {node.address for node in self.nodes if node.wanted}
        for node in self.nodes:
            node.wanted = node.address in wanted
            node.reconfigure(wanted.get(node.address, node.config), self.config, now)
            if node.wanted and node.gone:
                node.want(now, gone=False)
                node.health.back_since = now
        known = {node.address for node in self.nodes}
        self.nodes += [
            self._join(config, address, joined)
            for address, config in wanted.items()
            if address not in known
        ]
        self._let_go(now)
        return before != wanted.keys()

    def _let_go(self, now: float) -> bool:
        """Have those gone who are not wanted, and drop them if nobody holds on to them.

        Not before something is known of those who come in their place: a name may stand for the
        same addresses, and of new nodes none takes a session before its first probe.
        """
        news = any(answer is None for answer in self._answers.values()) or any(
            node.wanted and node.health.state == "unknown" for node in self.nodes
        )
        leaving = [] if news else [n for n in self.nodes if not (n.wanted or n.gone)]
        for node in leaving:
            node.want(now, gone=True)
        self.nodes = [node for node in self.nodes if not node.gone or node.sessions]
        return bool(leaving)

    def forget_gone(self, now: float) -> None:
        """Let nodes go that had to stay for others to come; drop those that nobody holds on to."""
        if self._let_go(now):
            self.changed()

    @property
    def busy(self) -> bool:
        """Whether anybody holds on to a node, or waits for one."""
        waiting = len(self.hold) + self.hold.under_way
        return bool(waiting) or any(node.sessions for node in self.nodes)

    def end(self) -> None:
        """Tell nobody anything any more: it is forgotten, but for who may still hold on to it."""
        # Its nodes know it: together they would be a cycle, for the garbage collector to find.
        self.changed = _nobody
        for node in self.nodes:
            node.freed = _nobody

    def nobody(self, now: float) -> NoNode:
        """Return the error of a request for which there is nobody to ask."""
        soonest = min((node.health.rests_until for node in self.nodes), default=now) - now
        return NoNode(
            self.name,
            status=self.config.unavailable_status,
            retry_after=max(1, math.ceil(soonest)),
        )


def _nobody() -> None:
    """Stand in for whoever would be told."""


def needs_resolving(address: Address) -> bool:
    """Whether an address is a name, which stands for any number of addresses."""
    return bool(address.srv or (address.host and not is_numeric(address.host)))
