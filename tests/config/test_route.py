"""Routes: what their values must be like, and which of them go together."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.checks import Invalid
from proxy.config.route import Ping, Route, SessionLimits


def route(**more: Any) -> Route:
    options: dict[str, Any] = {"path": "/a", "upstream": "one", "websocket": True}
    return Route(**(options | more))


def test_defaults_suit_deepstream() -> None:
    one = route()

    assert one.limits.message_bytes == 2**20
    assert one.frames == "strict"
    # A silent connection is heard of before others forget it, and before it counts as idle.
    assert one.ping.client < 60
    assert one.ping.client + one.ping.timeout < one.idle_timeout


@pytest.mark.parametrize(
    ("kind", "field", "value", "reason"),
    [
        (SessionLimits, "message_bytes", 124, f"must be 0 (any) or from 125 to {2**62}, not 124"),
        (SessionLimits, "frame_bytes", -1, f"must be 0 (any) or from 125 to {2**62}, not -1"),
        (SessionLimits, "fragments", -1, "must be from 0 to 2147483648, not -1"),
        (SessionLimits, "bytes_per_second", -0.5, f"must be from 0 to {10**12}, not -0.5"),
        (SessionLimits, "burst", 0.0, "must be from 0.01 to 3600, not 0.0"),
        (SessionLimits, "held_bytes", 1000, "must be from 262144 to 2147483648, not 1000"),
        (Ping, "client", -1.0, "must be from 0 to 86400, not -1.0"),
        (Ping, "timeout", 0.0, "must be more than 0, not 0"),
        (route, "idle_timeout", -1.0, "must be from 0 to 100000000, not -1.0"),
        (route, "write_stall", float("inf"), "must be from 0 to 100000000, not inf"),
    ],
)
def test_numbers_have_bounds(kind: Any, field: str, value: float, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**{field: value})

    assert str(caught.value) == reason


@pytest.mark.parametrize("value", [0, 125, 2**62])
def test_sizes_may_be_any(value: int) -> None:
    assert SessionLimits(message_bytes=value).message_bytes == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("origins", ("https://a.example",)),
        ("limits", SessionLimits(sessions=1)),
        ("ping", Ping(client=1.0)),
        ("frames", "tunnel"),
        ("idle_timeout", 1.0),
        ("half_close_timeout", 1.0),
        ("write_stall", 1.0),
        ("on_stall", "abort"),
        ("on_removed", "keep"),
    ],
)
def test_what_only_sessions_have(key: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        route(websocket=False, **{key: value})

    assert caught.value.faults == ((key, "is for WebSocket routes only"),)


@pytest.mark.parametrize(
    "name",
    [
        "message_bytes",
        "node_message_bytes",
        "frame_bytes",
        "fragments",
        "messages_per_second",
        "controls_per_second",
    ],
)
def test_limits_that_need_frames(name: str) -> None:
    limit: dict[str, Any] = {name: 1000}
    with pytest.raises(Invalid) as caught:
        route(frames="tunnel", limits=SessionLimits(**limit))

    assert caught.value.faults == ((f"limits.{name}", 'cannot be kept with frames = "tunnel"'),)


def test_no_pings_in_a_tunnel() -> None:
    with pytest.raises(Invalid) as caught:
        route(frames="tunnel", ping=Ping(client=1.0))

    assert caught.value.faults == (("ping", 'cannot be sent with frames = "tunnel"'),)


def test_half_a_session_needs_a_tunnel() -> None:
    assert route(frames="tunnel", half_close_timeout=5.0).half_close_timeout == 5
    with pytest.raises(Invalid) as caught:
        route(half_close_timeout=5.0)

    assert caught.value.faults == (
        ("half_close_timeout", 'is for frames = "tunnel"; else a Close ends both'),
    )


def test_other_limits_hold_in_a_tunnel() -> None:
    limits = SessionLimits(bytes_per_second=10.0, sessions=1, sessions_per_address=1)

    assert route(frames="tunnel", limits=limits).limits == limits
