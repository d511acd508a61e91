"""One node: what is known of it, and who holds on to it."""

from __future__ import annotations

from typing import Self

import attrs

from proxy.config.model import Node as NodeConfig
from proxy.config.model import Rest


@attrs.frozen
class NodeStatistics:
    """What an operator sees of a node.  `rests_until` is a time of the pool's clock, or 0."""

    address: str
    weight: int
    sessions: int
    failures_in_a_row: int
    rests_until: float


class Lease:
    """One session's or request's hold on a node; also a context manager."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node: Node | None = node
        node.sessions += 1

    def release(self) -> None:
        """Let go; once is enough, more often is no harm."""
        if self.node is not None:
            self.node.sessions -= 1
            self.node = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Node:
    """State of one address in an upstream."""

    def __init__(self, config: NodeConfig, rest: Rest) -> None:
        self.address = config.address
        self.name = str(config.address)
        self.weight = config.weight
        #: Sessions and requests under way.
        self.sessions = 0
        self._rest = rest
        self._failures = 0
        self._rests_until = 0.0
        #: Smooth weighted round robin's running credit, see `pool.policy`.
        self.credit = 0

    def available(self, now: float) -> bool:
        """Whether it may be asked."""
        return now >= self._rests_until

    @property
    def rests_until(self) -> float:
        return self._rests_until

    def failed(self, now: float) -> None:
        """Let it rest: `first` seconds after one failure, twice as long after each further one.

        Attempts that were under way together fail together; they count as one failure.
        """
        if now < self._rests_until:
            return
        # 2**16 times any rest is beyond `longest`; the exponent must not grow without bound.
        rest = self._rest.first * 2 ** min(self._failures, 16)
        self._rests_until = now + min(rest, self._rest.longest)
        self._failures += 1

    def answered(self) -> None:
        """Forget its failures."""
        self._failures = 0
        self._rests_until = 0.0

    def lease(self) -> Lease:
        """Hold on to it for one session or request, until the lease is released."""
        return Lease(self)

    def statistics(self) -> NodeStatistics:
        return NodeStatistics(
            self.name, self.weight, self.sessions, self._failures, self._rests_until
        )
