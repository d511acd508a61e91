"""Routing: exact for WebSocket, whole segments for prefixes, the most specific first."""

from __future__ import annotations

import attrs
import pytest

from proxy.config.address import Address
from proxy.config.model import Listener
from proxy.config.route import Route
from proxy.errors import NoRoute, UpgradeRequired
from proxy.serve.routes import Routes

PUBLIC = Listener(name="public", bind=Address(host="a", port=1))
INSIDE = Listener(name="inside", bind=Address(host="a", port=2))

ROUTES = Routes(
    [
        Route(prefix="/", upstream="all"),
        Route(prefix="/api", upstream="api"),
        Route(prefix="/api/admin", upstream="admin"),
        Route(prefix="/both", websocket=True, upstream="both"),
        Route(path="/deepstream", websocket=True, upstream="ws"),
        Route(path="/healthz", upstream="health"),
        Route(path="/deepstream", websocket=True, host="rt.example.org", upstream="host"),
        Route(path="/only", listener="inside", upstream="inside"),
    ]
)


@pytest.mark.parametrize(
    ("target", "websocket", "upstream"),
    [
        ("/deepstream", True, "ws"),
        ("/api", False, "api"),
        ("/api/", False, "api"),
        ("/api/x?y", False, "api"),
        ("/apix", False, "all"),
        ("/api/admin/x", False, "admin"),
        ("/api/administrator", False, "api"),
        ("/both/x?y", True, "both"),
        ("/both", False, "both"),
        ("/healthz?x", False, "health"),
        ("/healthz/", False, "all"),
        ("/", False, "all"),
        ("/only", False, "all"),
    ],
)
def test_matches(target: str, *, websocket: bool, upstream: str) -> None:
    route = ROUTES.match(PUBLIC, "example.org", target, websocket=websocket)

    assert route.upstream == upstream


@pytest.mark.parametrize(
    "target", ["/deepstreamXX", "/deepstream/", "/deepstream?x=1", "/api", "/", "/%64eepstream"]
)
def test_no_websocket_route(target: str) -> None:
    with pytest.raises(NoRoute):
        ROUTES.match(PUBLIC, "example.org", target, websocket=True)


@pytest.mark.parametrize("host", ["rt.example.org", "RT.Example.org:8443"])
def test_host(host: str) -> None:
    assert ROUTES.match(PUBLIC, host, "/deepstream", websocket=True).upstream == "host"


def test_listener() -> None:
    assert ROUTES.match(INSIDE, "", "/only", websocket=False).upstream == "inside"


def test_plain_request_on_a_websocket_path() -> None:
    routes = Routes([Route(path="/deepstream", websocket=True, upstream="ws")])
    with pytest.raises(UpgradeRequired):
        routes.match(PUBLIC, "", "/deepstream?x", websocket=False)
    with pytest.raises(NoRoute):
        routes.match(PUBLIC, "", "/other", websocket=False)


def test_route_is_there_whatever_else_it_says() -> None:
    route = Route(path="/a", websocket=True, upstream="u")
    routes = Routes([route, Route(prefix="/b", upstream="u")])

    assert attrs.evolve(route, upstream="other", idle_timeout=1.0) in routes
    assert attrs.evolve(route, websocket=False) not in routes
    assert attrs.evolve(route, host="h") not in routes
    assert attrs.evolve(route, listener="l") not in routes
    assert Route(prefix="/b", websocket=True, upstream="u") not in routes
