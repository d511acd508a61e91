"""How a node is chosen among those that may be asked.

A policy gets the available nodes only, in the order of the configuration, and never an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.config.model import Balance

from .node import Node

Policy = Callable[[Sequence[Node]], Node]


def round_robin(nodes: Sequence[Node]) -> Node:
    """Take turns, smoothly weighted, as nginx does.

    Each turn gives every node its weight as credit; the richest is chosen and pays the sum.  Of
    weights 2 and 1 that makes A B A, not A A B.
    """
    for node in nodes:
        node.credit += node.weight
    chosen = max(nodes, key=lambda node: node.credit)
    chosen.credit -= sum(node.weight for node in nodes)
    return chosen


def least_connections(nodes: Sequence[Node]) -> Node:
    """Choose the node with the fewest sessions for its weight; equals take turns."""
    fewest = min(node.sessions / node.weight for node in nodes)
    equals = [node for node in nodes if node.sessions / node.weight == fewest]
    return equals[0] if len(equals) == 1 else round_robin(equals)


POLICIES: dict[Balance, Policy] = {
    "least_connections": least_connections,
    "round_robin": round_robin,
}
