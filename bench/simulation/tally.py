"""What happens to clients and nodes, as figures and as a line for each second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from .world import World

__all__ = ["EVEN", "Figures", "Series", "Tally"]

#: The fullest node has at most so many times the mean.
EVEN: Final = 1.2
#: Longer than a reconnect takes that goes well.
_A_WHILE: Final = 5.0


@attrs.frozen(kw_only=True)
class Figures:
    """One balancer's outcome of one scenario.  Times are seconds; None: never."""

    #: Clients that have given up for good.
    lost: int
    #: Handshakes that were answered with anything but a 101.
    failed_handshakes: int
    #: Sessions that ended without their clients having wanted it.
    sessions_cut: int
    #: Sessions opened on a node that had had its SIGINT.
    on_zombie: int
    #: From the end of all faults until the nodes are even, and stay so.
    even_after: float | None
    #: At any one node that lived; refusals for want of room among them.
    peak_connects: int
    #: The longest time that a client had no session that worked: of all, one that was lost has none
    #: for ever; and of those that were not lost.
    without_p99: float | None
    without_longest: float
    #: Clients that had been without one for a while at the end.
    out_at_end: int
    #: Seconds times nodes that were well, but that no new session could have gone to.
    unused_node_seconds: int


@attrs.define
class Series:
    """A value for each second."""

    out: list[int] = attrs.field(factory=list)
    lost: list[int] = attrs.field(factory=list)
    peak_connects: list[int] = attrs.field(factory=list)
    #: Sessions of the emptiest and the fullest node, in means; None while less than half of the
    #: clients have a session.
    emptiest: list[float | None] = attrs.field(factory=list)
    fullest: list[float | None] = attrs.field(factory=list)


class Tally:
    """Counters that the world counts up, and samples."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lost = 0
        self.failed = 0
        self.cut = 0
        self.on_zombie = 0
        self.unused = 0
        self.series = Series()

    def sample(self) -> None:
        """Look at the world, once a second."""
        world, series = self._world, self.series
        sizes = [len(node.sessions) for node in world.nodes]
        mean = sum(sizes) / len(sizes)
        known = sum(sizes) >= len(world.clients) / 2
        series.out.append(world.out())
        series.lost.append(self.lost)
        series.peak_connects.append(max(node.connects for node in world.nodes))
        series.emptiest.append(min(sizes) / mean if known else None)
        series.fullest.append(max(sizes) / mean if known else None)
        for node in world.nodes:
            node.connects = 0
            self.unused += node.is_well and not world.balancer.uses(node)

    def figures(self, calm: float) -> Figures:
        """Sum up, all faults having ended at `calm`."""
        world = self._world
        now = world.clock.now
        without = sorted(
            math.inf if client.dead else max(client.worst, client.out_for(now))
            for client in world.clients
        )
        p99 = without[math.ceil(len(without) * 0.99) - 1]
        return Figures(
            lost=self.lost,
            failed_handshakes=self.failed,
            sessions_cut=self.cut,
            on_zombie=self.on_zombie,
            even_after=self._even_after(calm),
            peak_connects=max(self.series.peak_connects),
            without_p99=p99 if p99 < math.inf else None,
            without_longest=max((time for time in without if time < math.inf), default=0.0),
            out_at_end=sum(
                client.out_for(now) > _A_WHILE for client in world.clients if not client.dead
            ),
            unused_node_seconds=self.unused,
        )

    def _even_after(self, calm: float) -> float | None:
        start = math.ceil(calm)
        fullest = self.series.fullest[start:]
        uneven = [n for n, value in enumerate(fullest) if value is None or value > EVEN]
        after = uneven[-1] + 1 if uneven else 0
        return start + after - calm if after < len(fullest) else None
