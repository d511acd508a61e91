"""Routing: exact for WebSocket, whole segments for prefixes, the most specific first."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.http import Respond
from proxy.config.route import Route
from proxy.errors import MethodNotAllowed, NoRoute, Refusal, UpgradeRequired
from proxy.serve import routes as routes_module
from proxy.serve.routes import Asked, Routes

OK = Respond(body="ok")

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


def ask(
    routes: Routes, target: str, *, host: str = "example.org", listener: str = "public", **more: Any
) -> str | None:
    """Return the upstream of a request's route."""
    return routes.match(Asked(listener, host, target, **more)).upstream


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
        ("/%61pi/%61dm%69n", False, "admin"),
        ("/api%2Fadmin", False, "all"),
        ("/%68ealthz?%78", False, "health"),
    ],
)
def test_matches(target: str, *, websocket: bool, upstream: str) -> None:
    assert ask(ROUTES, target, websocket=websocket) == upstream


@pytest.mark.parametrize(
    "target", ["/deepstreamXX", "/deepstream/", "/deepstream?x=1", "/api", "/", "/%64eepstream"]
)
def test_no_websocket_route(target: str) -> None:
    with pytest.raises(NoRoute):
        ask(ROUTES, target, websocket=True)


@pytest.mark.parametrize("keys", [{"path": "/a%2f%62"}, {"prefix": "/a%2f%62"}])
@pytest.mark.parametrize("target", ["/a%2fb", "/%61%2F%62?q"])
def test_encoded_paths_are_compared_as_well(keys: dict[str, Any], target: str) -> None:
    assert ask(Routes([Route(upstream="u", **keys)]), target) == "u"


def test_how_a_prefix_is_written_makes_it_no_longer() -> None:
    routes = [Route(prefix="/%7Eu", upstream="short"), Route(prefix="/~u/x", upstream="long")]
    assert ask(Routes(routes), "/~u/x/1") == "long"


def test_a_handshakes_path_has_to_be_what_a_node_compares_it_with() -> None:
    asked = Asked("public", "example.org", "/%64eepstream", websocket=True)
    assert {why for route, why in ROUTES.failed(asked) if route.upstream == "ws"} == {"path"}


@pytest.mark.parametrize("host", ["rt.example.org", "RT.Example.org:8443", "rt.example.org."])
def test_host(host: str) -> None:
    assert ask(ROUTES, "/deepstream", host=host, websocket=True) == "host"


HOSTS = Routes(
    [
        Route(prefix="/", upstream="any"),
        Route(prefix="/", host="*.org", upstream="org"),
        Route(prefix="/", host="*.example.org", upstream="example"),
        Route(prefix="/", host="rt.example.org", upstream="rt"),
        Route(prefix="/", host="::1", upstream="loopback"),
        # However specific its path is, that of another host is another's.
        Route(path="/x", upstream="any"),
        Route(path="/y", host="*.org", upstream="org-y"),
    ]
)


@pytest.mark.parametrize(
    ("host", "target", "upstream"),
    [
        ("rt.example.org", "/", "rt"),
        ("rt.example.org", "/x", "rt"),
        ("rt.example.org", "/y", "rt"),
        ("a.example.org", "/", "example"),
        ("b.a.example.org:80", "/x", "example"),
        ("x.rt.example.org", "/", "example"),
        ("example.org", "/", "org"),
        ("example.org", "/y", "org-y"),
        ("org", "/", "any"),
        (".org", "/", "any"),
        ("notexample.com", "/x", "any"),
        ("[::1]:80", "/", "loopback"),
        ("", "/", "any"),
        # No such name can be asked for; and comparing it would take long.
        ("a." * 8000 + "example.org", "/", "any"),
    ],
)
def test_one_host_goes_before_many(host: str, target: str, upstream: str) -> None:
    assert ask(HOSTS, target, host=host) == upstream


def test_listener() -> None:
    assert ask(ROUTES, "/only", host="", listener="inside") == "inside"


def test_a_listener_goes_before_all_else() -> None:
    """So that a redirect for all of a plain listener takes what has routes of its own, too."""
    routes = Routes(
        [
            Route(path="/deepstream", websocket=True, host="rt.example.org", upstream="ws"),
            Route(prefix="/", listener="plain", upstream="plain"),
        ]
    )
    rt = {"host": "rt.example.org"}

    assert ask(routes, "/deepstream", listener="plain", **rt) == "plain"
    assert ask(routes, "/deepstream", websocket=True, **rt) == "ws"


CONDITIONS = Routes(
    [
        Route(prefix="/a", upstream="any"),
        Route(prefix="/a", methods=("POST", "PUT"), upstream="write"),
        Route(prefix="/a", methods=("POST",), headers={"x-version": "2"}, upstream="write-2"),
        Route(prefix="/a", headers={"X-Version": "*"}, upstream="versioned"),
        Route(prefix="/a", headers={"X-Version": "2", "X-Beta": "yes"}, upstream="beta"),
        Route(prefix="/b", methods=("GET",), upstream="read"),
        Route(prefix="/b", methods=("DELETE",), upstream="delete"),
        Route(prefix="/b", methods=("PATCH",), headers={"X": "y"}, upstream="patch"),
    ]
)
TWO = (b"X-Version", b"2")


@pytest.mark.parametrize(
    ("method", "headers", "upstream"),
    [
        ("GET", [], "any"),
        ("POST", [], "write"),
        ("PUT", [], "write"),
        ("POST", [TWO], "write-2"),
        ("POST", [(b"x-VERSION", b"1"), TWO], "write-2"),
        ("GET", [TWO], "versioned"),
        ("GET", [(b"X-Version", b"")], "versioned"),
        # Equal in everything but their order in the file.
        ("PUT", [TWO], "write"),
        ("GET", [TWO, (b"X-Beta", b"yes")], "beta"),
        ("GET", [TWO, (b"X-Beta", b"YES")], "versioned"),
    ],
)
def test_more_conditions_go_first(method: str, headers: Any, upstream: str) -> None:
    assert ask(CONDITIONS, "/a/x", method=method, headers=headers) == upstream


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("PUT", [], b"DELETE, GET, HEAD"),
        ("PUT", [(b"X", b"y")], b"DELETE, GET, HEAD, PATCH"),
        # With the header it would be another route's; without it the method is not all that fails.
        ("PATCH", [], b"DELETE, GET, HEAD"),
    ],
)
def test_another_method_would_do(method: str, headers: Any, allowed: bytes) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ask(CONDITIONS, "/b", method=method, headers=headers)

    assert caught.value.headers == ((b"Allow", allowed),)
    assert ask(CONDITIONS, "/b", method="HEAD") == "read"


def test_plain_request_on_a_websocket_path() -> None:
    routes = Routes([Route(path="/deepstream", websocket=True, upstream="ws")])
    with pytest.raises(UpgradeRequired):
        ask(routes, "/deepstream?x")
    with pytest.raises(NoRoute):
        ask(routes, "/other")


def test_a_query_that_is_dropped_does_not_matter() -> None:
    routes = Routes([Route(path="/deepstream", websocket=True, drop_query=True, upstream="ws")])

    assert ask(routes, "/deepstream?token=x", websocket=True) == "ws"
    with pytest.raises(NoRoute):
        ask(routes, "/deepstream/?token=x", websocket=True)


def test_what_is_answered_here_is_so_to_handshakes_too() -> None:
    routes = Routes(
        [
            Route(prefix="/", respond=OK),
            Route(path="/deepstream", respond=OK),
            Route(path="/deepstream", websocket=True, upstream="ws"),
            Route(prefix="/api", upstream="api"),
        ]
    )

    assert ask(routes, "/deepstream", websocket=True) == "ws"
    for target in ("/deepstream?x", "/", "/api"):
        assert ask(routes, target, websocket=True) is None
    assert ask(routes, "/deepstream") is None
    assert ask(routes, "/api") == "api"


def test_reasons_are_in_the_order_of_trying() -> None:
    asked = Asked("public", "example.org", "/api/x", method="PUT")
    failed = [(route.upstream, why) for route, why in ROUTES.failed(asked)]

    assert failed == [
        ("inside", "listener"),
        ("host", "host"),
        ("ws", "path"),
        ("health", "path"),
        ("admin", "prefix"),
        ("both", "prefix"),
        ("api", None),
        ("all", None),
    ]
    assert [route.upstream for route in ROUTES] == [upstream for upstream, _ in failed]


def test_key_is_what_requests_a_route_is_for() -> None:
    routes = Routes([Route(path="/a", upstream="u")])
    one = Route(path="/a", upstream="other", websocket=True, idle_timeout=1.0)
    same = Route(path="/a", upstream="u", drop_query=True)
    others = [
        Route(path="/b", upstream="u"),
        Route(prefix="/a", upstream="u"),
        Route(path="/a", upstream="u", host="h"),
        Route(path="/a", upstream="u", listener="l"),
        Route(path="/a", upstream="u", methods=("GET",)),
        Route(path="/a", upstream="u", headers={"X": "1"}),
        one,
    ]

    assert routes.key(same) in routes.keys
    assert not any(routes.key(other) in routes.keys for other in others)
    assert len({routes.key(other) for other in others}) == len(others)


def test_listeners_are_known_by_where_they_are_bound() -> None:
    """So that a route is the same one, whatever its listener is called."""
    before = Routes([Route(path="/a", upstream="u", listener="a")], {"a": 443, "b": 80})
    after = Routes([Route(path="/a", upstream="u", listener="new")], {"new": 443})
    other = Routes([Route(path="/a", upstream="u", listener="a")], {"a": 80})

    assert before.keys == after.keys
    assert before.keys != other.keys


def test_what_clients_ask_for_is_not_kept() -> None:
    for number in range(100):
        ask(HOSTS, "/", host=f"a{number}.example.org", listener=f"l{number}")
        ask(HOSTS, "/", host=f"{number}.com")

    # Any, *.org, *.example.org, and those that are named.
    assert len(HOSTS._tables) <= 5


def test_routes_of_other_hosts_and_paths_are_not_even_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes = Routes(
        [
            *(Route(prefix="/", host=f"h{number}.org", upstream="host") for number in range(500)),
            *(Route(path=f"/p{number}", upstream="path") for number in range(500)),
            Route(prefix="/", upstream="all"),
        ]
    )
    looked_at = []
    before = routes_module._Entry.takes_path

    def takes_path(entry: Any, path: str) -> bool:
        looked_at.append(entry.route)
        return before(entry, path)

    for host, target, upstream in (
        ("h7.org", "/p7", "host"),
        ("x.org", "/p7", "path"),
        ("x.org", "/x", "all"),
    ):
        ask(routes, target, host=host, method="PUT")
        with monkeypatch.context() as patch:
            patch.setattr(routes_module._Entry, "takes_path", takes_path)
            assert ask(routes, target, host=host) == upstream
        assert len(looked_at) == 1
        looked_at.clear()


@pytest.mark.parametrize(
    ("routes", "hidden"),
    [
        ([{"prefix": "/"}, {"prefix": "/a"}], []),
        ([{"prefix": "/a", "methods": ("GET",)}, {"prefix": "/a", "methods": ("PUT", "GET")}], []),
        ([{"prefix": "/a", "methods": ("PUT", "GET")}, {"prefix": "/a", "methods": ("GET",)}], [1]),
        ([{"prefix": "/a", "headers": {"A": "*"}}, {"prefix": "/a", "headers": {"A": "1"}}], [1]),
        ([{"prefix": "/a", "headers": {"A": "1"}}, {"prefix": "/a", "headers": {"A": "*"}}], []),
        ([{"prefix": "/a"}, {"prefix": "/", "listener": "only"}], [0]),
        ([{"prefix": "/a", "host": "x.org"}, {"prefix": "/", "listener": "only"}], [0]),
        ([{"prefix": "/a"}, {"prefix": "/", "listener": "only", "host": "x.org"}], []),
        ([{"prefix": "/a"}, {"prefix": "/a/", "listener": "only"}], []),
        ([{"path": "/a", "websocket": True}, {"prefix": "/", "listener": "only"}], []),
        (
            [
                {"path": "/a", "websocket": True},
                {"prefix": "/", "websocket": True, "listener": "only"},
            ],
            [0],
        ),
        (
            [
                {"path": "/a", "websocket": True, "drop_query": True},
                {"path": "/a", "websocket": True, "listener": "only"},
            ],
            [],
        ),
    ],
)
def test_routes_that_nobody_gets_to(routes: list[dict[str, Any]], hidden: list[int]) -> None:
    made = [Route(upstream=f"{index}", **keys) for index, keys in enumerate(routes)]
    found = Routes(made).shadowed(["only"])

    assert [(made.index(one), made.index(by)) for one, by in found] == [(n, 1 - n) for n in hidden]
    if any("listener" in keys for keys in routes):
        assert Routes(made).shadowed(["only", "other"]) == []


# -- beside a slow oracle ------------------------------------------------------------------------

PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"]
NAMES = ["x.org", "a.x.org", "b.a.x.org", "org", "y.com", ""]


@st.composite
def some_route(draw: st.DrawFn) -> Route:
    """Any route, over a small world, in which much overlaps."""
    key, path = draw(st.sampled_from(["path", "prefix"])), draw(st.sampled_from(PATHS))
    kinds: list[dict[str, Any]] = [
        {"upstream": "u"},
        {"upstream": "u", "websocket": True},
        {"respond": OK},
    ]
    answer = dict(draw(st.sampled_from(kinds)))
    if key == "prefix" or not answer.get("websocket"):
        answer["methods"] = draw(st.sampled_from([None, ("GET",), ("POST", "GET")]))
    if "upstream" in answer:
        answer["drop_query"] = draw(st.booleans())
    answer[key] = path
    return Route(
        **answer,
        listener=draw(st.sampled_from([None, "l", "m"])),
        host=draw(st.sampled_from([None, "a.x.org", "x.org", "*.x.org", "*.org", "*.a.x.org"])),
        headers=draw(st.sampled_from([{}, {"A": "1"}, {"A": "*"}, {"A": "1", "B": "*"}])),
    )


@st.composite
def some_request(draw: st.DrawFn) -> Asked:
    return Asked(
        listener=draw(st.sampled_from(["l", "m", ""])),
        host=draw(st.sampled_from(NAMES)) + draw(st.sampled_from(["", ":80"])),
        target=draw(st.sampled_from(PATHS)) + draw(st.sampled_from(["", "?", "?q"])),
        websocket=draw(st.booleans()),
        method=draw(st.sampled_from(["GET", "HEAD", "POST", "PUT"])),
        headers=draw(st.lists(st.sampled_from([(b"a", b"1"), (b"A", b"2"), (b"B", b"3")]))),
    )


def takes(route: Route, asked: Asked) -> bool:
    """Say by the letter of the documentation whether a route takes a request."""
    path = asked.target.split("?")[0]
    name = asked.host.removesuffix(":80")
    plain_only = not route.websocket and route.upstream is not None
    websocket_only = route.websocket and route.path is not None
    if (plain_only and asked.websocket) or (websocket_only and not asked.websocket):
        return False
    exact = asked.websocket and route.websocket and route.upstream and not route.drop_query
    if route.path is not None and exact and "?" in asked.target:
        return False
    methods = set(route.methods or [asked.method])
    if "GET" in methods:
        methods.add("HEAD")
    wanted = route.prefix.strip("/").split("/") if route.prefix and route.prefix != "/" else []
    segments = path.removeprefix("/").split("/")
    host_fits = (
        route.host is None
        or route.host == name
        or (route.host[:2] == "*." and name.endswith(route.host[1:]))
    )
    path_fits = (
        path == route.path
        if route.path is not None
        else segments[: len(wanted)] == wanted
        and (not (route.prefix or "").endswith("/") or len(segments) > len(wanted))
    )
    return (
        route.listener in (None, asked.listener)
        and host_fits
        and path_fits
        and asked.method in methods
        and all(
            any(
                name.decode().lower() == key.lower() and value in ("*", text.decode())
                for name, text in asked.headers
            )
            for key, value in route.headers.items()
        )
    )


def before(one: Route, other: Route) -> bool:
    """Say by the letter of the documentation which of two routes goes first; False: neither."""
    for rank in (
        lambda r: r.listener is not None,
        lambda r: r.host is not None,
        lambda r: r.host is not None and not r.host.startswith("*."),
        lambda r: len(r.host) if r.host and r.host.startswith("*.") else 0,
        lambda r: r.path is not None,
        lambda r: len(r.prefix or ""),
        lambda r: len(r.headers) + bool(r.methods) + (r.takes != (True, True)),
    ):
        if rank(one) != rank(other):
            return bool(rank(one) > rank(other))
    return False


@given(st.lists(some_route(), max_size=8), st.lists(some_request(), min_size=1, max_size=5))
def test_it_is_what_trying_all_of_them_comes_to(routes: list[Route], requests: list[Asked]) -> None:
    table = Routes(routes)
    for asked in requests:
        best: Route | None = None
        for route in routes:
            if takes(route, asked) and (best is None or before(route, best)):
                best = route
        found: Route | None = None
        with suppress(Refusal):
            found = table.match(asked)

        assert found is best
        # Of two that are equal it is the first.
        assert not any(found is route for route, _ in table.shadowed(["l", "m", ""]))
        # And what is explained is what happens.
        assert next((route for route, why in table.failed(asked) if why is None), None) is best


def test_what_is_remembered_has_a_bound_and_never_hides_a_condition() -> None:
    routes = Routes([Route(prefix="/", upstream="all"), Route(path="/a", upstream="a")])
    for number in range(5000):
        assert ask(routes, f"/{number}") == "all"
        assert ask(routes, "/a") == "a"
        assert len(routes._known) <= 1000
    routes = Routes([Route(prefix="/", upstream="all")])
    ask(routes, "/" + "x" * 500)
    ask(routes, "/", method="X" * 500)
    assert not routes._known

    routes = Routes(
        [
            Route(prefix="/", upstream="all"),
            Route(prefix="/", upstream="beta", headers={"X-Beta": "1"}),
            Route(path="/get", upstream="get", methods=("GET",)),
        ]
    )
    for _ in range(2):
        assert ask(routes, "/") == "all"
        assert ask(routes, "/", headers=[(b"X-Beta", b"1")]) == "beta"
        assert ask(routes, "/get") == "get"
        assert ask(routes, "/get", method="POST") == "all"
