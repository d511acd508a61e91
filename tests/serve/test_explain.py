"""What is said of a request is what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from proxy.config.load import parse_config
from proxy.serve.explain import explain
from proxy.serve.explanation import Candidate, Explanation, text
from proxy.serve.question import Question

from .world import (
    ACCEPTED,
    CONFIG,
    Recorder,
    open_world,
    read_all,
    read_head,
    status,
    token,
)

ROUTES = """
[[listeners]]
bind = "127.0.0.1:8080"

[[routes]]
path = "/deepstream"
websocket = true
drop_query = true
upstream = "nodes"
origins = [ "https://good.example" ]

[[routes]]
prefix = "/api"
methods = ["GET", "POST"]
rewrite = { strip_prefix = "/api" }
upstream = "nodes"
body_bytes = 5
requests = { per_second = 2, burst = 9 }

[[routes]]
prefix = "/"
headers = { X-Version = "2" }
host = "*.example.org"
respond = { status = 410, body = "gone", headers = { X-A = "b" } }

[[routes]]
prefix = "/old"
redirect = { host = "new.example" }

[[routes]]
path = "/inside"
allow = ["10.0.0.0/8"]
upstream = "nodes"
""" + CONFIG[CONFIG.index("[upstreams.nodes]") :]
CLIENT = "192.0.2.7"


def of(url: str, config: str = ROUTES, **options: Any) -> Explanation:
    return explain(parse_config(config), Question.of(url, **{"client": CLIENT} | options))


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("http://rt.example:8080/api/x?q", {}),
    ("http://rt.example:8080/api", {"headers": ["Cookie: a=b", "Connection: x", "X: y"]}),
    ("http://rt.example:8080/api", {"headers": ["X-Forwarded-For: 1.2.3.4", "Via: 1.1 x"]}),
    ("http://rt.example:8080/api", {"method": "DELETE"}),
    ("http://rt.example:8080/deepstream", {}),
    ("http://rt.example:8080/inside", {}),
    ("http://rt.example:8080/none", {}),
    ("http://rt.example:8080/api/../x", {}),
    ("http://rt.example:8080/api", {"method": "TRACE"}),
    ("http://a.example.org:8080/x", {"headers": ["X-Version: 2"]}),
    ("http://a.example.org:8080/x", {"headers": ["X-Version: 3"]}),
    ("http://rt.example:8080/old/x?y", {}),
    ("ws://rt.example:8080/old/x?y", {}),
    ("ws://rt.example:8080/deepstream?token=x", {}),
    ("ws://rt.example:8080/deepstream", {"headers": ["Sec-WebSocket-Protocol: mqtt"]}),
    ("ws://rt.example:8080/deepstream", {"headers": ["Origin: https://good.example"]}),
    ("ws://rt.example:8080/deepstream", {"headers": ["Origin: https://bad.example"]}),
    ("ws://rt.example:8080/deepstream", {"headers": ["Sec-WebSocket-Version: 8"]}),
    ("ws://rt.example:8080/deepstream/", {}),
    ("ws://rt.example:8080/api", {}),
]


def lines(pairs: Any) -> list[str]:
    """Return headers as they are told: but for those of the connection, and of each request."""
    told = [f"{name.decode().lower()}: {value.decode()}" for name, value in pairs]
    own = ("connection:", "upgrade:", "x-request-id:", "via:")
    return sorted(line for line in told if not line.startswith(own))


def told(found: Explanation) -> list[str]:
    pairs = [line.split(": ", 1) for line in found.sent[1:]]
    return lines((name.encode(), value.encode()) for name, value in pairs)


@pytest.mark.parametrize(("url", "options"), REQUESTS)
async def test_it_is_what_happens(url: str, options: dict[str, Any]) -> None:
    """Beside the same request, sent through the proxy to a node."""
    found = of(url, **options)
    request = Question.of(url, **options).request
    head = b"%s %s HTTP/1.1\r\n" % (request.method, request.target)
    head += b"".join(b"%s: %s\r\n" % pair for pair in request.headers) + b"\r\n"
    sent: list[bytes] = []

    async def accept(stream: trio.abc.Stream) -> None:
        sent.append(await read_head(stream))
        await stream.send_all(ACCEPTED)
        await read_all(stream)

    recorder = Recorder()
    async with open_world(ROUTES) as world:
        world.nodes["node-a"] = world.nodes["node-b"] = accept if found.websocket else recorder
        answer = await world.ask(head)
    (record,) = world.records

    assert found.route.partition(" ")[2] == record.route
    assert found.upstream == (record.upstream if record.node else "")
    if not found.upstream:
        assert (found.status, found.token) == (status(answer), token(answer))
        assert found.refused is (record.token not in ("", "proxy_internal_response"))
        for line in found.answer:
            assert f"\r\n{line}\r\n".encode() in answer
        return
    assert (found.status, found.refused) == (0, False)
    if found.websocket:
        first, *rest = sent[0].decode().split("\r\n")[:-2]
        assert found.sent[0] == first
        pairs = [line.split(": ", 1) for line in rest]
        assert told(found) == lines((name.encode(), value.encode()) for name, value in pairs)
    else:
        ((seen, _),) = recorder.requests
        assert found.sent[0] == f"{seen.method.decode()} {seen.target.decode()} HTTP/1.1"
        assert told(found) == lines(seen.headers)


def test_why_not_the_others() -> None:
    found = of("http://a.example.org:8080/api/x", method="DELETE")

    assert found.route == ""
    assert (found.status, found.answer) == (405, ["Allow: GET, HEAD, POST"])
    assert found.others == [
        ("routes[2] *.example.org/*", "is for requests with X-Version: 2"),
        ("routes[0] /deepstream", "is for path /deepstream"),
        ("routes[4] /inside", "is for path /inside"),
        ("routes[1] /api*", "is for GET, POST"),
        ("routes[3] /old*", "is for prefix /old"),
    ]


LISTENERS = """
[[listeners]]
bind = "127.0.0.1:8080"
name = "plain"
[[listeners]]
bind = "unix:/run/x"
name = "inside"
[[listeners]]
bind = "127.0.0.1:8081"
[[routes]]
path = "/a"
listener = "inside"
upstream = "u"
[[routes]]
path = "/a"
websocket = true
upstream = "u"
[[routes]]
prefix = "/a"
host = "h"
upstream = "u"
[upstreams.u]
balance = "hash"
hash_on = "query:k"
nodes = [
    "10.0.0.1:1",
    { address = "10.0.0.2:1", weight = 3, max_sessions = 7 },
    { address = "10.0.0.3:1", backup = true },
]
"""


@pytest.mark.parametrize(
    ("url", "listener", "expected"),
    [
        ("http://h:8080/a", None, "plain 127.0.0.1:8080"),
        ("http://h:8081/a", None, "127.0.0.1:8081"),
        # Somebody else may take connections to port 80 there.
        ("http://h/a", None, "plain 127.0.0.1:8080"),
        ("http://h:8080/a", "inside", "inside unix:/run/x"),
        ("http://h:8080/a", "127.0.0.1:8081", "127.0.0.1:8081"),
    ],
)
def test_listener(url: str, listener: str | None, expected: str) -> None:
    assert of(url, LISTENERS, listener=listener).listener == expected


@pytest.mark.parametrize(
    ("url", "listener", "reason"),
    [
        ("https://h/a", None, "no listener has TLS"),
        ("http://h/a", "other", "no listener is called 'other'"),
    ],
)
def test_no_listener(url: str, listener: str | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        of(url, LISTENERS, listener=listener)


def test_reasons() -> None:
    assert of("http://h:8080/a", LISTENERS).others == [
        ("routes[0] /a", "is for listener 'inside'"),
        ("routes[1] /a", "is for WebSocket only"),
    ]
    assert of("ws://x:8080/a?k", LISTENERS, listener="inside").others == [
        ("routes[0] /a", "is for plain requests only"),
        ("routes[2] h/a*", "is for host h"),
        ("routes[1] /a", "takes no query: nodes would not; drop_query takes it away"),
    ]


def test_a_key_points_to_a_node() -> None:
    """And to none if there is no key, or names are in the way."""
    chosen = set()
    for key in range(20):
        candidates = of(f"http://h:8080/a?k={key}", LISTENERS).candidates
        (one,) = (one for one in candidates if one.chosen)
        chosen.add(one.address)
    # Never the backup.
    assert chosen == {"10.0.0.1:1", "10.0.0.2:1"}
    assert of("http://h:8080/a", LISTENERS).candidates == [
        Candidate(address="10.0.0.1:1", weight=1, backup=False, max_sessions=0),
        Candidate(address="10.0.0.2:1", weight=3, backup=False, max_sessions=7),
        Candidate(address="10.0.0.3:1", weight=1, backup=True, max_sessions=0),
    ]
    named = LISTENERS.replace('"10.0.0.1:1"', '"node.internal:1"')
    assert not any(one.chosen for one in of("http://h:8080/a?k=1", named).candidates)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ('"10.0.0.1:1"', "10.0.0.1:1"),
        ('"unix:/run/node"', "localhost"),
        # Of several it is the one that is chosen.
        ('"10.0.0.1:1", "10.0.0.2:1"', "(of each node)"),
        ('"node.internal:1"', "(of each node)"),
    ],
)
def test_host_of_a_request_without(nodes: str, host: str) -> None:
    config = LISTENERS[: LISTENERS.index("[upstreams.u]")].replace('host = "h"', "")
    config += f"[upstreams.u]\nnodes = [ {nodes} ]\n"
    found = of("http://h:8080/a", config, headers=["Host:"], old=True)

    assert found.sent[1] == f"Host: {host}"


def test_what_is_too_much() -> None:
    """A handshake has no body, whatever it says."""
    long = ["Content-Length: 6"]
    assert of("http://h:8080/api", headers=long).status == 413
    assert of("http://h:8080/api", headers=["Content-Length: 5"]).status == 0
    assert of("ws://h:8080/deepstream", headers=["Content-Length: 9999999"]).status == 400
    assert of("http://h:8080/api", headers=["X: " + "y" * 2**14]).status == 431


async def test_the_node_of_a_key_is_the_one_that_is_asked() -> None:
    config = LISTENERS.replace("backup = true", "weight = 2")
    for key in range(10):
        (said,) = (
            one.address for one in of(f"http://h:8080/a?k={key}", config).candidates if one.chosen
        )
        async with open_world(config) as world:
            await world.ask(f"GET /a?k={key} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert f"{world.dialled[0]}:1" == said


def test_limits() -> None:
    plain = of("http://rt.example:8080/api").limits
    session = of("ws://rt.example:8080/deepstream").limits

    assert plain["requests.burst"] == 9
    # The route's own, and that of all.
    assert (plain["body_bytes"], plain["body_timeout"]) == (5, 60.0)
    assert "idle_timeout" not in plain
    assert (session["idle_timeout"], session["limits.message_bytes"]) == (900.0, 2**20)
    # 0 is no limit.
    assert "limits.frame_bytes" not in session
    assert "body_bytes" not in session


def test_text() -> None:
    assert text(of("http://h:8080/a?k=3", LISTENERS)).splitlines()[:9] == [
        "listener  plain 127.0.0.1:8080 (http)",
        "request   GET h:8080/a?k=3 (plain request from 192.0.2.7)",
        "route     routes[2] h/a*",
        "not       routes[0] /a: is for listener 'inside'",
        "          routes[1] /a: is for WebSocket only",
        "upstream  u (hash)",
        "nodes     10.0.0.1:1 (weight 1)",
        "          10.0.0.2:1 (weight 3, at most 7, this request's, by its key)",
        "          10.0.0.3:1 (weight 1, backup)",
    ]
    assert text(of("http://a.example.org:8080/", headers=["X-Version: 2"])).splitlines()[-3:] == [
        "answer    410 Gone: That is what this route answers. (proxy_internal_response)",
        "          X-A: b",
        "          Content-Type: text/plain; charset=utf-8",
    ]
    assert text(of("http://h:8080/x")).splitlines()[-1] == (
        "answer    404 Not Found: No route matches this host and path. (destination_not_found)"
    )


@pytest.mark.parametrize(("url", "options"), REQUESTS)
def test_for_programs(url: str, options: dict[str, Any]) -> None:
    found = of(url, **options)

    assert json.loads(json.dumps(found.fields()))["route"] == found.route
