"""The values that hooks get and return, and which hooks a configuration can have."""

from __future__ import annotations

from typing import Any

import pytest
import trio.testing

import proxy
from proxy import Allow, ConfigError, Handshake, Hooks, Message, Record, Refuse, SessionView
from proxy.config.load import parse_config
from proxy.io.pump import PumpRelay
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.serve.hooks import check_hooks
from proxy.wire.tunnel import Tunnel

from .world import CONFIG


class Bouncer:
    """A program's hooks as a type checker has to accept them, by public names alone."""

    def __init__(self) -> None:
        self.inside: set[str] = set()

    async def on_handshake(self, handshake: Handshake) -> Allow | Refuse | None:
        token: str | None = handshake.cookie("token")
        if token is None:
            return Refuse(401, headers=[("WWW-Authenticate", "Bearer")], body=b"who are you?")
        if token == "plain":
            return None
        return Allow(upstream="vip", node="10.0.0.1:6020", headers=[("Cookie", None)])

    async def on_open(self, session: SessionView) -> None:
        self.inside.add(session.id)

    async def on_close(self, record: Record) -> None:
        self.inside.discard(record.id)

    async def on_message(self, session: SessionView, message: Message) -> Message | None:
        if isinstance(message.data, str) and message.from_client:
            return Message(message.data.strip(), from_client=True)
        return message

    def hooks(self) -> dict[str, Hooks]:
        return {
            "/deepstream": Hooks(
                on_handshake=self.on_handshake,
                on_open=self.on_open,
                on_close=self.on_close,
                on_message=self.on_message,
            )
        }


def test_all_names_are_public() -> None:
    names = {"Allow", "Handshake", "Hooks", "Message", "Record", "Refuse", "SessionView"}

    assert names <= set(proxy.__all__)
    check_hooks(Bouncer().hooks(), parse_config(CONFIG).routes)


def handshake(*headers: tuple[str, str]) -> Handshake:
    return Handshake(
        id="1",
        client="192.0.2.7:555",
        address="192.0.2.7",
        listener="",
        scheme="https",
        host="rt.example",
        target="/deepstream",
        headers=headers,
        subprotocols=(),
        route="/deepstream",
        upstream="nodes",
    )


def test_headers_are_found_in_any_case() -> None:
    given = handshake(("X-Token", "a"), ("Cookie", "a=1; b=\xe9; b=2; c="), ("x-token", "b"))

    assert given.header("X-TOKEN") == "a, b"
    assert given.header("X-None") is None
    assert [given.cookie(name) for name in "abcd"] == ["1", "\xe9", "", None]


@pytest.mark.parametrize("status", [101, 200, 204, 299, 304, 600, 0, -1])
def test_refusal_refuses(status: int) -> None:
    with pytest.raises(ValueError, match="from 300 to 599"):
        Refuse(status)


@pytest.mark.parametrize("status", [300, 307, 401, 451, 503, 599])
def test_statuses_that_refuse(status: int) -> None:
    assert Refuse(status).body == b""


BAD_HEADERS = [
    ("Content-Length", "3"),
    ("transfer-encoding", "chunked"),
    ("Connection", "close"),
    ("UPGRADE", "h2c"),
    ("Keep-Alive", "1"),
    ("X Y", "z"),
    ("", "z"),
    ("X", "a\r\nY: b"),
    ("X", "a\0"),
    ("X", " a"),
    ("X", "\u20ac"),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_headers_that_cannot_be_sent(header: tuple[str, str]) -> None:
    for kind in (lambda: Refuse(403, [header]), lambda: Allow(headers=[header])):
        with pytest.raises(ValueError):
            kind()


@pytest.mark.parametrize(
    "header",
    [
        ("Sec-WebSocket-Key", "x"),
        ("sec-websocket-extensions", None),
        ("Sec-WebSocket-Protocol", "chat"),
        ("Connection", None),
        ("Upgrade", None),
        ("Host", None),
    ],
)
def test_headers_that_make_the_handshake_cannot_be_changed(header: tuple[str, str | None]) -> None:
    with pytest.raises(ValueError, match=r"between|own|one Host"):
        Allow(headers=[header])


def test_there_is_one_host() -> None:
    with pytest.raises(ValueError, match="one Host"):
        Allow(headers=[("Host", "a"), ("host", "b")])
    assert Allow(headers=[("Host", "a")]).changes == ((b"Host", b"a"),)


def test_values_do_not_change_with_what_they_were_made_of() -> None:
    headers: list[tuple[str, str | None]] = [("X-User", "ada"), ("Cookie", None)]
    allow = Allow(headers=headers)
    headers.clear()

    assert allow.headers == (("X-User", "ada"), ("Cookie", None))
    assert allow.changes == ((b"X-User", b"ada"), (b"Cookie", None))


def test_node_is_an_address() -> None:
    assert Allow(node="[::1]:6020").node == "[::1]:6020"
    with pytest.raises(ValueError, match="is not an address"):
        Allow(node="node-a")


def test_body_is_bytes() -> None:
    with pytest.raises(TypeError):
        Refuse(403, body="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["on_handshake", "on_open", "on_close", "on_message"])
def test_hooks_are_functions(name: str) -> None:
    with pytest.raises(TypeError, match="callable"):
        Hooks(**{name: 3})  # type: ignore[arg-type]


MORE = """
[[routes]]
host = "tunnel.example"
path = "/t"
websocket = true
frames = "tunnel"
upstream = "nodes"
[[routes]]
prefix = "/both"
websocket = true
upstream = "nodes"
[[routes]]
path = "/here"
websocket = true
respond = {}
[[routes]]
path = "/twice"
upstream = "nodes"
[[routes]]
path = "/twice"
websocket = true
upstream = "nodes"
[[listeners]]
name = "mqtt"
mode = "tcp"
bind = "127.0.0.1:1883"
[[routes]]
listener = "mqtt"
upstream = "nodes"
"""


async def on_message(session: SessionView, message: Message) -> Message:
    return message


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (
            "/deepsteam",
            "hooks: '/deepsteam': no route is called that; there are: '/api*', '/both*', "
            "'/deepstream', '/here', '/twice', 'tcp:mqtt', 'tunnel.example/t'",
        ),
        # It answers handshakes by itself: nobody would ever be asked.
        ("/here", "hooks: '/here': is a route of plain requests; hooks are for WebSocket routes"),
        ("/api*", "hooks: '/api*': is a route of plain requests; hooks are for WebSocket routes"),
        (
            "tcp:mqtt",
            "hooks: 'tcp:mqtt': is a route of TCP connections; hooks are for WebSocket routes",
        ),
        (
            "tunnel.example/t",
            "hooks: 'tunnel.example/t': has frames = \"tunnel\", where no message is seen: "
            "on_message cannot be had",
        ),
        ("/deepstream", None),
        ("/both*", None),
        ("/twice", None),
    ],
)
def test_hooks_are_for_websocket_routes(name: str, fault: str | None) -> None:
    routes, hooks = parse_config(CONFIG + MORE).routes, {name: Hooks(on_message=on_message)}
    if fault is None:
        check_hooks(hooks, routes)
        return
    with pytest.raises(ConfigError) as caught:
        check_hooks(hooks, routes)
    assert caught.value.problems == (fault,)


def test_other_hooks_are_for_tunnels_too_and_all_faults_are_told() -> None:
    routes = parse_config(CONFIG + MORE).routes
    check_hooks({"tunnel.example/t": Hooks()}, routes)
    with pytest.raises(ConfigError) as caught:
        check_hooks({"a": Hooks(), "b": Hooks()}, routes)
    assert len(caught.value.problems) == 2


def view() -> tuple[SessionView, Tunnel]:
    record = Record(id="1", client="c:1", route="/r", upstream="u", node="n:1")
    relay = PumpRelay(*trio.testing.memory_stream_pair(), Tunnel(), Terms(), Timers())
    return SessionView(record, relay), relay.tunnel


async def test_session_is_as_in_its_record_and_cannot_be_written() -> None:
    session: Any = view()[0]
    facts = [session.id, session.client, session.route, session.upstream, session.node]

    assert facts == ["1", "c:1", "/r", "u", "n:1"]
    for name in ("id", "client", "route", "upstream", "node", "other"):
        with pytest.raises(AttributeError):
            setattr(session, name, "x")


async def test_session_is_closed_once() -> None:
    session, tunnel = view()
    session.close(4001, "bye")
    session.close(4002, "again")

    assert (tunnel.ending, tunnel.detail, tunnel.ended_by) == ("hook", "bye", "proxy")
    assert (tunnel.legs[0].sent, tunnel.legs[1].sent) == (4001, 1001)


@pytest.mark.parametrize(
    ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (5000, ""), (1000, "é" * 62)]
)
async def test_session_is_not_closed_with_what_cannot_be_sent(code: int, reason: str) -> None:
    session, tunnel = view()
    with pytest.raises(ValueError):
        session.close(code, reason)
    assert tunnel.ending is None
