"""From a file to the model, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import datetime as dt
import json
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.checks import NewFile
from proxy.config.client_certificates import ClientCertificates
from proxy.config.forwarding import Forwarding, Hsts
from proxy.config.headers import HeaderRules
from proxy.config.http import Redirect, RequestRate, Respond, Rewrite
from proxy.config.load import load_config, parse_config
from proxy.config.model import (
    Config,
    Limits,
    Listener,
    ListenerProxyProtocol,
    Log,
    Shutdown,
    Timeouts,
)
from proxy.config.network import Network
from proxy.config.node_tls import NodeTls
from proxy.config.page import PAGE_BYTES, Page
from proxy.config.route import Ping, Route, SessionLimits
from proxy.config.tls import Certificate, ListenerTls, Tls
from proxy.config.upstream import (
    DetectDrain,
    Discovery,
    Drain,
    Hold,
    Node,
    Probe,
    Rebalance,
    Rest,
    Retry,
    Upstream,
)
from proxy.errors import ConfigError

MINIMAL = """
{more}
[[listeners]]
bind = "127.0.0.1:8080"
{listener}
[[routes]]
path = "/deepstream"
upstream = "one"
{route}
[upstreams.one]
nodes = ["127.0.0.1:6020"]
{upstream}
"""

#: Every key there is, none with its default.
FULL: dict[str, Any] = {
    "workers": 1,
    "listeners": [
        {
            "bind": "0.0.0.0:443",
            "name": "public",
            "backlog": 64,
            "hsts": {"max_age": 63_072_000, "include_subdomains": True, "preload": True},
            "tls": {
                "certificates": [
                    {
                        "cert_file": "cert.pem",
                        "key_file": "key.pem",
                        "passphrase_file": "key.pem",
                        "names": ["RT.example.org", "*.rt.example.org"],
                    },
                    {"cert_file": "cert.pem", "key_file": "key.pem", "passphrase_env": "KEY"},
                ],
                "minimum_version": "1.0",
                "maximum_version": "1.2",
                "ciphers": "ALL",
                "curve": "secp384r1",
                "prefer_server_ciphers": False,
                "tickets": 0,
                "handshake_timeout": 2,
                "unknown_sni": "reject",
                "client_certificates": {
                    "mode": "optional",
                    "ca_file": "cert.pem",
                    "crl_file": "key.pem",
                    "crl_check": "leaf",
                },
                "keylog_file": "keys.log",
            },
        },
        {
            "bind": "unix:/run/tidegate.sock",
            "name": "inside",
            "mode": "tcp",
            "proxy_protocol": {"trusted": ["10.0.0.0/8", "unix"]},
        },
    ],
    "routes": [
        {
            "path": "/deepstream",
            "upstream": "deepstream",
            "host": "rt.example.org",
            "listener": "public",
            "websocket": True,
            "origins": ["https://example.org"],
            "frames": "lenient",
            "limits": {
                "message_bytes": 2000,
                "node_message_bytes": 3000,
                "frame_bytes": 1000,
                "fragments": 8,
                "messages_per_second": 10,
                "bytes_per_second": 5000,
                "burst": 3,
                "exceeded": "close",
                "controls_per_second": 20,
                "held_bytes": 500_000,
                "sessions": 90,
                "sessions_per_address": 9,
                "handshakes_per_second": 1.5,
            },
            "ping": {"client": 40, "node": 50, "timeout": 6},
            "idle_timeout": 70,
            "write_stall": 8,
            "on_stall": "abort",
            "on_removed": "keep",
            "request_headers": {
                "set": {"X-Env": "prod"},
                "add": {"X-Client": "{client}"},
                "remove": ["Referer"],
            },
            "response_headers": {"set": {"X-Frame-Options": "DENY"}},
        },
        {
            "prefix": "/api",
            "upstream": "deepstream",
            "methods": ["GET", "POST"],
            "headers": {"X-Version": "2"},
            "rewrite": {"replace_prefix": "/v1"},
            "drop_query": True,
            "allow": ["10.0.0.0/8", "unix"],
            "deny": ["10.0.0.7"],
            "requests": {"per_second": 2, "burst": 5},
            "error_pages": {"502": "page.html"},
            "response_timeout": 5,
            "body_timeout": 6,
            "body_bytes": 7,
        },
        {
            "prefix": "/old",
            "rewrite": {"strip_prefix": "/old"},
            "redirect": {"scheme": "https", "host": "new.example", "port": 444, "status": 301},
        },
        {"path": "/one", "redirect": {"path": "/other"}},
        {"path": "/a", "rewrite": {"path": "/b"}, "upstream": "deepstream"},
        {
            "path": "/sorry",
            "respond": {
                "status": 503,
                "file": "page.html",
                "content_type": "text/html",
                "headers": {"X-A": "b"},
                "retry_after": 9,
            },
        },
        {"path": "/healthz", "respond": {"body": "ok"}},
        {
            "listener": "inside",
            "sni": "*.Example.org",
            "upstream": "mqtt",
            "half_close_timeout": 12,
        },
    ],
    "error_pages": {"5xx": "page.html"},
    "upstreams": {
        "deepstream": {
            "nodes": [
                "127.0.0.1:6020",
                {"address": "[::1]:6021", "weight": 2, "max_sessions": 9, "backup": True},
                "srv:_deepstream._tcp.example.org",
            ],
            "balance": "random_two",
            "hash_on": "cookie:session",
            "proxy_protocol": "v2",
            "tls": {
                "ca_file": "cert.pem",
                "server_name": "node",
                "cert_file": "cert.pem",
                "key_file": "key.pem",
                "passphrase_file": "key.pem",
                "minimum_version": "1.3",
                "session_reuse": False,
                "keylog_file": "keys.log",
            },
            "probe": {
                "kind": "http",
                "interval": 4,
                "down_interval": 1.5,
                "timeout": 3,
                "rise": 2,
                "fall": 4,
                "path": "/health-check",
                "host": "node.example.org",
                "origin": "https://example.org",
                "headers": {"Authorization": "Basic eDp5"},
                "status": [200, 204],
                "expect": "ok",
            },
            "keepalive": 16,
            "keepalive_idle": 30,
            "retry": {"attempts": 2, "share": 0.5, "rate": 1},
            "rest": {"first": 0.5, "longest": 8, "failures": 4, "window": 5},
            "hold": {"timeout": 20, "waiting": 500, "rate": 50},
            "panic": "refuse",
            "slow_start": 30,
            "detect_drain": {"closes": 20, "share": 0.25, "window": 2, "timeout": 60},
            "drain": {"rate": 5, "jitter": 0, "deadline": 60},
            "rebalance": {"tolerance": 0.5, "rate": 2},
            "max_session_age": 3600,
            "discovery": {
                "shortest": 5,
                "longest": 50,
                "timeout": 2,
                "nameservers": ["10.0.0.2:53", "[::1]:5353"],
            },
            "unavailable_status": 503,
        },
        "mqtt": {
            "nodes": ["unix:/run/mqtt"],
            "probe": {"kind": "websocket", "send": "x"},
            "tls": {
                "server_name": "mqtt",
                "cert_file": "cert.pem",
                "key_file": "key.pem",
                "passphrase_env": "PASS",
                "maximum_version": "1.2",
            },
        },
    },
    "tls": {
        "minimum_version": "1.1",
        "maximum_version": "1.2",
        "ciphers": "HIGH",
        "curve": "prime256v1",
        "prefer_server_ciphers": False,
        "tickets": 2,
        "handshake_timeout": 3,
        "unknown_sni": "reject",
        "renewal_interval": 4,
        "client_certificates": {"mode": "off", "ca_file": "cert.pem"},
        "keylog_file": "all.log",
    },
    "timeouts": {
        "handshake": 1.5,
        "keepalive": 2,
        "dial": 3.5,
        "upgrade": 4.5,
        "reach": 5.5,
        "response": 6.5,
        "body": 7.5,
        "close": 8.5,
        "linger": 9.5,
        "hook": 10.5,
    },
    "limits": {
        "connections": 10,
        "shedding": 0,
        "handshakes": 77,
        "handshake_steps": 3,
        "head_bytes": 4096,
        "target_bytes": 1024,
        "headers": 50,
        "body_bytes": 0,
        "addresses": 7,
    },
    "forwarding": {
        "trusted": ["10.0.0.0/8", "unix"],
        "believe": "forwarded",
        "headers": "both",
        "forwarded_for": "client",
        "via": "edge",
        "passes": 2,
        "hops": 9,
        "request_id": False,
        "client_certificates": ["subject", "certificate"],
    },
    "shutdown": {"rate": 10, "jitter": 1, "deadline": 10.0},
    "log": {"format": "json", "level": "debug", "access": False},
}


def minimal(*, listener: str = "", route: str = "", upstream: str = "", more: str = "") -> str:
    return MINIMAL.format(listener=listener, route=route, upstream=upstream, more=more)


def toml(value: Any) -> str:
    """Write a value as TOML, tables inline."""
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return "true" if value else "false"
        case dt.date() | dt.time():
            return value.isoformat()
    return repr(value)


def document(data: dict[str, Any]) -> str:
    return "\n".join(f"{toml(key)} = {toml(value)}" for key, value in data.items())


def problems(text: str, folder: Path | None = None) -> list[str]:
    """Return what is wrong with a text, without the name before each line."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="t.toml", folder=folder)
    lines = caught.value.problems
    assert all(line.startswith("t.toml: ") for line in lines)
    return [line.removeprefix("t.toml: ") for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config")
    for name in ("cert.pem", "key.pem"):
        (path / name).touch()
    (path / "page.html").write_text("<p>Sorry.")
    return path


def test_minimal() -> None:
    assert parse_config(minimal()) == Config(
        listeners=(Listener(bind=Address("127.0.0.1", 8080)),),
        routes=(Route(path="/deepstream", upstream="one"),),
        upstreams={"one": Upstream(nodes=(Node(address=Address("127.0.0.1", 6020)),))},
    )


def test_full(folder: Path) -> None:
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    certificate = Certificate(
        cert_file=cert_file,
        key_file=key_file,
        passphrase_file=key_file,
        names=("rt.example.org", "*.rt.example.org"),
    )
    other = Certificate(cert_file=cert_file, key_file=key_file, passphrase_env="KEY")
    public = Listener(
        bind=Address("0.0.0.0", 443),
        name="public",
        backlog=64,
        hsts=Hsts(max_age=63_072_000, include_subdomains=True, preload=True),
        tls=ListenerTls(
            certificates=(certificate, other),
            minimum_version="1.0",
            maximum_version="1.2",
            ciphers="ALL",
            curve="secp384r1",
            prefer_server_ciphers=False,
            tickets=0,
            handshake_timeout=2.0,
            unknown_sni="reject",
            client_certificates=ClientCertificates(
                mode="optional",
                ca_file=folder / "cert.pem",
                crl_file=folder / "key.pem",
                crl_check="leaf",
            ),
            keylog_file=NewFile(folder / "keys.log"),
        ),
    )
    inside = Listener(
        bind=Address(path="/run/tidegate.sock"),
        name="inside",
        mode="tcp",
        proxy_protocol=ListenerProxyProtocol(trusted=("10.0.0.0/8", "unix")),
    )
    socket = Route(
        path="/deepstream",
        upstream="deepstream",
        host="rt.example.org",
        listener="public",
        websocket=True,
        origins=("https://example.org",),
        frames="lenient",
        limits=SessionLimits(
            message_bytes=2000,
            node_message_bytes=3000,
            frame_bytes=1000,
            fragments=8,
            messages_per_second=10.0,
            bytes_per_second=5000.0,
            burst=3.0,
            exceeded="close",
            controls_per_second=20.0,
            held_bytes=500_000,
            sessions=90,
            sessions_per_address=9,
            handshakes_per_second=1.5,
        ),
        ping=Ping(client=40.0, node=50.0, timeout=6.0),
        idle_timeout=70.0,
        write_stall=8.0,
        on_stall="abort",
        on_removed="keep",
        request_headers=HeaderRules(
            set={"X-Env": "prod"}, add={"X-Client": "{client}"}, remove=("Referer",)
        ),
        response_headers=HeaderRules(set={"X-Frame-Options": "DENY"}),
    )
    deepstream = Upstream(
        nodes=(
            Node(address=Address("127.0.0.1", 6020)),
            Node(address=Address("::1", 6021), weight=2, max_sessions=9, backup=True),
            Node(address=Address(srv="_deepstream._tcp.example.org")),
        ),
        balance="random_two",
        hash_on="cookie:session",
        proxy_protocol="v2",
        tls=NodeTls(
            ca_file=folder / "cert.pem",
            server_name="node",
            cert_file=folder / "cert.pem",
            key_file=folder / "key.pem",
            passphrase_file=folder / "key.pem",
            minimum_version="1.3",
            session_reuse=False,
            keylog_file=NewFile(folder / "keys.log"),
        ),
        probe=Probe(
            kind="http",
            interval=4.0,
            down_interval=1.5,
            timeout=3.0,
            rise=2,
            fall=4,
            path="/health-check",
            host="node.example.org",
            origin="https://example.org",
            headers={"Authorization": "Basic eDp5"},
            status=(200, 204),
            expect="ok",
        ),
        keepalive=16,
        keepalive_idle=30.0,
        retry=Retry(attempts=2, share=0.5, rate=1.0),
        rest=Rest(first=0.5, longest=8.0, failures=4, window=5.0),
        hold=Hold(timeout=20.0, waiting=500, rate=50.0),
        panic="refuse",
        slow_start=30.0,
        detect_drain=DetectDrain(closes=20, share=0.25, window=2.0, timeout=60.0),
        drain=Drain(rate=5.0, jitter=0.0, deadline=60.0),
        rebalance=Rebalance(tolerance=0.5, rate=2.0),
        max_session_age=3600.0,
        discovery=Discovery(
            shortest=5.0,
            longest=50.0,
            timeout=2.0,
            nameservers=(Address("10.0.0.2", 53), Address("::1", 5353)),
        ),
        unavailable_status=503,
    )
    mqtt = Upstream(
        nodes=(Node(address=Address(path="/run/mqtt")),),
        probe=Probe(kind="websocket", send="x"),
        tls=NodeTls(
            server_name="mqtt",
            cert_file=folder / "cert.pem",
            key_file=folder / "key.pem",
            passphrase_env="PASS",
            maximum_version="1.2",
        ),
    )

    page = Page(folder / "page.html", b"<p>Sorry.")
    others = [
        Route(
            prefix="/api",
            upstream="deepstream",
            methods=("GET", "POST"),
            headers={"X-Version": "2"},
            rewrite=Rewrite(replace_prefix="/v1"),
            drop_query=True,
            allow=(Network.parse("10.0.0.0/8"), Network(None)),
            deny=(Network.parse("10.0.0.7/32"),),
            requests=RequestRate(per_second=2.0, burst=5),
            error_pages={"502": page},
            response_timeout=5.0,
            body_timeout=6.0,
            body_bytes=7,
        ),
        Route(
            prefix="/old",
            rewrite=Rewrite(strip_prefix="/old"),
            redirect=Redirect(scheme="https", host="new.example", port=444, status=301),
        ),
        Route(path="/one", redirect=Redirect(path="/other")),
        Route(path="/a", rewrite=Rewrite(path="/b"), upstream="deepstream"),
        Route(
            path="/sorry",
            respond=Respond(
                status=503,
                file=page,
                content_type="text/html",
                headers={"X-A": "b"},
                retry_after=9,
            ),
        ),
        Route(path="/healthz", respond=Respond(body="ok")),
    ]

    passage = Route(
        listener="inside", sni="*.example.org", upstream="mqtt", half_close_timeout=12.0
    )

    assert parse_config(document(FULL), folder=folder) == Config(
        listeners=(public, inside),
        routes=(socket, *others, passage),
        error_pages={"5xx": page},
        upstreams={"deepstream": deepstream, "mqtt": mqtt},
        tls=Tls(
            minimum_version="1.1",
            maximum_version="1.2",
            ciphers="HIGH",
            curve="prime256v1",
            prefer_server_ciphers=False,
            tickets=2,
            handshake_timeout=3.0,
            unknown_sni="reject",
            renewal_interval=4.0,
            client_certificates=ClientCertificates(mode="off", ca_file=folder / "cert.pem"),
            keylog_file=NewFile(folder / "all.log"),
        ),
        timeouts=Timeouts(
            handshake=1.5,
            keepalive=2.0,
            dial=3.5,
            upgrade=4.5,
            reach=5.5,
            response=6.5,
            body=7.5,
            close=8.5,
            linger=9.5,
            hook=10.5,
        ),
        limits=Limits(
            connections=10,
            shedding=0,
            handshakes=77,
            handshake_steps=3,
            head_bytes=4096,
            target_bytes=1024,
            headers=50,
            body_bytes=0,
            addresses=7,
        ),
        forwarding=Forwarding(
            trusted=("10.0.0.0/8", "unix"),
            believe="forwarded",
            headers="both",
            forwarded_for="client",
            via="edge",
            passes=2,
            hops=9,
            request_id=False,
            client_certificates=("subject", "certificate"),
        ),
        shutdown=Shutdown(rate=10.0, jitter=1.0, deadline=10.0),
        log=Log(format="json", level="debug", access=False),
    )


def sections(value: Any) -> Iterator[Any]:
    """Yield every section of a configuration, itself included."""
    if attrs.has(type(value)):
        yield value
        inner = [getattr(value, field.name) for field in attrs.fields(type(value))]
    elif isinstance(value, dict):
        inner = list(value.values())
    else:
        inner = list(value) if isinstance(value, tuple) else []
    for one in inner:
        yield from sections(one)


def test_full_leaves_no_key_at_its_default(folder: Path) -> None:
    """So `test_full` and the damage below are about all of them."""
    config = parse_config(document(FULL), folder=folder)
    left: set[str] = set()
    told: set[str] = set()
    for section in sections(config):
        for field in attrs.fields(type(section)):
            key = f"{type(section).__name__}.{field.name}"
            default = field.default
            if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
                default = default.factory()
            (left if getattr(section, field.name) == default else told).add(key)

    # An address is one of its kinds, and there is one number of workers.
    assert {key for key in left - told if not key.startswith("Address.")} == {"Config.workers"}


def test_whole_number_for_a_number_becomes_one() -> None:
    dial = parse_config(minimal(more="timeouts.dial = 3")).timeouts.dial

    assert (dial, type(dial)) == (3.0, float)


BALANCES = (
    "must be one of 'least_connections', 'round_robin', 'random_two', 'hash', 'least_latency', not"
)
SECTIONS = (
    "error_pages, forwarding, limits, listeners, log, routes, shutdown, timeouts, tls, "
    "upstreams, workers"
)
STRING = "must be a string"
INT, FLOAT, BOOL = "must be a whole number", "must be a number", "must be true or false"


@pytest.mark.parametrize(
    ("part", "text", "path", "reason"),
    [
        # What routes ask for, and answer.
        ("more", 'error_pages.502 = "t"', "error_pages.502", "no such file: t"),
        ("more", "error_pages.200 = 1", "error_pages.200", f"{STRING}, not a whole number"),
        (
            "route",
            'methods = ["get"]',
            "routes[0].methods",
            """must be methods like "GET", in capitals: 'get'""",
        ),
        (
            "route",
            'allow = ["10.0.0.1/8"]',
            "routes[0].allow[0]",
            "'10.0.0.1/8' is no range: 10.0.0.0/8 has it in it",
        ),
        ("route", 'deny = "unix"', "routes[0].deny", "must be an array, not a string"),
        ("route", "requests = {}", "routes[0].requests.per_second", "is missing"),
        (
            "route",
            "rewrite = {}",
            "routes[0].rewrite",
            'needs one of "strip_prefix", "replace_prefix" and "path"',
        ),
        (
            "route",
            'respond = { body = "" }',
            "routes[0]",
            'needs one of "upstream", "redirect" and "respond"',
        ),
        (
            "route",
            'redirect.scheme = "ws"',
            "routes[0].redirect.scheme",
            "must be one of 'http', 'https', not 'ws'",
        ),
        ("route", "body_bytes = -1", "routes[0].body_bytes", f"must be from 0 to {2**50}, not -1"),
        # Types are never coerced.
        ("listener", 'backlog = "80"', "listeners[0].backlog", f"{INT}, not a string"),
        ("listener", "backlog = 1.0", "listeners[0].backlog", f"{INT}, not a number"),
        ("listener", "name = 1", "listeners[0].name", "must be a string, not a whole number"),
        ("listener", "tls = true", "listeners[0].tls", "must be a table, not true or false"),
        ("route", "websocket = 1", "routes[0].websocket", f"{BOOL}, not a whole number"),
        ("route", 'websocket = "no"', "routes[0].websocket", f"{BOOL}, not a string"),
        ("route", 'origins = "*"', "routes[0].origins", "must be an array, not a string"),
        ("route", "origins = [1]", "routes[0].origins[0]", "must be a string, not a whole number"),
        ("more", "limits.headers = true", "limits.headers", f"{INT}, not true or false"),
        ("more", "timeouts.dial = true", "timeouts.dial", f"{FLOAT}, not true or false"),
        ("more", 'timeouts.dial = "2"', "timeouts.dial", f"{FLOAT}, not a string"),
        ("more", "timeouts.dial = 07:00:00", "timeouts.dial", f"{FLOAT}, not time"),
        ("more", "timeouts = []", "timeouts", "must be a table, not an array"),
        ("more", 'workers = "auto"', "workers", f"{INT}, not a string"),
        # Bounds and words.
        ("more", "timeouts.dial = 0", "timeouts.dial", "must be more than 0, not 0"),
        ("more", "timeouts.dial = nan", "timeouts.dial", "must be more than 0, not nan"),
        ("more", "limits.headers = 0", "limits.headers", "must be from 1 to 10000, not 0"),
        ("upstream", 'balance = "any"', "upstreams.one.balance", f"{BALANCES} 'any'"),
        ("upstream", "balance = 1", "upstreams.one.balance", f"{BALANCES} 1"),
        ("upstream", "balance = [[]]", "upstreams.one.balance", f"{BALANCES} [[]]"),
        (
            "upstream",
            "unavailable_status = 418",
            "upstreams.one.unavailable_status",
            "must be one of 500, 502, 503, 504, not 418",
        ),
        (
            "more",
            'log.format = "xml"',
            "log.format",
            "must be one of 'keyvalue', 'json', not 'xml'",
        ),
        # Fields that contradict each other.
        (
            "upstream",
            "rest.first = 60",
            "upstreams.one.rest.longest",
            "must be at least first (60)",
        ),
        ("route", 'prefix = "/"', "routes[0]", 'needs either "path" (exact) or "prefix"'),
        (
            "listener",
            "hsts = {}",
            "listeners[0].hsts",
            "is never sent: the listener is plain, and forwarding.trusted is empty",
        ),
        # What stands in headers.
        (
            "route",
            'request_headers.set."X Y" = "z"',
            "routes[0].request_headers.set.X Y",
            "'X Y' is not a header's name",
        ),
        (
            "route",
            'request_headers.add.Host = "z"',
            "routes[0].request_headers.add",
            "a request has one Host: it can be set",
        ),
        (
            "route",
            'response_headers.remove = ["Connection"]',
            "routes[0].response_headers.remove[0]",
            "'Connection' is the proxy's own on each of its connections",
        ),
        (
            "more",
            'forwarding.trusted = ["10.0.0.1/8"]',
            "forwarding.trusted[0]",
            "'10.0.0.1/8' is no range: 10.0.0.0/8 has it in it",
        ),
        # Keys that are not known, at each level.
        ("more", "tiemouts = {}", "tiemouts", f"unknown key; allowed here: {SECTIONS}"),
        ("more", '"a\\nb" = 1', "a\\nb", f"unknown key; allowed here: {SECTIONS}"),
        (
            "listener",
            "port = 1",
            "listeners[0].port",
            "unknown key; allowed here: backlog, bind, hsts, mode, name, proxy_protocol, tls",
        ),
        (
            "listener",
            "proxy_protocol = true",
            "listeners[0].proxy_protocol",
            "must be a table, not true or false",
        ),
        ("listener", "proxy_protocol = {}", "listeners[0].proxy_protocol.trusted", "is missing"),
        (
            "listener",
            "proxy_protocol.trusted = []",
            "listeners[0].proxy_protocol.trusted",
            "must have at least one entry",
        ),
        (
            "listener",
            'proxy_protocol.trusted = ["unix", "10.0.0.1/8"]',
            "listeners[0].proxy_protocol.trusted[1]",
            "'10.0.0.1/8' is no range: 10.0.0.0/8 has it in it",
        ),
        (
            "upstream",
            'proxy_protocol = "v3"',
            "upstreams.one.proxy_protocol",
            "must be one of 'v1', 'v2', not 'v3'",
        ),
        (
            "upstream",
            "rest.frist = 1",
            "upstreams.one.rest.frist",
            "unknown key; allowed here: failures, first, longest, window",
        ),
        (
            "upstream",
            "tls.verify = false",
            "upstreams.one.tls.verify",
            "unknown key; allowed here: ca_file, cert_file, key_file, keylog_file, "
            "maximum_version, minimum_version, passphrase_env, passphrase_file, server_name, "
            "session_reuse",
        ),
        ("more", "log.hue = 1", "log.hue", "unknown key; allowed here: access, format, level"),
        *[
            (
                "upstream",
                f"{section}.frist = 1",
                f"upstreams.one.{section}.frist",
                f"unknown key; allowed here: {allowed}",
            )
            for section, allowed in [
                (
                    "probe",
                    "down_interval, expect, fall, headers, host, interval, kind, origin, path, "
                    "rise, send, status, timeout",
                ),
                ("hold", "rate, timeout, waiting"),
                ("detect_drain", "closes, share, timeout, window"),
                ("rebalance", "rate, tolerance"),
                ("discovery", "longest, nameservers, shortest, timeout"),
            ]
        ],
        (
            "upstream",
            "frist = 1",
            "upstreams.one.frist",
            "unknown key; allowed here: balance, detect_drain, discovery, drain, hash_on, "
            "hold, keepalive, keepalive_idle, max_session_age, nodes, panic, probe, "
            "proxy_protocol, rebalance, rest, retry, slow_start, tls, unavailable_status",
        ),
        (
            "more",
            "upstreams.two.nodes = [ { address = 'n:1', frist = 1 } ]",
            "upstreams.two.nodes[0].frist",
            "unknown key; allowed here: address, backup, max_sessions, weight",
        ),
        # The types of an upstream's keys.
        *[
            ("upstream", text, f"upstreams.one.{path}", f"must be {kind}")
            for text, path, kind in [
                ("probe = 'tcp'", "probe", "a table, not a string"),
                ("rebalance = true", "rebalance", "a table, not true or false"),
                ("hold = 10", "hold", "a table, not a whole number"),
                ("slow_start = true", "slow_start", "a number, not true or false"),
                ("hash_on = 1", "hash_on", "a string, not a whole number"),
                ("rest.failures = 1.5", "rest.failures", "a whole number, not a number"),
                (
                    "detect_drain.closes = '5'",
                    "detect_drain.closes",
                    "a whole number, not a string",
                ),
                (
                    "discovery.nameservers = '10.0.0.2:53'",
                    "discovery.nameservers",
                    "an array, not a string",
                ),
                (
                    "probe = { kind = 'http', status = 200 }",
                    "probe.status",
                    "an array, not a whole number",
                ),
                (
                    "probe = { kind = 'http', status = [200, '204'] }",
                    "probe.status[1]",
                    "a whole number, not a string",
                ),
                (
                    "probe = { kind = 'http', headers = [] }",
                    "probe.headers",
                    "a table, not an array",
                ),
                (
                    "probe = { kind = 'http', headers.A = 1 }",
                    "probe.headers.A",
                    "a string, not a whole number",
                ),
                (
                    "probe.kind = 'udp'",
                    "probe.kind",
                    "one of 'none', 'tcp', 'http', 'websocket', 'deepstream', 'mqtt', not 'udp'",
                ),
            ]
        ],
        (
            "more",
            "upstreams.two.nodes = [ { address = 'n:1', backup = 1 } ]",
            "upstreams.two.nodes[0].backup",
            f"{BOOL}, not a whole number",
        ),
        (
            "more",
            "upstreams.two.nodes = [ 'n:1', { address = 'm:1', max_sessions = -1 } ]",
            "upstreams.two.nodes[1].max_sessions",
            "must be from 0 to 2147483648, not -1",
        ),
        ("upstream", "tls.cert_file = 'x'", "upstreams.one.tls.cert_file", "no such file: x"),
        # Addresses and certificates.
        (
            "more",
            "upstreams.two.nodes = ['n']",
            "upstreams.two.nodes[0].address",
            '\'n\' is not an address: "host:port", "[v6]:port", "unix:/path"',
        ),
        ("more", "upstreams.two.nodes = []", "upstreams.two.nodes", "must have at least one entry"),
        (
            "listener",
            "tls.certificates = []",
            "listeners[0].tls.certificates",
            "must have at least one entry",
        ),
        ("listener", "tls = {}", "listeners[0].tls.certificates", "is missing"),
        # Names.
        (
            "route",
            'listener = "public"',
            "routes[0].listener",
            "no listener is called 'public'; there are: none has a name",
        ),
        # Files.
        ("upstream", "tls.ca_file = 'none'", "upstreams.one.tls.ca_file", "no such file: none"),
        ("upstream", "tls.ca_file = ''", "upstreams.one.tls.ca_file", "no such file: ."),
        (
            "upstream",
            'tls.ca_file = "a\\u0000b"',
            "upstreams.one.tls.ca_file",
            "no such file: a\\x00b",
        ),
        (
            "upstream",
            f"tls.ca_file = '{'x' * 300}'",
            "upstreams.one.tls.ca_file",
            "File name too long",
        ),
    ],
)
def test_one_fault(part: str, text: str, path: str, reason: str) -> None:
    assert problems(minimal(**{part: text})) == [f"{path}: {reason}"]


def test_what_was_right_once_does_not_make_wrong_things_right(tmp_path: Path) -> None:
    """What reads a folder's files is kept, whatever kinds of tables it has come to know since."""
    parse_config(minimal(route="headers = { A = '1' }"), folder=tmp_path)
    parse_config(minimal(more="error_pages = {}"), folder=tmp_path)

    assert problems(minimal(route="headers = []"), tmp_path) == [
        "routes[0].headers: must be a table, not an array",
    ]


def test_references_and_duplicates() -> None:
    more = """
[[routes]]
path = "/deepstream"
upstream = "one"
[[routes]]
prefix = "/"
upstream = "two"
[[listeners]]
bind = "127.0.0.1:8080"
"""

    assert problems(minimal() + more) == [
        "routes[2].upstream: no upstream is called 'two'; there are: 'one'",
        "routes[1]: is the same as routes[0]",
        "listeners[1].bind: is the same as listeners[0].bind",
    ]


def test_all_faults_at_once() -> None:
    faults = problems(
        minimal(
            listener="backlog = 0\nport = 1\nname = 2",
            route="websocket = 1",
            upstream="balance = 'x'\ntls.ca_file = 'none'\nrest.first = 0",
            more="limits.headers = 0\nlog.level = 'loud'\nworkers = 2\nnone = 1",
        )
    )

    assert sorted(fault.partition(": ")[0] for fault in faults) == [
        "limits.headers",
        "listeners[0].backlog",
        "listeners[0].name",
        "listeners[0].port",
        "log.level",
        "none",
        "routes[0].websocket",
        "upstreams.one.balance",
        "upstreams.one.rest.first",
        "upstreams.one.tls.ca_file",
        "workers",
    ]


def test_empty_file_lacks_what_has_no_default() -> None:
    assert problems("") == ["listeners: is missing", "routes: is missing"]
    assert problems("[[listeners]]\n[[routes]]\n[upstreams.one]") == [
        "listeners[0].bind: is missing",
        'routes[0]: needs one of "upstream", "redirect" and "respond"',
        'routes[0]: needs either "path" (exact) or "prefix"',
        "upstreams.one.nodes: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "Invalid initial character"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        ("a = 2020-02-30", "Invalid date"),
        ("a = \0", "Invalid value"),
        (f"a = {'1' * 5000}", "Exceeds the limit"),
        (f"a = {'[' * 5000}{']' * 5000}", "recursion"),
    ],
    ids=["table", "value", "twice", "date", "nul", "long-number", "deep"],
)
def test_what_is_not_toml(text: str, reason: str) -> None:
    [problem] = problems(text)

    assert problem.startswith("not TOML: ")
    assert reason in problem


def test_files_are_relative_to_the_folder(folder: Path) -> None:
    (folder / "t.toml").write_text(document(FULL))
    config = load_config(folder / "t.toml")
    tls = config.listeners[0].tls

    assert config == load_config(str(folder / "t.toml"))
    assert tls is not None
    assert tls.certificates[0].cert_file == folder / "cert.pem"


def test_absolute_files_stay(folder: Path, tmp_path: Path) -> None:
    text = minimal(upstream=f"tls.ca_file = '{folder}/cert.pem'")
    tls = parse_config(text, folder=tmp_path).upstreams["one"].tls

    assert tls == NodeTls(ca_file=folder / "cert.pem")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"a = '\xff'", "is not UTF-8"), (b"a", "not TOML: ")],
)
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "t.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)

    assert str(caught.value).startswith(f"{file}: {reason}")


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


def test_pages_are_read_with_the_file(tmp_path: Path) -> None:
    """And are as they were then: what is sent does not change without a reload."""
    file = tmp_path / "sorry.html"
    file.write_bytes(bytes(PAGE_BYTES))
    text = minimal(more='error_pages.502 = "sorry.html"')
    config = parse_config(text, folder=tmp_path)

    assert config.error_pages["502"].body == bytes(PAGE_BYTES)
    file.write_bytes(bytes(PAGE_BYTES + 1))
    assert problems(text, tmp_path) == [f"error_pages.502: has more than 256 KiB: {file}"]
    file.unlink()
    assert problems(text, tmp_path) == [f"error_pages.502: no such file: {file}"]


def test_file_names_itself_in_faults(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("workers = 2")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "t.toml")

    assert len(caught.value.problems) == 3
    assert all(line.startswith(f"{tmp_path}/t.toml: ") for line in caught.value.problems)


Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> list[Place]:
    """Return the way to every value within, and to the whole."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def test_reading_again_and_again_leaves_nothing(folder: Path) -> None:
    """A process that runs for months reads its file often."""
    text = document(FULL)
    parse_config(text, folder=folder)
    before = len(linecache.cache)
    for _ in range(10):
        parse_config(text, folder=folder)

    assert len(linecache.cache) == before


scalars = st.one_of(
    texts,
    st.sampled_from(["", ".", "/", "/x", "unix:", "127.0.0.1:1", "cert.pem", "deepstream", "1.2"]),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, 256, 2**31, 10**400]),
    st.floats(),
    st.dates(),
    st.times(),
)
keys = texts | st.sampled_from(["path", "upstream", "nodes", "address", "certificates", "first"])
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The full configuration with one to three values replaced, or added to a table."""
    data = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(data)[1:]))
        target: Any = data
        for step in place[:-1]:
            target = target[step]
        added = isinstance(target, dict) and draw(st.booleans())
        target[draw(keys) if added else place[-1]] = draw(anything)
    return data


@given(damaged())
def test_any_damage_is_a_config_error(folder: Path, data: dict[str, Any]) -> None:
    lines: list[str] = []
    try:
        config = parse_config(document(data), name="t.toml", folder=folder)
    except ConfigError as exc:
        lines = str(exc).splitlines()
    else:
        assert {route.upstream for route in config.routes} <= {None, *config.upstreams}
        return

    assert lines
    for line in lines:
        assert line.startswith("t.toml: ")
        assert len(line.split(": ", 2)) == 3
