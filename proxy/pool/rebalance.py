"""Which sessions should leave which node.

Three reasons, one way: a node has more than its share since another came back; a session is older
than the operator wants; a node is to be emptied.  A session that is moved gets a Close and comes
back by itself; nothing else can move a WebSocket.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
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
    """Return how many sessions each node has beyond its share and the tolerance.

    Only nodes that take sessions count: what leaves has to have somewhere to go.
    """
    taking = [node for node in nodes if node.takes(now) and not node.backup]
    total = sum(node.sessions for node in taking)
    shares = sum(node.share(now) for node in taking)
    excess = {}
    for node in taking:
        fair = total * node.share(now) / shares
        # Within one session of its share is as even as it gets.
        allowed = max(math.ceil(fair * (1 + tolerance)), math.ceil(fair) + 1)
        if node.sessions > allowed:
            excess[node] = node.sessions - math.ceil(fair)
    return excess


def choose(sessions: Iterable[M], count: int, now: float) -> list[M]:
    """Return up to `count` sessions to move: the quiet before the busy, then the oldest.

    One that is in the middle of a message stays until it is through.
    """
    free = (session for session in sessions if session.is_between_messages)
    return heapq.nsmallest(
        count, free, key=lambda session: (now - session.quiet_since < QUIET, session.opened)
    )
