"""What is said of a connection is what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.serve.explain import explain
from proxy.serve.explain_tcp import explain_tcp
from proxy.serve.explanation import TcpExplanation, text
from proxy.serve.passage import Passage
from proxy.serve.question import Question, TcpQuestion
from tests.wire.test_client_hello import hello, server_name

from .world import open_world, read_all

CONFIG = """
[[listeners]]
name = "names"
mode = "tcp"
bind = "127.0.0.1:8443"

[[listeners]]
name = "mqtt"
mode = "tcp"
bind = "127.0.0.1:1883"

[[listeners]]
bind = "127.0.0.1:8080"

[[routes]]
listener = "mqtt"
upstream = "hashed"
deny = ["192.0.2.9"]
idle_timeout = 60.0
limits = { bytes_per_second = 1000.0, sessions = 5 }

[[routes]]
listener = "names"
sni = "*.example.org"
upstream = "hashed"

[[routes]]
listener = "names"
sni = "rt.example.org"
upstream = "other"

[[routes]]
prefix = "/"
upstream = "other"

[upstreams.hashed]
balance = "hash"
proxy_protocol = "v2"
nodes = [ "10.0.0.1:1", "10.0.0.2:1", { address = "10.0.0.3:1", backup = true } ]

[upstreams.other]
proxy_protocol = "v1"
nodes = [ "10.0.0.4:1" ]
"""
SECURE = """
[[listeners]]
name = "secure"
mode = "tcp"
bind = "127.0.0.1:8883"
tls = { certificates = [ { cert_file = "a.pem", key_file = "a.pem" } ], unknown_sni = "reject" }

[[routes]]
listener = "secure"
upstream = "other"
"""
CLIENT = "192.0.2.7"


def of(url: str, config: Config | None = None, **options: Any) -> TcpExplanation:
    question = TcpQuestion.of(url, **{"client": CLIENT} | options)
    return explain_tcp(config or parse_config(CONFIG), question)


@pytest.fixture
def all_kinds(tmp_path: Path) -> Config:
    """A listener that ends TLS beside the others; nobody reads its certificate here."""
    (tmp_path / "a.pem").touch()
    return parse_config(CONFIG + SECURE, folder=tmp_path)


NAMES = [
    ("tls://rt.example.org:8443", "rt.example.org"),
    ("tls://RT.Example.org.:8443", "rt.example.org"),
    ("tls://a.b.example.org:8443", "a.b.example.org"),
    ("tls://example.org:8443", "example.org"),
    ("tls://[2001:db8::1]:8443", ""),
    ("tcp://rt.example.org:8443", ""),
]


@pytest.mark.parametrize(("url", "name"), NAMES)
async def test_it_is_what_happens(url: str, name: str) -> None:
    """Beside a client that has come, and asked for that name."""
    found = of(url)
    said = hello(server_name(name.encode()) if name else b"") if found.tls != "none" else b"abc"
    async with open_world(CONFIG) as world:
        for host in (f"10.0.0.{number}" for number in range(1, 5)):
            world.nodes[host] = read_all
        client = world.connect(kind=Passage)
        await client.send_all(said)
        await client.send_eof()
        await read_all(client)
        await trio.testing.wait_all_tasks_blocked()
    (record,) = world.records

    assert found.server_name == name
    assert found.route.partition(" ")[2] == record.route
    assert (found.upstream, found.token) == (record.upstream, record.token)
    assert found.reason == (record.detail if found.refused else "")
    assert found.refused is not bool(record.node)
    chosen = [one.address for one in found.candidates if one.chosen]
    if found.balance == "hash":
        assert chosen == [record.node]
    for header in world.headers:
        assert found.proxy_protocol == ("v1" if header.startswith(b"PROXY ") else "v2")


def test_an_address_points_to_a_node() -> None:
    """Never to the backup, and to none where the address is no matter."""
    found = [of("tcp://h:1883", client=f"198.51.100.{number}") for number in range(9)]
    chosen = {one.address for each in found for one in each.candidates if one.chosen}

    assert chosen == {"10.0.0.1:1", "10.0.0.2:1"}
    assert not any(one.chosen for one in of("tls://rt.example.org:8443").candidates)


def test_why_not_the_others() -> None:
    assert of("tls://rt.example.org:8443").others == [
        ("routes[1] tcp:names/*.example.org", "matches too, and is less specific"),
        ("routes[0] tcp:mqtt", "is for listener 'mqtt'"),
    ]
    assert of("tls://a.example.org:8443").others == [
        ("routes[2] tcp:names/rt.example.org", "is for the server name rt.example.org"),
        ("routes[0] tcp:mqtt", "is for listener 'mqtt'"),
    ]


@pytest.mark.parametrize(
    ("url", "client", "token", "reason"),
    [
        (
            "tls://other.example:8443",
            CLIENT,
            "destination_not_found",
            "No route is for the server name 'other.example'.",
        ),
        (
            "tcp://rt.example.org:8443",
            CLIENT,
            "destination_not_found",
            "No route is for clients that ask for no server name.",
        ),
        (
            "tcp://rt.example.org:1883",
            "192.0.2.9",
            "http_request_denied",
            "This address is not allowed here.",
        ),
    ],
)
def test_who_is_refused(url: str, client: str, token: str, reason: str) -> None:
    found = of(url, client=client)

    assert (found.refused, found.token, found.reason) == (True, token, reason)
    assert (found.upstream, found.candidates) == ("", [])


@pytest.mark.parametrize(
    ("url", "listener", "expected", "tls"),
    [
        ("tcp://h:1883", None, "mqtt 127.0.0.1:1883", "none"),
        # Nobody looks at what is said there.
        ("tls://h:1883", None, "mqtt 127.0.0.1:1883", "passed through"),
        ("tls://h:8443", None, "names 127.0.0.1:8443", "passed through"),
        ("tls://h:8883", None, "secure 127.0.0.1:8883", "terminated"),
        # Somebody else may take connections to port 443 there.
        ("tls://h:443", "secure", "secure 127.0.0.1:8883", "terminated"),
        ("tcp://h", "127.0.0.1:1883", "mqtt 127.0.0.1:1883", "none"),
    ],
)
def test_listener(
    url: str, listener: str | None, expected: str, tls: str, all_kinds: Config
) -> None:
    found = of(url, all_kinds, listener=listener)

    assert (found.listener, found.tls) == (expected, tls)


@pytest.mark.parametrize(
    ("url", "listener", "reason"),
    [
        (
            "tcp://h:1884",
            None,
            'no listener is bound to port 1884; of mode "tcp" there are: '
            "listeners[0] (names 127.0.0.1:8443), listeners[1] (mqtt 127.0.0.1:1883), "
            "listeners[3] (secure 127.0.0.1:8883)",
        ),
        ("tcp://h:8883", None, "listeners[3] (secure 127.0.0.1:8883) has TLS: ask with tls://"),
        ("tcp://h:1", "secure", "listeners[3] (secure 127.0.0.1:8883) has TLS: ask with tls://"),
        (
            "tcp://h:8080",
            None,
            "listeners[2] (127.0.0.1:8080) is for HTTP: ask with http:// or https://",
        ),
        (
            "tcp://h:8080",
            "no",
            "no listener is called 'no'; there are: 'names', 'mqtt', '127.0.0.1:8080', 'secure'",
        ),
    ],
)
def test_no_listener(url: str, listener: str | None, reason: str, all_kinds: Config) -> None:
    with pytest.raises(ValueError) as caught:
        of(url, all_kinds, listener=listener)

    assert str(caught.value) == reason


@pytest.mark.parametrize("url", ["http://h:1883/", "https://h:8443/", "wss://h:8883/"])
def test_there_are_no_requests(url: str, all_kinds: Config) -> None:
    with pytest.raises(ValueError, match="bytes pass unseen: there are no requests; ask with tcp:"):
        explain(all_kinds, Question.of(url))


def test_limits(all_kinds: Config) -> None:
    plain = of("tcp://h:1883").limits
    named = of("tls://rt.example.org:8443").limits
    secure = of("tls://h:8883", all_kinds).limits

    assert list(plain) == [
        "hold.timeout",
        "timeouts.dial",
        "timeouts.reach",
        "idle_timeout",
        "half_close_timeout",
        "write_stall",
        "on_stall",
        "limits.bytes_per_second",
        "limits.burst",
        "limits.exceeded",
        "limits.sessions",
    ]
    assert (plain["idle_timeout"], plain["limits.sessions"]) == (60.0, 5)
    assert named["timeouts.handshake"] == 10.0
    assert (secure["tls.unknown_sni"], secure["tls.handshake_timeout"]) == ("reject", 10.0)


def test_text() -> None:
    assert text(of("tls://a.example.org:8443")).splitlines()[:11] == [
        "listener  names 127.0.0.1:8443 (tcp)",
        "client    192.0.2.7, asks for the server name a.example.org",
        "tls       passed through",
        "route     routes[1] tcp:names/*.example.org",
        "not       routes[2] tcp:names/rt.example.org: is for the server name rt.example.org",
        "          routes[0] tcp:mqtt: is for listener 'mqtt'",
        "upstream  hashed (hash)",
        "nodes     10.0.0.1:1 (weight 1, this client's, by its address)",
        "          10.0.0.2:1 (weight 1)",
        "          10.0.0.3:1 (weight 1, backup)",
        "proxy     a PROXY header (v2) begins each connection to a node",
    ]


def test_for_programs() -> None:
    found = of("tls://a.example.org:8443")

    assert json.loads(json.dumps(found.fields()))["server_name"] == "a.example.org"
