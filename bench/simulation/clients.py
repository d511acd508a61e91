"""deepstream's JS client: how it loses a session, comes back, and when it gives up.

From its source (7.0.5, `Connection.tryReconnect`) and as measured (reference/deepstream.md 1.8):
each failure, the loss of a session among them, sets a timer of 4 s times the failures before it,
without jitter, and after five failed tries the client is CLOSED for good; a WebSocket that opens
sets the count back.  So a client that has lost its session comes back after 0, 4, 12, 24 and 40 s,
and one that is new has a try more.  It has no time-out for a handshake: who is held just waits.

A session that is silent is given up when no message has come for 60 s, which is looked at every
30 s; then the client waits for the end of the closing handshake, which a frozen node never ends.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from .nodes import Ending, Life, Node

if TYPE_CHECKING:
    from .world import World

__all__ = ["Client", "Request"]

_TRIES: Final = 5
_INCREMENT: Final = 4.0
_LONGEST: Final = 180.0
_HEARTBEAT: Final = 30.0


class Client:
    """One client, which is replaced by a new one when it leaves; not when it is lost."""

    __slots__ = (
        "_failures",
        "_phase",
        "_since",
        "_travel",
        "_world",
        "dead",
        "epoch",
        "node",
        "opened",
        "worst",
    )

    #: It is quiet and between two messages, whenever it is asked.
    quiet_since: float = -1e9
    is_between_messages: bool = True

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        # From a loss to a request at the balancer: the Close, TCP, TLS and the request take three
        # times there and back.
        self._travel = 3 * min(0.5, 0.005 + random.expovariate(1 / 0.04))
        self._phase = random.random()
        self._failures = 0
        self._since: float | None = None
        self.node: Node | None = None
        self.opened = 0.0
        self.epoch = 0
        #: The longest time it had no session that worked.
        self.worst = 0.0
        self.dead = False

    def settle(self, node: Node) -> None:
        """Have a session."""
        self.node, self.opened = node, self._world.clock.now
        self.epoch += 1
        node.sessions[self] = None
        self._failures = 0
        self.heard()

    def fail(self) -> None:
        """Have a handshake answered with an error."""
        if self._failures >= _TRIES:
            self.dead = True
            self._world.tally.lost += 1
            return
        delay = min(_LONGEST, _INCREMENT * self._failures)
        self._failures += 1
        self._world.clock.after(delay + self._travel, self._knock)

    def _knock(self) -> None:
        self._world.balancer.ask(Request(self._world, self))

    def out_for(self, now: float) -> float:
        """Return since how long it has no session that works."""
        return 0.0 if self._since is None else now - self._since

    # What a node, or the balancer, does to its session.

    def ended(self, how: Ending) -> None:
        world, node = self._world, self.node
        if node is None:
            return
        self.node = None
        self.epoch += 1
        del node.sessions[self]
        world.balancer.ended(self, node, how)
        if how is Ending.LEFT:
            # Whoever comes in its place has a first try, which is no retry.
            self._since, self._failures = None, 0
            world.clock.after(self._travel, self._begin)
        else:
            world.tally.cut += 1
            if self._since is None:
                self._since = world.clock.now
            self.fail()

    def _begin(self) -> None:
        self._since = self._world.clock.now
        self._knock()

    def silenced(self) -> None:
        clock = self._world.clock
        self._since = clock.now
        noticed = _HEARTBEAT * (2 + self._phase) + self._world.balancer.close_wait
        clock.after(noticed, self._give_up, self.epoch)

    def _give_up(self, epoch: int) -> None:
        if self.epoch == epoch and self.node is not None and self.node.life is Life.FROZEN:
            self.ended(Ending.TIMED_OUT)

    def heard(self) -> None:
        if self._since is not None:
            self.worst = max(self.worst, self.out_for(self._world.clock.now))
            self._since = None


class Request:
    """One handshake at the balancer; without a client it asks for a path that no node knows."""

    __slots__ = ("_world", "client")

    def __init__(self, world: World, client: Client | None) -> None:
        self._world = world
        self.client = client

    @property
    def wrong_path(self) -> bool:
        return self.client is None

    def opened(self, node: Node) -> None:
        """Have a 101."""
        if self.client is not None:
            if node.life is Life.LEAVING:
                self._world.tally.on_zombie += 1
            self.client.settle(node)

    def failed(self) -> None:
        """Have any other answer."""
        if self.client is not None:
            self._world.tally.failed += 1
            self.client.fail()
