"""Which route of a TCP listener a client is for."""

from __future__ import annotations

import pytest

from proxy.config.route import Route
from proxy.errors import NoRoute
from proxy.serve.passages import Passages
from proxy.serve.routes import Routes


def tcp(upstream: str, sni: str | None = None, listener: str = "tls") -> Route:
    return Route(listener=listener, sni=sni, upstream=upstream)


ROUTES = [
    tcp("any"),
    tcp("below", "*.example.org"),
    tcp("deeper", "*.rt.example.org"),
    tcp("exact", "a.rt.example.org"),
    tcp("named", "a.rt.example.org", "names"),
    tcp("mqtt", listener="mqtt"),
    Route(path="/a", upstream="http"),
    Route(path="/a", upstream="http", listener="web"),
]
PASSAGES = Passages(ROUTES)


@pytest.mark.parametrize(
    ("name", "upstream"),
    [
        ("a.rt.example.org", "exact"),
        ("b.rt.example.org", "deeper"),
        ("x.a.rt.example.org", "deeper"),
        ("rt.example.org", "below"),
        ("b.example.org", "below"),
        ("example.org", "any"),
        ("badexample.org", "any"),
        ("a.rt.example.org.evil", "any"),
        ("localhost", "any"),
        ("", "any"),
    ],
)
def test_the_most_specific_goes_first(name: str, upstream: str) -> None:
    assert PASSAGES.match("tls", name).upstream == upstream


@pytest.mark.parametrize(
    ("listener", "name", "detail"),
    [
        ("names", "b.rt.example.org", "No route is for the server name 'b.rt.example.org'."),
        ("names", "", "No route is for clients that ask for no server name."),
        ("web", "", "No route is for clients that ask for no server name."),
    ],
)
def test_there_may_be_none(listener: str, name: str, detail: str) -> None:
    with pytest.raises(NoRoute) as caught:
        PASSAGES.match(listener, name)

    assert caught.value.detail == detail


def test_names_are_asked_for_only_where_it_depends_on_them() -> None:
    asking = [one for one in ("tls", "names", "mqtt", "web") if PASSAGES.asks(one)]

    assert asking == ["tls", "names"]


def test_they_are_not_for_requests_and_each_is_a_route_of_its_own() -> None:
    routes = Routes(ROUTES)

    assert len(routes.keys) == len(ROUTES)


@pytest.mark.parametrize("name", ["a.rt.example.org", "b.rt.example.org", "b.example.org", "x", ""])
@pytest.mark.parametrize("listener", ["tls", "names", "mqtt"])
def test_why_not_the_others(listener: str, name: str) -> None:
    """Of those that fail in nothing the first is the one."""
    failed = PASSAGES.failed(listener, name)
    taking = [route for route, why in failed if why is None]

    assert len(failed) == sum(route.kind == "tcp" for route in ROUTES)
    assert all((route.listener == listener) is (why != "listener") for route, why in failed)
    if taking:
        assert PASSAGES.match(listener, name) is taking[0]
    else:
        assert listener == "names"
    if (listener, name) == ("tls", "b.example.org"):
        assert [(route.upstream, why) for route, why in failed] == [
            ("exact", "sni"),
            ("named", "listener"),
            ("deeper", "sni"),
            ("below", None),
            ("any", None),
            ("mqtt", "listener"),
        ]
