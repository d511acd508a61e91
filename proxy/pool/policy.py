"""How a node is chosen among those that may be asked.

A policy gets nodes that take sessions and have room, in the order of the configuration, and never
an empty list.  All of them respect weights, and all but `rendezvous` a node's slow start.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from proxy.config.upstream import Balance

from .node import Node

T = TypeVar("T")


class Random(Protocol):
    """What is asked of a `random.Random`."""

    def choices(self, population: Sequence[T], weights: Sequence[float]) -> list[T]: ...


#: `(nodes, now, key, random)`; the key is what `hash` tells requests apart by.
Policy = Callable[[Sequence[Node], float, bytes, Random], Node]


def round_robin(nodes: Sequence[Node], now: float, _key: bytes, _random: Random) -> Node:
    """Take turns, smoothly weighted, as nginx does.

    Each turn gives every node its share as credit; the richest is chosen and pays the sum.  Of
    weights 2 and 1 that makes A B A, not A A B.
    """
    total = 0.0
    for node in nodes:
        share = node.share(now)
        node.credit += share
        total += share
    chosen = max(nodes, key=lambda node: node.credit)
    chosen.credit -= total
    return chosen


def least_connections(nodes: Sequence[Node], now: float, key: bytes, random: Random) -> Node:
    """Choose the node that has the fewest sessions for its share; equals take turns."""
    loads = [node.load(now) for node in nodes]
    least = min(loads)
    equals = [node for node, load in zip(nodes, loads, strict=True) if load == least]
    return equals[0] if len(equals) == 1 else round_robin(equals, now, key, random)


def random_two(nodes: Sequence[Node], now: float, _key: bytes, random: Random) -> Node:
    """Draw two by their shares and choose the less loaded: proxies that don't talk don't herd."""
    if len(nodes) == 1:
        return nodes[0]
    shares = [node.share(now) for node in nodes]
    (first,) = random.choices(nodes, shares)
    others = [node for node in nodes if node is not first]
    (second,) = random.choices(others, [node.share(now) for node in others])
    return min(first, second, key=lambda node: node.load(now))


def rendezvous(nodes: Sequence[Node], now: float, key: bytes, random: Random) -> Node:
    """Choose the node with the highest score for this key (Thaler and Ravishankar, 1998).

    Every proxy finds the same node, and a node that goes moves its own keys only.  With the score
    -weight / ln(h), h evenly spread between 0 and 1, a node's part of the keys is its weight's.  A
    request without a key goes where the fewest sessions are.
    """
    if not key:
        return least_connections(nodes, now, key, random)
    return max(nodes, key=lambda node: _score(node, key))


def _score(node: Node, key: bytes) -> float:
    mixed = hashlib.blake2b(node.name.encode() + b"\0" + key, digest_size=8).digest()
    # 53 bits, which a float holds; never 0 or 1, whose logarithms would not do.
    spread = ((int.from_bytes(mixed, "big") >> 11) + 0.5) / 2**53
    return -node.weight / math.log(spread)


def least_latency(nodes: Sequence[Node], now: float, key: bytes, random: Random) -> Node:
    """Choose by answer time multiplied by load, as Finagle's "peak EWMA" does.

    By the time alone all would go to the fastest, until it is not.  A node that was not measured
    yet counts as the fastest of the others.
    """
    known = [node.latency.mean for node in nodes if node.latency.mean is not None]
    if not known:
        return least_connections(nodes, now, key, random)
    fastest = max(min(known), 1e-6)

    def cost(node: Node) -> float:
        return max(node.latency.mean or fastest, 1e-6) * node.load(now)

    return min(nodes, key=cost)


POLICIES: dict[Balance, Policy] = {
    "least_connections": least_connections,
    "round_robin": round_robin,
    "random_two": random_two,
    "hash": rendezvous,
    "least_latency": least_latency,
}
