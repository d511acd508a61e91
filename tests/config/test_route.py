"""Routes: what their values must be like, and which of them go together."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config.checks import Invalid
from proxy.config.http import Redirect, Respond, Rewrite
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


TO_HTTPS = Redirect(scheme="https")
OK = Respond(body="ok")


@pytest.mark.parametrize(
    ("keys", "faults"),
    [
        ({"upstream": None}, [("", 'needs one of "upstream", "redirect" and "respond"')]),
        ({"respond": OK}, [("", 'needs one of "upstream", "redirect" and "respond"')]),
        ({"upstream": None, "redirect": TO_HTTPS}, []),
        ({"upstream": None, "respond": OK, "websocket": False}, []),
        ({"prefix": "/"}, [("", 'needs either "path" (exact) or "prefix"')]),
        ({"path": None}, [("", 'needs either "path" (exact) or "prefix"')]),
        (
            {"methods": ("GET",)},
            [("methods", "means nothing here: a WebSocket handshake is a GET")],
        ),
        ({"methods": ("GET",), "websocket": False}, []),
        ({"methods": ("GET",), "path": None, "prefix": "/"}, []),
        ({"rewrite": Rewrite(path="/b")}, []),
        (
            {"rewrite": Rewrite(strip_prefix="/b")},
            [("rewrite.strip_prefix", "is not how '/a' begins")],
        ),
        (
            {"upstream": None, "respond": OK, "rewrite": Rewrite(path="/b"), "drop_query": True},
            [
                ("rewrite", "means nothing to a fixed response"),
                ("drop_query", "means nothing to a fixed response"),
            ],
        ),
        (
            {"upstream": None, "redirect": Redirect(path="/b"), "rewrite": Rewrite(path="/c")},
            [("rewrite", "means nothing here: redirect.path takes its place")],
        ),
        ({"upstream": None, "redirect": TO_HTTPS, "rewrite": Rewrite(path="/c")}, []),
        ({"upstream": None, "redirect": Redirect(), "rewrite": Rewrite(path="/c")}, []),
        ({"upstream": None, "redirect": Redirect(path="/b")}, []),
        (
            {"upstream": None, "redirect": Redirect(path="/a?b")},
            [("redirect", "leads to where it comes from")],
        ),
        (
            {"upstream": None, "path": None, "prefix": "/", "redirect": Redirect(path="/a")},
            [("redirect", "leads to where it comes from")],
        ),
        (
            {
                "upstream": None,
                "websocket": False,
                "methods": ("POST",),
                "redirect": Redirect(path="/a", status=303),
            },
            [],
        ),
        (
            {"upstream": None, "redirect": Redirect(path="/a")},
            [("redirect", "leads to where it comes from")],
        ),
        (
            {"upstream": None, "redirect": Redirect(status=302), "drop_query": True},
            [("redirect", "leads to where it comes from")],
        ),
        (
            {"upstream": None, "redirect": TO_HTTPS, "body_bytes": 1, "response_timeout": 1.0},
            [
                ("response_timeout", "is for routes with an upstream only"),
                ("body_bytes", "is for routes with an upstream only"),
            ],
        ),
        (
            {"upstream": None, "respond": OK, "origins": ("https://a",)},
            [("origins", "is for WebSocket routes only")],
        ),
    ],
)
def test_what_goes_together(keys: dict[str, Any], faults: list[tuple[str, str]]) -> None:
    if not faults:
        route(**keys)
        return
    with pytest.raises(Invalid) as caught:
        route(**keys)

    assert list(caught.value.faults) == faults


@pytest.mark.parametrize(
    ("keys", "plain", "handshakes"),
    [
        ({}, False, True),
        ({"websocket": False}, True, False),
        ({"path": None, "prefix": "/"}, True, True),
        ({"path": None, "prefix": "/", "websocket": False}, True, False),
        # What is answered here, is so whoever asks.
        ({"upstream": None, "respond": OK, "websocket": False}, True, True),
        ({"upstream": None, "respond": OK}, False, True),
    ],
)
def test_what_it_takes(keys: dict[str, Any], *, plain: bool, handshakes: bool) -> None:
    one = route(**keys)

    assert one.takes == (plain, handshakes)
    assert one.has_sessions == (handshakes and one.upstream is not None)


def test_get_is_head_too() -> None:
    both, one = frozenset(("GET", "HEAD", "PUT")), frozenset(("PUT",))

    assert route(websocket=False, methods=("GET", "PUT")).allowed_methods == both
    assert route(websocket=False, methods=("PUT",)).allowed_methods == one
    assert route().allowed_methods is None


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
