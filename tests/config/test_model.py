"""What the model's classes check and say by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from proxy.config.address import Address
from proxy.config.checks import Invalid
from proxy.config.http import Redirect, Respond, Rewrite
from proxy.config.model import (
    Config,
    Limits,
    Listener,
    ListenerProxyProtocol,
    Log,
    Shutdown,
    Timeouts,
)
from proxy.config.route import Route
from proxy.config.tls import Certificate, ListenerTls
from proxy.config.upstream import Node, Upstream

TLS = ListenerTls(certificates=(Certificate(cert_file=Path("c"), key_file=Path("k")),))
NODE = Node(address=Address("n", 1))
BIND = Address("127.0.0.1", 80)


def config(
    *routes: Route, listeners: tuple[Listener, ...] = (Listener(bind=BIND),), **more: Any
) -> Config:
    upstreams = {"one": Upstream(nodes=(NODE,))}
    return Config(listeners=listeners, routes=routes, upstreams=upstreams, **more)


def route(path: str = "/a", **more: Any) -> Route:
    return Route(path=path, upstream="one", **more)


def test_defaults_are_valid() -> None:
    one = config(route())

    assert one.timeouts == Timeouts()
    assert one.limits == Limits()
    assert one.shutdown == Shutdown()
    assert one.log == Log()
    assert one.workers == 1
    # One try fits into all tries, and sessions are gone before the deadline.
    assert one.timeouts.dial < one.timeouts.reach
    assert one.timeouts.close < one.shutdown.deadline


def test_values_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config(route()).workers = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "field", "value", "reason"),
    [
        (Timeouts, "dial", 0.0, "must be more than 0, not 0"),
        (Timeouts, "close", -1.5, "must be more than 0, not -1.5"),
        (Timeouts, "reach", float("nan"), "must be more than 0, not nan"),
        (Limits, "connections", 0, "must be from 1 to 2147483648, not 0"),
        (Limits, "shedding", -1, "must be from 0 to 2147483648, not -1"),
        (Limits, "head_bytes", 511, "must be from 512 to 1048576, not 511"),
        (Limits, "target_bytes", 2**20 + 1, "must be from 64 to 1048576, not 1048577"),
        (Limits, "headers", 10_001, "must be from 1 to 10000, not 10001"),
        (Shutdown, "rate", 0.0, "must be from 0.01 to 1000000, not 0.0"),
        (Shutdown, "jitter", 1.5, "must be from 0 to 1, not 1.5"),
    ],
)
def test_numbers_have_bounds(kind: type[Any], field: str, value: float, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**{field: value})

    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Route(upstream="one"), ""),
        (lambda: Route(upstream="one", path="/", prefix="/"), ""),
    ],
)
def test_fields_that_contradict_each_other(make: Any, key: str) -> None:
    with pytest.raises(Invalid) as caught:
        make()

    assert [fault[0] for fault in caught.value.faults] == [key]


@pytest.mark.parametrize("path", ["", "a", "a/b", "/a b", "/a?b", "/a#b", "/ä", "/a\n", "/\x7f"])
@pytest.mark.parametrize("key", ["path", "prefix"])
def test_paths_that_no_request_has(key: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"must start with /|cannot be in a request's path"):
        Route(upstream="one", **{key: path})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (Route(upstream="u", path="/deepstream"), "/deepstream"),
        (Route(upstream="u", prefix="/api"), "/api*"),
        (Route(upstream="u", prefix="/"), "/*"),
        (Route(upstream="u", host="rt.example.org", path="/a"), "rt.example.org/a"),
    ],
)
def test_route_names(one: Route, name: str) -> None:
    assert one.name == name


def test_host_is_compared_in_lower_case() -> None:
    assert route(host="RT.Example.org") == route(host="rt.example.org")
    assert route().host is None


def test_scheme() -> None:
    assert Listener(bind=BIND).scheme == "http"
    assert Listener(bind=BIND, tls=TLS).scheme == "https"


def test_names_must_be_there() -> None:
    with pytest.raises(Invalid) as caught:
        config(Route(path="/a", upstream="two", listener="public"))

    assert caught.value.faults == (
        ("routes[0].upstream", "no upstream is called 'two'; there are: 'one'"),
        ("routes[0].listener", "no listener is called 'public'; there are: none has a name"),
    )
    assert str(caught.value).startswith("routes[0].upstream: no upstream is called 'two'")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (route("/a"), True),
        (route("/A"), False),
        (route("/a", host="h"), False),
        (route("/a", websocket=True), False),
        (Route(prefix="/a", upstream="one"), False),
        (route("/a", methods=("GET",)), False),
        (route("/a", headers={"X": "1"}), False),
        (Route(path="/a", respond=Respond()), False),
        (route("/a", drop_query=True), True),
    ],
)
def test_route_that_could_never_match(other: Route, *, same: bool) -> None:
    if not same:
        assert len(config(route("/a"), other).routes) == 2
        return
    with pytest.raises(Invalid) as caught:
        config(route("/a"), other)

    assert caught.value.faults == (("routes[1]", "is the same as routes[0]"),)


def test_names_of_headers_and_order_of_methods_make_no_difference() -> None:
    one = route("/a", methods=("GET", "PUT"), headers={"X-A": "1", "X-B": "2"})
    other = route("/a", methods=("PUT", "HEAD", "GET"), headers={"x-b": "2", "x-a": "1"})
    with pytest.raises(Invalid) as caught:
        config(one, other)

    assert caught.value.faults == (("routes[1]", "is the same as routes[0]"),)


@pytest.mark.parametrize(
    ("redirect", "more", "loops"),
    [
        (Redirect(scheme="http"), {}, True),
        (Redirect(scheme="http"), {"listener": "plain"}, True),
        (Redirect(scheme="https"), {"listener": "plain"}, False),
        (Redirect(scheme="https"), {"listener": "secure"}, True),
        (Redirect(scheme="https"), {}, True),
        (Redirect(scheme="https", host="h"), {}, False),
        (Redirect(scheme="https", port=8443), {}, False),
        (Redirect(scheme="https", path="/x"), {}, False),
        (Redirect(scheme="https"), {"rewrite": Rewrite(strip_prefix="/a")}, False),
    ],
)
def test_redirect_to_itself(redirect: Redirect, more: dict[str, Any], *, loops: bool) -> None:
    """A browser would go round until it gives up: so it is a fault of the file."""
    listeners = (
        Listener(bind=BIND, name="plain"),
        Listener(bind=Address("h", 2), name="secure", tls=TLS),
    )
    one = Route(prefix="/a", redirect=redirect, **more)
    if not loops:
        assert config(one, listeners=listeners).routes == (one,)
        return
    with pytest.raises(Invalid) as caught:
        config(one, listeners=listeners)

    ((key, reason),) = caught.value.faults
    name = "plain" if redirect.scheme == "http" else "secure"
    assert key == "routes[0].redirect"
    assert reason.startswith(f"leads to itself on listener {name!r}, which is {redirect.scheme}")


def test_upstreams_need_not_be_there() -> None:
    one = Route(path="/healthz", respond=Respond(body="ok"))

    assert Config(listeners=(Listener(bind=BIND),), routes=(one,)).upstreams == {}


def test_path_that_looks_like_a_prefix_is_another_route() -> None:
    both = config(route("/a*"), Route(prefix="/a", upstream="one"))

    assert [one.name for one in both.routes] == ["/a*", "/a*"]


@pytest.mark.parametrize(
    ("listeners", "faults"),
    [
        ([Listener(bind=BIND), Listener(bind=BIND)], ["listeners[1].bind"]),
        (
            [Listener(bind=Address(path="/s")), Listener(bind=Address(path="/s"))],
            ["listeners[1].bind"],
        ),
        ([Listener(bind=Address("h", 0)), Listener(bind=Address("h", 0))], []),
        (
            [Listener(bind=BIND, name="x"), Listener(bind=Address("h", 1), name="x")],
            ["listeners[1].name"],
        ),
        ([Listener(bind=Address("h", n)) for n in range(3)], []),
        ([Listener(bind=BIND)] * 3, ["listeners[1].bind", "listeners[2].bind"]),
    ],
)
def test_listeners_that_are_the_same(listeners: list[Listener], faults: list[str]) -> None:
    if not faults:
        assert config(route(), listeners=tuple(listeners)).listeners == tuple(listeners)
        return
    with pytest.raises(Invalid) as caught:
        config(route(), listeners=tuple(listeners))

    assert [key for key, _ in caught.value.faults] == faults


@pytest.mark.parametrize(
    "make",
    [
        lambda: Route(path="/a", upstream="one", host="a.example:443"),
        lambda: Route(path="/a", upstream="one", host="*example"),
        lambda: Route(path="/a", upstream="one", host="[::1]"),
        # It looks like an IPv6 address, but is a name with a port.
        lambda: Route(path="/a", upstream="one", host="cafe:443"),
        lambda: Route(path="/a", upstream="one", origins=("https://a.example",)),
        lambda: Route(path="/a", upstream="one", websocket=True, origins=("https://a.example/",)),
        lambda: Route(path="/a", upstream="one", websocket=True, origins=("a.example",)),
        lambda: Listener(bind=Address(srv="_a._tcp.b")),
        lambda: Timeouts(dial=float("inf")),
        lambda: Listener(bind=Address(host="a", port=1), backlog=2**31),
    ],
)
def test_what_could_never_work(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize(
    "host", ["a", "*.Example", "RT.example.org", "192.0.2.7", "::1", "a_b-c.d"]
)
def test_hosts(host: str) -> None:
    assert Route(path="/a", upstream="one", host=host).host == host.lower()


@pytest.mark.parametrize("origin", ["https://a.example", "http://[::1]:8080", "null"])
def test_origins(origin: str) -> None:
    route = Route(path="/a", upstream="one", websocket=True, origins=(origin,))

    assert route.origins == (origin,)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_worker_in_this_version(workers: int) -> None:
    with pytest.raises(ValueError, match="only 1 is supported by this version"):
        config(route(), workers=workers)


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("fd00::1", True),
        ("::1", False),
        ("unix", False),
    ],
)
def test_whom_a_listener_trusts(host: str, *, trusted: bool) -> None:
    proxy_protocol = ListenerProxyProtocol(trusted=("10.0.0.0/8", "192.0.2.7", "fd00::/8"))

    assert proxy_protocol.trusts(host) is trusted
    assert ListenerProxyProtocol(trusted=("unix",)).trusts(host) is (host == "unix")


def test_a_unix_socket_has_unix_peers() -> None:
    trusting = ListenerProxyProtocol(trusted=("10.0.0.0/8",))
    assert Listener(bind=BIND, proxy_protocol=trusting).proxy_protocol == trusting
    with pytest.raises(Invalid) as caught:
        Listener(bind=Address(path="/s"), proxy_protocol=trusting)

    reason = 'must hold "unix": this is a unix socket'
    assert caught.value.faults == (("proxy_protocol.trusted", reason),)
