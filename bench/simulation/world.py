"""All of it together: nodes, clients, one balancer, and the tally of what happens."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from proxy.config.upstream import Upstream as UpstreamConfig

from .balancer import Balancer
from .clients import Client, Request
from .clock import Clock
from .nodes import Ending, Life, Node, Overflow
from .tally import Tally

__all__ = ["World", "WorldConfig"]

#: Of all clients, who leave and are replaced each minute.
_CHURN: Final = 0.01
_SECOND: Final = 1.0


@attrs.frozen(kw_only=True)
class WorldConfig:
    """What a run can be told."""

    seed: int = 1
    nodes: int = 20
    sessions: int = 100_000
    #: Handshakes that a node answers each second.
    rate: float = 1000.0
    #: Connects that wait at a node; Node.js asks for 511.
    backlog: int = 511
    #: Sessions that a node, and the balancer with it, gets closed each second.
    pace: float = 10_000.0
    overflow: Overflow = "drop"
    #: For experiments: what is to be other than default in Tidegate's configuration.
    adjust: Callable[[UpstreamConfig], UpstreamConfig] = lambda config: config


class World:
    """One run."""

    def __init__(self, config: WorldConfig, name: str, make: Callable[[World], Balancer]) -> None:
        self.config = config
        self.clock = Clock()
        self._name = name
        self.nodes = [
            Node(
                index,
                self.clock,
                rate=config.rate,
                backlog=config.backlog,
                pace=config.pace,
                overflow=config.overflow,
            )
            for index in range(config.nodes)
        ]
        self.tally = Tally(self)
        self.balancer = make(self)
        random = self.random("clients")
        self.clients = [Client(self, random) for _ in range(config.sessions)]
        self._churn = self.random("churn")

    def random(self, purpose: str) -> Random:
        """Return a source of its own for each purpose, so that one does not disturb another."""
        return Random(f"{self.config.seed} {self._name} {purpose}")

    def run(self, until: float) -> int:
        """Let it all happen; return how many events that was."""
        for index, client in enumerate(self.clients):
            node = self.nodes[index % len(self.nodes)]
            client.settle(node)
            self.balancer.adopt(client, node)
        self.balancer.start()
        self._leave()
        self._sample()
        return self.clock.run(until)

    def ask_wrong_path(self) -> None:
        """Ask for a path that no node knows, as anybody may."""
        self.balancer.ask(Request(self, None))

    def out(self) -> int:
        """Return how many clients have no session that works, and are not lost."""
        working = sum(len(node.sessions) for node in self.nodes if node.life is not Life.FROZEN)
        return len(self.clients) - working - self.tally.lost

    def _leave(self) -> None:
        self.clock.after(self._churn.expovariate(_CHURN * len(self.clients) / 60), self._leave)
        client = self._churn.choice(self.clients)
        if client.node is not None:
            client.ended(Ending.LEFT)

    def _sample(self) -> None:
        self.tally.sample()
        self.clock.after(_SECOND, self._sample)
