"""TCP listeners and their routes: what goes together, and how it is told what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from proxy.config.address import Address
from proxy.config.checks import Invalid
from proxy.config.load import parse_config
from proxy.config.model import Config, Listener
from proxy.config.route import Ping, Route, SessionLimits
from proxy.config.tcp import route_faults
from proxy.config.tls import Certificate, ListenerTls
from proxy.config.upstream import Node, Upstream
from proxy.errors import ConfigError

TLS = ListenerTls(certificates=(Certificate(cert_file=Path("c"), key_file=Path("k")),))
NODES = (Node(address=Address("n", 1)),)
MQTT = Listener(bind=Address("0.0.0.0", 1883), name="mqtt", mode="tcp")
SECURE = Listener(bind=Address("0.0.0.0", 8883), name="secure", mode="tcp", tls=TLS)
WEB = Listener(bind=Address("0.0.0.0", 80), name="web")


def tcp(listener: str = "mqtt", **more: Any) -> Route:
    return Route(listener=listener, **({"upstream": "one"} | more))


def config(*routes: Route, listeners: tuple[Listener, ...] = (MQTT,), **upstream: Any) -> Config:
    one = Upstream(nodes=NODES, **upstream)
    return Config(listeners=listeners, routes=routes, upstreams={"one": one})


def test_all_that_a_route_may_say() -> None:
    limits = SessionLimits(
        bytes_per_second=1.0,
        burst=1.0,
        exceeded="close",
        sessions=1,
        sessions_per_address=1,
        handshakes_per_second=1.0,
    )
    one = tcp(
        sni="RT.example.org",
        limits=limits,
        idle_timeout=1.0,
        half_close_timeout=1.0,
        write_stall=1.0,
        on_stall="abort",
        on_removed="keep",
    )

    assert (one.kind, one.opaque, one.sni) == ("tcp", True, "rt.example.org")
    assert config(one).routes == (one,)


@pytest.mark.parametrize(
    ("route", "kind", "opaque", "name"),
    [
        (tcp(), "tcp", True, "tcp:mqtt"),
        (tcp(sni="*.example.org"), "tcp", True, "tcp:mqtt/*.example.org"),
        (tcp(path="/a"), "http", False, "/a"),
        (tcp(prefix="/", websocket=True), "websocket", False, "/*"),
        (tcp(path="/a", websocket=True, frames="tunnel"), "websocket", True, "/a"),
    ],
)
def test_kinds(route: Route, kind: str, *, opaque: bool, name: str) -> None:
    assert (route.kind, route.opaque, route.name) == (kind, opaque, name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "a.example"),
        ("websocket", True),
        ("origins", ("https://a.example",)),
        ("frames", "tunnel"),
        ("ping", Ping(client=1.0)),
    ],
)
def test_what_is_of_http(key: str, value: Any) -> None:
    with pytest.raises(Invalid) as caught:
        tcp(**{key: value})

    reason = 'means nothing to a route without "path" and "prefix", which is one of TCP'
    assert caught.value.faults == ((key, reason),)


@pytest.mark.parametrize(
    "name",
    [
        field.name
        for field in attrs.fields(SessionLimits)
        if any(word in field.name for word in ("message", "frame", "fragment", "control", "held"))
    ],
)
def test_limits_that_need_frames(name: str) -> None:
    limits: dict[str, Any] = {name: 2**19}
    with pytest.raises(Invalid) as caught:
        tcp(limits=SessionLimits(**limits))

    reason = "cannot be kept in TCP, where no frames are seen"
    assert caught.value.faults == ((f"limits.{name}", reason),)


def test_a_key_that_is_not_known_to_be_of_tcp_is_not() -> None:
    """So that one that is added for HTTP needs no mention here."""

    @attrs.frozen
    class Later(Route):
        later: str = ""

    later = object.__new__(Later)
    for name, value in attrs.asdict(tcp(), recurse=False).items():
        object.__setattr__(later, name, value)
    object.__setattr__(later, "later", "/x")

    assert [key for key, _ in route_faults(later)] == ["later"]


@pytest.mark.parametrize(
    "name", ["", "*", "*.", "a b", "*.*.example.org", "a.*", "192.0.2.7", "[::1]", "a:443", "ä.org"]
)
def test_names_that_nobody_asks_for(name: str) -> None:
    with pytest.raises(ValueError, match="must be like"):
        tcp(sni=name)


def test_without_a_listener_it_is_no_tcp_route() -> None:
    with pytest.raises(Invalid) as caught:
        Route(upstream="one", sni="a.example")

    assert caught.value.faults[0] == ("", 'needs either "path" (exact) or "prefix"')


def test_names_are_for_tcp() -> None:
    with pytest.raises(Invalid) as caught:
        Route(upstream="one", path="/a", sni="a.example")

    assert caught.value.faults == (("sni", "is for routes of TCP listeners only"),)


@pytest.mark.parametrize(
    ("routes", "listeners", "fault"),
    [
        (
            [tcp("web")],
            [WEB],
            (
                "routes[0]",
                'needs either "path" (exact) or "prefix": the listener \'web\' is for HTTP',
            ),
        ),
        (
            [tcp(), tcp(path="/a")],
            [MQTT],
            (
                "routes[1].listener",
                '\'mqtt\' is of mode "tcp", whose routes have no "path" or "prefix"',
            ),
        ),
        (
            [tcp("secure", sni="a.example")],
            [SECURE],
            ("routes[0].sni", "'secure' ends TLS itself; names are for listeners without tls"),
        ),
        (
            [tcp(), Route(path="/a", upstream="one")],
            [MQTT],
            ("routes[1]", "is for HTTP, and no listener is"),
        ),
        (
            [Route(path="/a", upstream="one")],
            [WEB, MQTT],
            ("listeners[1]", "no route is for it; one with listener = 'mqtt' would be"),
        ),
        (
            [Route(path="/a", upstream="one")],
            [WEB, attrs.evolve(MQTT, name="")],
            (
                "listeners[1].name",
                'is missing: the routes of a listener of mode "tcp" name it',
            ),
        ),
        (
            [tcp(), tcp(sni="a.example"), tcp(sni="A.example")],
            [MQTT],
            ("routes[2]", "is the same as routes[1]"),
        ),
        ([tcp(), tcp()], [MQTT], ("routes[1]", "is the same as routes[0]")),
        (
            [tcp("mqqt")],
            [MQTT],
            ("routes[0].listener", "no listener is called 'mqqt'; there are: 'mqtt'"),
        ),
    ],
)
def test_what_does_not_go_together(
    routes: list[Route], listeners: list[Listener], fault: tuple[str, str]
) -> None:
    with pytest.raises(Invalid) as caught:
        config(*routes, listeners=tuple(listeners))

    assert fault in caught.value.faults


def test_what_does() -> None:
    routes = (
        Route(path="/a", upstream="one"),
        tcp(),
        tcp(sni="a.example"),
        tcp(sni="*.a.example"),
        tcp("secure"),
    )

    assert config(*routes, listeners=(WEB, MQTT, SECURE)).routes == routes


@pytest.mark.parametrize(
    ("hash_on", "good"), [("client", True), ("header:X-User", False), ("query:q", False)]
)
def test_tcp_has_nothing_to_hash_but_the_client(hash_on: str, *, good: bool) -> None:
    if good:
        assert config(tcp(), balance="hash", hash_on=hash_on).routes == (tcp(),)
        return
    with pytest.raises(Invalid) as caught:
        config(tcp(), balance="hash", hash_on=hash_on)

    reason = f'balances by {hash_on!r}, which TCP has not; by "client" it can'
    assert caught.value.faults == (("routes[0].upstream", reason),)
    # Where it does not balance by that, it is no matter.
    assert config(tcp(), hash_on=hash_on).routes == (tcp(),)


def test_faults_have_their_place_in_the_file() -> None:
    text = """
        [[listeners]]
        name = "mqtt"
        bind = "127.0.0.1:1883"
        mode = "tcp"
        [[listeners]]
        bind = "127.0.0.1:1884"
        mode = "udp"
        [[routes]]
        listener = "mqtt"
        upstream = "one"
        host = "a.example"
        limits = { fragments = 3 }
        [upstreams.one]
        nodes = [ "127.0.0.1:1" ]
    """
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="t.toml")

    reason = 'means nothing to a route without "path" and "prefix", which is one of TCP'
    assert caught.value.problems == (
        "t.toml: listeners[1].mode: must be one of 'http', 'tcp', not 'udp'",
        f"t.toml: routes[0].host: {reason}",
        "t.toml: routes[0].limits.fragments: cannot be kept in TCP, where no frames are seen",
    )
