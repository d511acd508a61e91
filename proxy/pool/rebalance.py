"""Which sessions should leave which node.

Three reasons, one way: a node has more than its share since another came back; a session is older
than the operator wants; a node is to be emptied.  A session that is moved gets a Close and comes
back by itself; nothing else can move a WebSocket.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from .node import Node

#: A session that has been quiet for so many seconds is taken before one that has not.
QUIET = 2.0


class Movable(Protocol):
    """What is asked of a session."""

    @property
    def opened(self) -> float: ...

    @property
    def quiet_since(self) -> float: ...

    @property
    def is_between_messages(self) -> bool: ...


M = TypeVar("M", bound=Movable)


def surplus(nodes: Sequence[Node], now: float, tolerance: float) -> dict[Node, int]:
    """Return how many sessions each node should give away, none if all have their shares.

    Only nodes that take sessions count: what leaves has to have somewhere to go.
    """
    taking = [node for node in nodes if node.takes(now) and not node.backup]
    fair = _fair(taking, now)
    # Of many nodes one may be empty while no other has much more than its share.
    starved = any(
        node.sessions < min(part * (1 - tolerance), part - 1) for node, part in fair.items()
    )
    # Where least connections would have the next session; that may be where it comes from.
    least = min((node.load(now) for node in taking if node.room), default=math.inf)
    excess = {}
    for node, part in fair.items():
        even = math.ceil(part)
        # Within one session of its share is as even as it gets.
        allowed = even if starved else max(math.ceil(part * (1 + tolerance)), even + 1)
        if node.sessions > allowed and node.sessions / node.share(now) > least:
            excess[node] = node.sessions - even
    return excess


def _fair(nodes: Sequence[Node], now: float) -> dict[Node, float]:
    """Return each node's part of all sessions; what would be too many for one is the others'."""
    fair: dict[Node, float] = {}
    left = float(sum(node.sessions for node in nodes))
    while len(fair) < len(nodes):
        others = [node for node in nodes if node not in fair]
        each = left / sum(node.share(now) for node in others)
        parts = {node: each * node.share(now) for node in others}
        full = {
            node: float(limit)
            for node, part in parts.items()
            if 0 < (limit := node.config.max_sessions) <= part
        }
        fair |= full or parts
        left -= sum(full.values())
    return fair


def choose_surplus(
    sessions: Mapping[Node, Iterable[M]], excess: Mapping[Node, int], count: int, now: float
) -> list[M]:
    """Return up to `count` sessions to move, of the nodes that have too many: the fullest first."""
    chosen: list[M] = []
    for node in sorted(excess, key=lambda node: -excess[node]):
        left = min(count - len(chosen), excess[node])
        chosen += choose(sessions.get(node, ()), left, now)
    return chosen


def choose(sessions: Iterable[M], count: int, now: float) -> list[M]:
    """Return up to `count` sessions to move: the quiet before the busy, then the oldest.

    One that is in the middle of a message stays until it is through.
    """
    free = (session for session in sessions if session.is_between_messages)
    return heapq.nsmallest(
        count, free, key=lambda session: (now - session.quiet_since < QUIET, session.opened)
    )
