"""What a route's keys come to in a session."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.route import Ping, Route, SessionLimits
from proxy.io.terms import Terms
from proxy.io.transport import CHUNK
from proxy.wire.frames import Scanner
from proxy.wire.liveness import Patience
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.tunnel import Side, Tunnel
from tests.wire.strategies import frame

CLIENT, NODE = Side.CLIENT, Side.NODE
KEY = b"\x01\x02\x03\x04"


def terms(**options: Any) -> Terms:
    return Terms.of(Route(path="/a", upstream="one", websocket=True, **options), close_timeout=3.0)


def verdict(scanner: Scanner, *frames: bytes) -> str | None:
    error = scanner.scan(b"".join(frames)).error
    return error.reason if error else None


def sized(size: int, *, masked: bool = True) -> bytes:
    return frame(2, bytes(size), key=KEY if masked else None)


def message(sizes: list[int], *, masked: bool) -> list[bytes]:
    key, last = KEY if masked else None, len(sizes) - 1
    return [
        frame(0 if index else 2, bytes(size), fin=index == last, key=key)
        for index, size in enumerate(sizes)
    ]


def test_times_are_the_routes() -> None:
    one = terms(ping=Ping(client=7, node=8, timeout=9), idle_timeout=10, write_stall=11)

    assert one.close_timeout == 3.0
    assert one.patience == Patience((7, 8), ping_timeout=9, idle=10, write_stall=11)


def test_defaults_ping_and_limit() -> None:
    one, default = terms(), Route(path="/a", upstream="one")

    assert one.patience.ping == (default.ping.client, default.ping.node)
    assert one.meter is None
    assert one.control_rate is not None
    assert not one.abort_stalled
    assert not one.end_fast


@pytest.mark.parametrize(("on_stall", "abort"), [("close", False), ("abort", True)])
def test_what_becomes_of_who_is_stalled(on_stall: str, *, abort: bool) -> None:
    assert terms(on_stall=on_stall).abort_stalled == abort


@pytest.mark.parametrize(("exceeded", "end"), [("pause", False), ("close", True)])
def test_what_becomes_of_who_is_too_fast(exceeded: str, *, end: bool) -> None:
    limits = SessionLimits(messages_per_second=1, exceeded=exceeded)  # type: ignore[arg-type]

    assert terms(limits=limits).end_fast == end


def test_strict_frames_keep_the_rules() -> None:
    for side, masked in ((CLIENT, True), (NODE, False)):
        tunnel = terms().make_tunnel(0)

        assert type(tunnel) is Tunnel
        assert verdict(tunnel.scanners[side], frame(3, b"", key=KEY if masked else None)) == (
            "reserved opcode"
        )


def test_lenient_frames_need_only_boundaries_on_both_sides() -> None:
    for side in Side:
        tunnel = terms(frames="lenient").make_tunnel(0)

        assert verdict(tunnel.scanners[side], sized(1), sized(1, masked=False)) is None
        # An improper Close is taken for an empty one.
        tunnel.received(side, frame(8, b"\x03\xed"))
        assert tunnel.legs[side].received == 1005


def test_lenient_frames_are_limited_all_the_same() -> None:
    limits = SessionLimits(message_bytes=200)
    tunnel = terms(frames="lenient", limits=limits).make_tunnel(0)

    assert verdict(tunnel.scanners[CLIENT], sized(201)) == "message too big"


def test_unseen_bytes_are_neither_pinged_nor_understood() -> None:
    one = terms(frames="tunnel", idle_timeout=10, half_close_timeout=5, write_stall=11)

    assert isinstance(one.make_tunnel(0x40), OpaqueTunnel)
    assert one.patience == Patience((0, 0), idle=10, half_close=5, write_stall=11)


def test_extensions_may_use_their_bits() -> None:
    compressed = frame(2, b"x", reserved=0x40, key=KEY)

    assert verdict(terms().make_tunnel(0x40).scanners[CLIENT], compressed) is None
    assert verdict(terms().make_tunnel(0).scanners[CLIENT], compressed) == "reserved bit set"


def test_each_session_has_a_tunnel_of_its_own() -> None:
    one = terms()

    assert one.make_tunnel(0) is not one.make_tunnel(0)


@pytest.mark.parametrize(
    ("limits", "good", "bad", "reason"),
    [
        (SessionLimits(message_bytes=200), [200], [201], "message too big"),
        (SessionLimits(frame_bytes=200), [200, 200], [200, 201], "frame too big"),
        (SessionLimits(fragments=2), [1, 1], [1, 1, 1], "too many fragments"),
        (SessionLimits(message_bytes=0), [2**21], [], None),
        (SessionLimits(), [2**20], [2**20 + 1], "message too big"),
    ],
)
def test_limits_of_frames_are_for_clients(
    limits: SessionLimits, good: list[int], bad: list[int], reason: str | None
) -> None:
    tunnel = terms(limits=limits).make_tunnel(0)

    assert verdict(tunnel.scanners[CLIENT], *message(good, masked=True)) is None
    assert verdict(tunnel.scanners[CLIENT], *message(bad, masked=True)) == reason
    assert verdict(tunnel.scanners[NODE], *message(bad, masked=False)) is None


def test_a_node_has_a_limit_of_its_own() -> None:
    tunnel = terms(limits=SessionLimits(node_message_bytes=200)).make_tunnel(0)

    assert verdict(tunnel.scanners[NODE], sized(200, masked=False)) is None
    assert verdict(tunnel.scanners[NODE], sized(201, masked=False)) == "message too big"
    assert verdict(tunnel.scanners[CLIENT], sized(201)) is None


@pytest.mark.parametrize(
    ("limits", "data", "pause"),
    [
        (SessionLimits(messages_per_second=10, burst=1), sized(0) * 15, 0.5),
        (SessionLimits(bytes_per_second=100, burst=3), sized(6) * 50, 3.0),
        (SessionLimits(messages_per_second=10, burst=1), sized(0) * 10, 0.0),
    ],
    ids=["messages", "bytes", "within"],
)
def test_the_pace_of_clients_is_measured(limits: SessionLimits, data: bytes, pause: float) -> None:
    one = terms(limits=limits)
    tunnel = one.make_tunnel(0)
    assert one.meter is not None
    meter = one.meter(tunnel.scanners[CLIENT])
    tunnel.received(NODE, sized(1000, masked=False))
    assert meter.pause(0) == 0
    tunnel.received(CLIENT, data)

    assert meter.pause(0) == pytest.approx(pause)


def test_the_pace_of_unseen_bytes_is_measured_too() -> None:
    one = terms(frames="tunnel", limits=SessionLimits(bytes_per_second=100, burst=1))
    tunnel = one.make_tunnel(0)
    assert one.meter is not None
    meter = one.meter(tunnel.scanners[CLIENT])
    assert tunnel.scanners[CLIENT].plain(bytes(300), 300)

    assert meter.pause(0) == pytest.approx(2)


def test_control_frames_have_a_rate() -> None:
    make = terms(limits=SessionLimits(controls_per_second=5, burst=2)).control_rate
    assert make is not None
    rate = make()

    assert rate.spend(0, 10) == 0
    assert rate.spend(0) == pytest.approx(0.2)
    assert make() is not rate


def test_control_frames_may_have_none() -> None:
    assert terms(limits=SessionLimits(controls_per_second=0)).control_rate is None


@pytest.mark.parametrize(
    ("limits", "chunk"),
    [
        ({}, CHUNK),
        # Of the smallest frames there are, no more than a burst; or of bytes.
        ({"messages_per_second": 1000, "burst": 2}, 12_000),
        ({"bytes_per_second": 4000, "burst": 2}, 8000),
        ({"bytes_per_second": 4000, "messages_per_second": 100, "burst": 2}, 1200),
        ({"bytes_per_second": 1e9, "messages_per_second": 1e9}, CHUNK),
        ({"messages_per_second": 0.1, "burst": 0.01}, 256),
    ],
)
def test_what_is_read_at_a_time_is_not_much_more_than_a_burst(
    limits: dict[str, float], chunk: int
) -> None:
    assert terms(limits=SessionLimits(**limits)).chunk == chunk  # type: ignore[arg-type]  # a table
