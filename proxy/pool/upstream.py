"""A named pool of nodes, and the order in which one request may try them."""

from __future__ import annotations

import math
from collections.abc import Container

from proxy.config.model import Upstream as UpstreamConfig
from proxy.errors import NodeError, NoNode

from .node import Node
from .policy import POLICIES


class Upstream:
    """The nodes under one name, with the policy that chooses among them."""

    def __init__(self, name: str, config: UpstreamConfig) -> None:
        self.name = name
        self.config = config
        self.nodes = [Node(node, config.rest) for node in config.nodes]
        self._choose = POLICIES[config.balance]

    def choose(self, now: float, tried: Container[Node] = ()) -> Node | None:
        """Return the node to ask next, None if none is left that rests not and was not tried."""
        candidates = self._candidates(now, tried)
        return self._choose(candidates) if candidates else None

    def any_left(self, now: float, tried: Container[Node]) -> bool:
        """Whether `choose` would find a node, which it would then count on."""
        return bool(self._candidates(now, tried))

    def _candidates(self, now: float, tried: Container[Node]) -> list[Node]:
        return [node for node in self.nodes if node.available(now) and node not in tried]

    def note(self, node: Node, error: NodeError, now: float) -> None:
        """Take notice of how asking a node failed."""
        if error.counts:
            node.failed(now)

    def nobody(self, now: float) -> NoNode:
        """Return the error of a request for which there is nobody to ask."""
        soonest = min((node.rests_until for node in self.nodes), default=now) - now
        return NoNode(
            self.name,
            status=self.config.unavailable_status,
            retry_after=max(1, math.ceil(soonest)),
        )
