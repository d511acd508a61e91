"""What a balancer is to the world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from .clients import Client, Request
from .haproxy import HAProxy
from .nginx import Nginx
from .nodes import Ending, Node
from .tidegate import Tidegate, TidegateRebalancing, TidegateWorkers

if TYPE_CHECKING:
    from .world import World

__all__ = ["BALANCERS", "DEFAULT", "Balancer"]


class Balancer(Protocol):
    #: How long a client waits for the end of its closing handshake with a node that is silent.
    close_wait: float

    def start(self) -> None:
        """Begin: all nodes are up, and known to be."""

    def adopt(self, client: Client, node: Node) -> None:
        """Have a session that was there before the beginning."""

    def ask(self, request: Request) -> None:
        """Find a node for a handshake, now or later."""

    def ended(self, client: Client, node: Node, how: Ending) -> None:
        """Take notice of the end of a session."""

    def uses(self, node: Node) -> bool:
        """Whether a new session might go there now."""


BALANCERS: dict[str, Callable[[World], Balancer]] = {
    "nginx": Nginx,
    "haproxy": HAProxy,
    "haproxy-roundrobin": lambda world: HAProxy(world, draws=0),
    "tidegate": Tidegate,
    "tidegate-rebalance": TidegateRebalancing,
    "tidegate-workers": TidegateWorkers,
}
DEFAULT = ("nginx", "haproxy", "tidegate")
