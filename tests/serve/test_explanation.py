"""What is said, as data and as text."""

from __future__ import annotations

import json

import pytest

from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.serve.explanation import (
    Candidate,
    Explanation,
    TcpExplanation,
    bounds,
    label,
    listener_title,
    named_listener,
    pointed_to,
    pool_of,
    text,
)

CONFIG = """
[[listeners]]
bind = "127.0.0.1:8080"
name = "plain"
[[listeners]]
bind = "unix:/run/x"
[[routes]]
path = "/a"
upstream = "u"
[[routes]]
prefix = "/a"
host = "h"
websocket = true
upstream = "u"
ping = { client = 0.0 }
[upstreams.u]
proxy_protocol = "v2"
nodes = [
    { address = "10.0.0.1:1", backup = true },
    { address = "10.0.0.2:1", weight = 3, max_sessions = 7 },
]
[upstreams.named]
nodes = [ "node.internal:1" ]
"""


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG)


def test_label_is_where_it_stands(config: Config) -> None:
    assert [label(config, route) for route in config.routes] == ["routes[0] /a", "routes[1] h/a*"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("plain", "plain 127.0.0.1:8080"),
        ("127.0.0.1:8080", "plain 127.0.0.1:8080"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_listener_is_known_by_its_name_and_its_place(config: Config, name: str, title: str) -> None:
    assert listener_title(named_listener(config, name)) == title


def test_listener_that_is_not_there(config: Config) -> None:
    with pytest.raises(ValueError, match="no listener is called 'other'; there are: 'plain', 'uni"):
        named_listener(config, "other")


def test_a_key_points_to_a_node_of_the_first_choice(config: Config) -> None:
    pool = pool_of(config, "u")
    node = pointed_to(pool, b"key")

    assert node is not None
    assert node.name == "10.0.0.2:1"
    assert pointed_to(pool, b"") is None
    assert pointed_to(pool_of(config, "named"), b"key") is None


def test_no_bound_is_told_that_is_none(config: Config) -> None:
    assert dict(bounds("ping", config.routes[1].ping)) == {"ping.node": 30.0, "ping.timeout": 15.0}


def test_text_of_a_request(config: Config) -> None:
    found = Explanation(
        listener="plain 127.0.0.1:8080",
        scheme="http",
        client="192.0.2.7",
        request="GET h/a",
        websocket=False,
        route="routes[0] /a",
        sent=["GET /a HTTP/1.1", "Host: h"],
    )
    pool = pool_of(config, "u")
    found.note_pool(pool, pointed_to(pool, b"key"))

    assert text(found).splitlines() == [
        "listener  plain 127.0.0.1:8080 (http)",
        "request   GET h/a (plain request from 192.0.2.7)",
        "route     routes[0] /a",
        "upstream  u (least_connections)",
        "nodes     10.0.0.1:1 (weight 1, backup)",
        "          10.0.0.2:1 (weight 3, at most 7, this request's, by its key)",
        "proxy     a PROXY header (v2) begins each connection to a node",
        "sent      GET /a HTTP/1.1",
        "          Host: h",
    ]
    candidate = json.loads(json.dumps(found.fields()))["candidates"][1]
    assert Candidate(**candidate) == found.candidates[1]


def test_text_of_an_answer() -> None:
    found = Explanation(
        listener="plain 127.0.0.1:8080",
        scheme="http",
        client="192.0.2.7",
        request="GET h/a",
        websocket=True,
        others=[("routes[0] /a", "is for path /a")],
        refused=True,
        status=404,
        reason="No.",
        token="none",
        answer=["X-A: b"],
        limits={"a.b": 1},
    )

    assert text(found).splitlines() == [
        "listener  plain 127.0.0.1:8080 (http)",
        "request   GET h/a (WebSocket handshake from 192.0.2.7)",
        "route     none",
        "not       routes[0] /a: is for path /a",
        "answer    404 Not Found: No. (none)",
        "          X-A: b",
        "limits    a.b = 1",
    ]


@pytest.mark.parametrize(
    ("tls", "name", "lines"),
    [
        ("none", "", ["client    192.0.2.7"]),
        (
            "passed through",
            "h.example",
            [
                "client    192.0.2.7, asks for the server name h.example",
                "tls       passed through",
            ],
        ),
        (
            "terminated",
            "",
            ["client    192.0.2.7, asks for no server name", "tls       terminated"],
        ),
    ],
)
def test_text_of_a_connection(tls: str, name: str, lines: list[str]) -> None:
    found = TcpExplanation(
        listener="mqtt 127.0.0.1:1883",
        scheme="tcp",
        client="192.0.2.7",
        tls=tls,  # type: ignore[arg-type]  # one of three
        server_name=name,
        refused=True,
        reason="No.",
        token="none",
    )

    assert text(found).splitlines() == [
        "listener  mqtt 127.0.0.1:1883 (tcp)",
        *lines,
        "route     none",
        "answer    a reset: No. (none)",
    ]
