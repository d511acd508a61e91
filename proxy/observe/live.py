"""A session as it is seen while it lives.

All of it comes from counters that are kept anyway, so looking costs whoever looks, and no message.
Rates are those since the look before, if that was a second ago or more.
"""

from __future__ import annotations

from typing import Final

import attrs

from proxy.pool.node import NodeStatistics
from proxy.wire.closing import Ending
from proxy.wire.frames import Scanner
from proxy.wire.tunnel import Side, Tunnel

#: Rates over less time say little.
_SHORTEST: Final = 1.0


@attrs.frozen(kw_only=True)
class LegStatistics:
    """What has come from one side, and what it has yet to take."""

    #: Whole data messages, and bytes of frames.
    messages: int
    bytes: int
    messages_per_second: float
    bytes_per_second: float
    #: Bytes held here that it has not taken yet.
    held: int
    #: Seconds from our last ping that it answered to its pong; None: there was none yet.
    rtt: float | None


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """A live session.  Times are in seconds."""

    id: str
    client: str
    listener: str
    route: str
    upstream: str
    node: str
    age: float
    #: Since it was first seen with the counters that it has now.
    quiet: float
    #: Once it is ending: why.
    ending: Ending | None
    from_client: LegStatistics
    from_node: LegStatistics


@attrs.frozen(kw_only=True)
class UpstreamStatistics:
    """An upstream's nodes, and the requests that wait for one."""

    waiting: int
    nodes: tuple[NodeStatistics, ...]


@attrs.frozen(kw_only=True)
class CertificateStatistics:
    """A certificate that clients are shown."""

    #: The listener's name, or its address in the configuration.
    listener: str
    #: Whom it is for; "*.example.org" is for each name with one label more.
    names: tuple[str, ...]
    file: str
    #: When it expires, in seconds since the epoch.
    not_after: float


@attrs.frozen(kw_only=True)
class Statistics:
    """A running proxy, in numbers."""

    #: Open connections from clients, and sessions; the requests that are being served are neither.
    connections: int
    sessions: int
    #: How many of the sessions that are over ended how; all there are, of none 0.
    endings: dict[Ending, int]
    #: Those too that a reload has taken away, while anybody holds on to them.
    upstreams: dict[str, UpstreamStatistics]
    #: Those that are in use, by listener, in the order of the configuration.
    certificates: tuple[CertificateStatistics, ...] = ()


@attrs.frozen
class _Pace:
    messages: float = 0.0
    bytes: float = 0.0


class Look:
    """What was seen of a session's counters before, to tell how fast they run."""

    __slots__ = ("_at", "_counts", "_paces")

    def __init__(self, now: float) -> None:
        self._at = now
        self._counts = ((0, 0), (0, 0))
        self._paces = (_Pace(), _Pace())

    def legs(
        self,
        tunnel: Tunnel,
        now: float,
        held: tuple[int, int],
        rtts: tuple[float | None, float | None],
    ) -> tuple[LegStatistics, LegStatistics]:
        """Return both sides as they are now."""
        client, node = tunnel.scanners
        if now >= self._at + _SHORTEST:
            counts = (client.messages, client.bytes), (node.messages, node.bytes)
            before, seconds = self._counts, now - self._at
            self._paces = (
                _pace(counts[0], before[0], seconds),
                _pace(counts[1], before[1], seconds),
            )
            self._at, self._counts = now, counts
        return (
            _leg(client, self._paces[0], held[Side.CLIENT], rtts[Side.CLIENT]),
            _leg(node, self._paces[1], held[Side.NODE], rtts[Side.NODE]),
        )


def _pace(now: tuple[int, int], before: tuple[int, int], seconds: float) -> _Pace:
    return _Pace((now[0] - before[0]) / seconds, (now[1] - before[1]) / seconds)


def _leg(scanner: Scanner, pace: _Pace, held: int, rtt: float | None) -> LegStatistics:
    return LegStatistics(
        messages=scanner.messages,
        bytes=scanner.bytes,
        messages_per_second=pace.messages,
        bytes_per_second=pace.bytes,
        held=held,
        rtt=rtt,
    )
