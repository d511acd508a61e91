"""What is measured, as a table.

A message counts once for each direction in which the proxy relays it: an echo is two relayed
messages, a push is one.  A new session is TCP, TLS, the upgrade, one echo and the Close handshake.
A request counts once, with its answer; connections are kept on both sides.
"""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["SCENARIOS", "Figure", "Goal", "Scenario"]

Figure = Literal["cost", "p99"]


@attrs.frozen
class Goal:
    """Tidegate's figure is to be at most `ratio` times that of `peer`; of "": `ratio` itself."""

    ratio: float
    peer: str = "nginx"
    figure: Figure = "cost"
    ours: str = "tidegate"


@attrs.frozen(kw_only=True)
class Scenario:
    """One line of the table."""

    name: str
    title: str
    drive: str  # the generator's mode and options
    unit: Literal["µs/message", "µs/request", "ms/session", "KiB/session", "µs/leg", "x quiet p99"]
    relayed: int = 0  # relayed messages per message that the generator counted
    sessions: int = 0  # what an idle figure is divided by
    goals: tuple[Goal, ...] = ()
    flood: int = 0  # so many clients shake hands all the time, beside what is driven
    ready_legs: int = 0  # not another process is measured, but the splicer's wake-up in this one
    of_curve: bool = False  # a point of a curve: without the load alone
    also: tuple[str, ...] = ()  # variants that are measured too
    just: tuple[str, ...] = ()  # only these proxies
    without: tuple[str, ...] = ()  # not these, which can't
    base: str = "nginx"  # what the ratios are to

    def wants(self, peer: str, *, variant: bool) -> bool:
        """Return whether a proxy is measured in it."""
        if self.just or self.ready_legs:
            return peer in (self.just or ("tidegate",))
        return peer not in self.without and (not variant or peer in self.also)


#: nginx is measured with larger buffers too, and the better one counts.
_LARGER_BUFFERS = ("nginx-16k", "nginx-64k")
#: Frames unseen, as every other proxy has it; with the default rules, limits, counters and pings;
#: and with a client's pace watched as well.
_EYES = ("tidegate-unseen", "tidegate", "tidegate-paced")
#: TCP mode. The same sessions as everywhere: to these proxies their messages are bytes, and a chunk
#: of them is what one read brings.
_TCP = ("nginx-stream", "haproxy-tcp", "tidegate-tcp")

SCENARIOS = (
    Scenario(
        name="pingpong",
        title="ping-pong, 64 sessions x 128 B",
        drive="echo --sessions 64 --size 128",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.0),),
    ),
    Scenario(
        name="pingpong-1000",
        title="ping-pong, 1000 sessions x 128 B",
        drive="echo --sessions 1000 --size 128",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.0),),
    ),
    Scenario(
        name="inflight",
        title="64 sessions x 128 B, 16 in flight",
        drive="echo --sessions 64 --size 128 --depth 16",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.0, "haproxy"),),
    ),
    Scenario(
        name="16k",
        title="ping-pong, 64 sessions x 16 KiB",
        drive="echo --sessions 64 --size 16384",
        unit="µs/message",
        relayed=2,
        goals=(Goal(0.7, "haproxy"),),
        also=_LARGER_BUFFERS,
    ),
    Scenario(
        name="1m",
        title="ping-pong, 4 sessions x 1 MiB",
        drive="echo --sessions 4 --size 1048576",
        unit="µs/message",
        relayed=2,
        goals=(Goal(0.75, "haproxy"),),
        also=_LARGER_BUFFERS,
    ),
    Scenario(
        name="fanout",
        title="fan-out to 1000 sessions, 10 updates/s of 128 B each",
        drive="push --sessions 1000 --size 128 --rate 10000",
        unit="µs/message",
        relayed=1,
        goals=(Goal(1.0),),
    ),
    Scenario(
        name="openloop",
        title="open loop, 2000 echoes/s of 128 B over 200 sessions",
        drive="open --sessions 200 --size 128 --rate 2000",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.2), Goal(1.0, figure="p99")),
    ),
    Scenario(
        name="connect",
        title="new sessions, full handshake",
        drive="connect --sessions 16 --size 128",
        unit="ms/session",
        goals=(Goal(1.4),),
    ),
    Scenario(
        name="resume",
        title="new sessions, TLS resumed",
        drive="connect --sessions 16 --size 128 --resume",
        unit="ms/session",
        goals=(Goal(1.6),),
    ),
    Scenario(
        name="get",
        title="HTTP, 64 connections, GET of 128 B",
        drive="get --sessions 64 --size 128 --path /api",
        unit="µs/request",
        goals=(Goal(4.0),),
        without=("websockets",),
    ),
    Scenario(
        name="post",
        title="HTTP, 64 connections, POST of 128 B, answered with as much",
        drive="post --sessions 64 --size 128 --path /api",
        unit="µs/request",
        goals=(Goal(4.0),),
        without=("websockets",),
    ),
    Scenario(
        name="idle-1000",
        title="idle sessions, 1000",
        drive="idle --sessions 1000",
        unit="KiB/session",
        sessions=1000,
    ),
    Scenario(
        name="idle-2000",
        title="idle sessions, 2000",
        drive="idle --sessions 2000",
        unit="KiB/session",
        sessions=2000,
    ),
    Scenario(
        name="idle-4000",
        title="idle sessions, 4000",
        drive="idle --sessions 4000",
        unit="KiB/session",
        sessions=4000,
        goals=(Goal(1.0, "haproxy"),),
    ),
    Scenario(
        name="frames",
        title="what seeing frames costs, 64 sessions x 128 B",
        drive="echo --sessions 64 --size 128",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.05, "tidegate-unseen"),),
        just=_EYES,
        base="tidegate-unseen",
    ),
    Scenario(
        name="frames-32",
        title="what seeing frames costs, 64 sessions x 32 B",
        drive="echo --sessions 64 --size 32",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.05, "tidegate-unseen"),),
        just=_EYES,
        base="tidegate-unseen",
    ),
    Scenario(
        name="tcp",
        title="TCP mode, 64 sessions x 128 B",
        drive="echo --sessions 64 --size 128",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.0, "nginx-stream", ours="tidegate-tcp"),),
        just=_TCP,
        base="nginx-stream",
    ),
    Scenario(
        name="tcp-16k",
        title="TCP mode, 64 sessions x 16 KiB",
        drive="echo --sessions 64 --size 16384",
        unit="µs/message",
        relayed=2,
        goals=(Goal(1.0, "nginx-stream", ours="tidegate-tcp"),),
        just=_TCP,
        base="nginx-stream",
    ),
    Scenario(
        name="tcp-connect",
        title="TCP mode, new sessions, full handshake",
        drive="connect --sessions 16 --size 128",
        unit="ms/session",
        just=_TCP,
        base="nginx-stream",
    ),
    Scenario(
        name="flood",
        title="p99 of 2000 echoes/s over 200 sessions: beside a flood of handshakes, and without",
        drive="open --sessions 200 --size 128 --rate 2000",
        unit="x quiet p99",
        flood=200,
        goals=(Goal(3.0, ""),),
        without=("websockets",),
    ),
    Scenario(
        name="burst",
        title="idle after a message of 1 MiB on each of 500 sessions",
        drive="idle --sessions 500 --size 1048576",
        unit="KiB/session",
        sessions=500,
    ),
)
