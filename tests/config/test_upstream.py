"""An upstream's section: its defaults, its bounds, and every fault with its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from proxy.config.address import Address
from proxy.config.checks import Invalid
from proxy.config.load import parse_config
from proxy.config.node_tls import NodeTls
from proxy.config.upstream import (
    DetectDrain,
    Discovery,
    Drain,
    Hold,
    Node,
    Probe,
    ProbeKind,
    Rebalance,
    Rest,
    Upstream,
)
from proxy.errors import ConfigError

NODE = Node(address=Address("10.0.0.1", 6020))
KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)
TEXT = """
[[listeners]]
bind = "127.0.0.1:8080"
[[routes]]
path = "/deepstream"
upstream = "one"
[upstreams.one]
"""
ONE = 'nodes = [ "10.0.0.1:6020" ]'


def parse(*lines: str, nodes: str = ONE) -> Upstream:
    return parse_config("\n".join((TEXT, nodes, *lines)), name="t").upstreams["one"]


def upstream(**options: Any) -> Upstream:
    return Upstream(**({"nodes": (NODE,)} | options))


def faults(make: Any, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as caught:
        make(**options)
    return list(caught.value.faults)


def test_defaults() -> None:
    """Whoever changes one changes what operators rely on."""
    assert parse() == Upstream(
        nodes=(Node(address=Address("10.0.0.1", 6020), weight=1, backup=False, max_sessions=0),),
        balance="least_connections",
        hash_on="client",
        tls=None,
        proxy_protocol=None,
        probe=Probe(
            kind="none",
            interval=2,
            down_interval=0.5,
            timeout=2,
            rise=1,
            fall=2,
            path=None,
            host=None,
            origin=None,
            headers={},
            status=(),
            send="",
            expect="",
        ),
        rest=Rest(first=1, longest=30, failures=3, window=10),
        hold=Hold(timeout=10, waiting=100_000, rate=200),
        panic="try",
        slow_start=10,
        detect_drain=DetectDrain(closes=5, share=0.5, window=1, timeout=35),
        drain=Drain(rate=50, jitter=0.5, deadline=600),
        rebalance=None,
        max_session_age=0,
        discovery=Discovery(shortest=1, longest=60, timeout=5, nameservers=()),
        unavailable_status=500,
    )
    assert Rebalance() == Rebalance(tolerance=0.2, rate=10)


def test_defaults_suit_each_other() -> None:
    one = upstream()

    # deepstream lingers for 30 s at most: a node is not used again while it does.
    assert one.detect_drain.timeout > 30
    # A node that rests for the first time may be asked again while its clients are held.
    assert one.rest.first < one.hold.timeout
    assert one.probe.down_interval < one.probe.interval


@pytest.mark.parametrize(("version", "shares"), [(None, True), ("v1", False), ("v2", False)])
def test_a_connection_that_tells_of_one_client_carries_no_other(
    version: str | None, *, shares: bool
) -> None:
    assert upstream(proxy_protocol=version).keeps_connections is shares


def test_everything() -> None:
    upstream = parse(
        'balance = "random_two"',
        'hash_on = "cookie:sid"',
        'probe = { kind = "http", path = "/ready?full=1", host = "h", origin = "https://o",'
        ' headers = { X-A = "b" }, status = [200, 204], expect = "ok" }',
        "rebalance = {}",
        'discovery.nameservers = [ "10.0.0.2:53", "[::1]:53" ]',
        nodes='nodes = [ "a.example:1", { address = "srv:_d._tcp.b.example", backup = true } ]',
    )

    assert [str(node.address) for node in upstream.nodes] == [
        "a.example:1",
        "srv:_d._tcp.b.example",
    ]
    assert upstream.nodes[1].backup
    assert upstream.probe.target == "/ready?full=1"
    assert upstream.probe.status == (200, 204)
    assert upstream.rebalance == Rebalance(tolerance=0.2, rate=10)
    assert upstream.discovery.nameservers == (Address("10.0.0.2", 53), Address("::1", 53))


# Bounds.


@pytest.mark.parametrize(
    ("kind", "field", "value", "reason"),
    [
        (Rest, "first", 0.0, "must be more than 0, not 0"),
        (Rest, "window", 0.0, "must be more than 0, not 0"),
        (Rest, "failures", 0, "must be from 1 to 2147483648, not 0"),
        (Probe, "interval", 0.0, "must be more than 0, not 0"),
        (Probe, "down_interval", -1.0, "must be more than 0, not -1"),
        (Probe, "timeout", float("inf"), "must be finite: every wait has an end"),
        (Probe, "rise", 0, "must be from 1 to 1000, not 0"),
        (Probe, "fall", 1001, "must be from 1 to 1000, not 1001"),
        (Hold, "timeout", -0.1, "must be from 0 to 3600, not -0.1"),
        (Hold, "timeout", 3601.0, "must be from 0 to 3600, not 3601.0"),
        (Hold, "waiting", 0, "must be from 1 to 2147483648, not 0"),
        (Hold, "rate", 0.0, "must be from 0.1 to 1000000, not 0.0"),
        (DetectDrain, "closes", -1, "must be from 0 to 2147483648, not -1"),
        (DetectDrain, "share", 0.0, "must be from 0.01 to 1.0, not 0.0"),
        (DetectDrain, "share", 1.5, "must be from 0.01 to 1.0, not 1.5"),
        (DetectDrain, "window", 0.0, "must be more than 0, not 0"),
        (DetectDrain, "timeout", 0.0, "must be more than 0, not 0"),
        (Rebalance, "tolerance", 0.0, "must be from 0.01 to 10.0, not 0.0"),
        (Rebalance, "tolerance", float("nan"), "must be from 0.01 to 10.0, not nan"),
        (Rebalance, "rate", 0.0, "must be from 0.01 to 100000, not 0.0"),
        (Discovery, "shortest", 0.0, "must be more than 0, not 0"),
        (Discovery, "longest", -1.0, "must be more than 0, not -1"),
        (Discovery, "timeout", 0.0, "must be more than 0, not 0"),
        (upstream, "slow_start", -1.0, "must be from 0 to 3600, not -1.0"),
        (Drain, "rate", 0.0, "must be from 0.01 to 1000000, not 0.0"),
        (upstream, "max_session_age", -1.0, "must be from 0 to 100000000, not -1.0"),
        (upstream, "unavailable_status", 404, "must be one of 500, 502, 503, 504, not 404"),
        (upstream, "unavailable_status", 200, "must be one of 500, 502, 503, 504, not 200"),
        (upstream, "unavailable_status", 501, "must be one of 500, 502, 503, 504, not 501"),
    ],
)
def test_numbers_have_bounds(kind: Any, field: str, value: float, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**{field: value})

    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("weight", 0, "must be from 1 to 256, not 0"),
        ("weight", 257, "must be from 1 to 256, not 257"),
        ("max_sessions", -1, "must be from 0 to 2147483648, not -1"),
        ("address", Address("n", 0), "a node needs a port"),
    ],
)
def test_node_has_bounds(field: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Node(**({"address": NODE.address} | {field: value}))

    assert str(caught.value) == reason


# What contradicts what.


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (Rest, {"first": 2.0, "longest": 1.0}, ("longest", "must be at least first (2)")),
        (Rest, {"longest": 0.5}, ("longest", "must be at least first (1)")),
        (Discovery, {"shortest": 61.0}, ("longest", "must be at least shortest (61)")),
        (upstream, {"nodes": (NODE, NODE)}, ("nodes[1]", "is the same as nodes[0]")),
        (
            upstream,
            {"nodes": (NODE, Node(address=NODE.address, weight=2, backup=True))},
            ("nodes[1]", "is the same as nodes[0]"),
        ),
        (
            upstream,
            {"nodes": (Node(address=NODE.address, backup=True),)},
            ("nodes", "are all backups: one has to be a node of the first choice"),
        ),
        *[
            (
                upstream,
                {"nodes": (NODE, Node(address=address)), "tls": NodeTls()},
                ("nodes[1]", "has no host name to check: tls needs server_name"),
            )
            for address in (Address(path="/s"), Address(srv="_a._tcp.b"))
        ],
    ],
)
def test_keys_that_contradict_each_other(
    make: Any, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert faults(make, **options) == [expected]


def test_all_faults_of_an_upstream_at_once() -> None:
    socket = Node(address=Address(path="/s"), backup=True)

    assert [key for key, _ in faults(upstream, nodes=(socket, socket), tls=NodeTls())] == [
        "nodes[1]",
        "nodes[0]",
        "nodes[1]",
        "nodes",
    ]


def test_keys_that_belong_together() -> None:
    both = NodeTls(cert_file=Path("c"), key_file=Path("k"), server_name="Node.Example")
    nodes = (Node(address=Address(path="/s")), Node(address=Address(srv="_a._tcp.b")), NODE)

    assert both.server_name == "node.example"
    assert upstream(nodes=nodes, tls=both).tls is both
    assert upstream(nodes=(NODE, Node(address=Address("b", 1), backup=True))).nodes[1].backup
    assert Rest(first=3.0, longest=3.0).longest == 3.0
    assert Discovery(shortest=9.0, longest=9.0).longest == 9.0


# What single keys may hold.


@pytest.mark.parametrize(
    "source", ["client", "header:X-User", "cookie:session", "query:id", "header:x_y.z"]
)
def test_hash_sources(source: str) -> None:
    assert upstream(hash_on=source).hash_on == source


@pytest.mark.parametrize(
    "source",
    [
        "",
        "client:",
        "client:x",
        "Client",
        "header",
        "header:",
        "header:a b",
        "header:a:b",
        "cookie:a=b",
        "query:ä",
        "body:x",
        ":x",
        "header:a\n",
    ],
)
def test_what_cannot_be_hashed_on(source: str) -> None:
    with pytest.raises(ValueError) as caught:
        upstream(hash_on=source)

    assert str(caught.value) == f"{SOURCE} {source!r}"


@pytest.mark.parametrize(
    ("server", "good"),
    [
        ("10.0.0.2:53", True),
        ("[::1]:5353", True),
        ("10.0.0.2:0", False),
        ("ns.example:53", False),
        ("unix:/run/dns", False),
        ("srv:_dns._tcp.example", False),
    ],
)
def test_name_servers_are_addresses(server: str, *, good: bool) -> None:
    servers = (Address("127.0.0.1", 53), Address.parse(server))
    if good:
        assert Discovery(nameservers=servers).nameservers == servers
        return
    with pytest.raises(ValueError) as caught:
        Discovery(nameservers=servers)

    assert str(caught.value) == (
        f'must be IP addresses with a port, like "10.0.0.2:53", not "{server}"'
    )


# Probes.


#: A value for each key of a probe that is not for all kinds.
PROBE_VALUES: dict[str, Any] = {
    "path": "/x",
    "host": "h",
    "origin": "https://o",
    "headers": {"X": "y"},
    "status": (200,),
    "send": "ping",
    "expect": "pong",
}
#: Which of them mean something to which kind.
PROBE_KEYS: dict[ProbeKind, set[str]] = {
    "none": set(),
    "tcp": set(),
    "mqtt": set(),
    "http": {"path", "host", "origin", "headers", "status", "expect"},
    "websocket": {"path", "host", "origin", "headers", "send", "expect"},
    "deepstream": {"path", "host", "origin", "headers"},
}


def test_every_kind_of_probe_is_known() -> None:
    assert set(PROBE_KEYS) == set(KINDS)


@pytest.mark.parametrize("key", PROBE_VALUES)
@pytest.mark.parametrize("kind", KINDS)
def test_probe_keys_that_mean_nothing(kind: ProbeKind, key: str) -> None:
    options = {key: PROBE_VALUES[key]}
    if key in PROBE_KEYS[kind]:
        assert getattr(Probe(kind=kind, **options), key) == PROBE_VALUES[key]
    else:
        assert faults(Probe, kind=kind, **options) == [
            (key, f"means nothing to a probe of kind {kind!r}")
        ]


def test_all_probe_keys_that_mean_nothing_at_once() -> None:
    assert [key for key, _ in faults(Probe, kind="deepstream", **PROBE_VALUES)] == [
        "status",
        "send",
        "expect",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_any_kind_of_probe(kind: ProbeKind) -> None:
    assert Probe(kind=kind, interval=1.0, down_interval=1.0, timeout=1.0, rise=3, fall=3).rise == 3


@pytest.mark.parametrize(
    ("kind", "path", "target"),
    [
        ("deepstream", None, "/deepstream"),
        ("deepstream", "/other", "/other"),
        ("websocket", None, "/"),
        ("http", None, "/"),
        ("http", "/health-check", "/health-check"),
        ("http", "/health?deep=1", "/health?deep=1"),
        ("tcp", None, "/"),
    ],
)
def test_target_of_a_probe(kind: ProbeKind, path: str | None, target: str) -> None:
    assert Probe(kind=kind, path=path).target == target


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": ""}, "must start with /, not ''"),
        ({"path": "x"}, "must start with /, not 'x'"),
        *[
            ({"path": path}, f"{path!r} cannot be in a request's target")
            for path in ("/a b", "/a#b", "/ä", "/a\r\nX: y", "/\x7f")
        ],
        *[
            ({key: text}, f"cannot be sent in a header: {text!r}")
            for key in ("host", "origin")
            for text in ("", "a b", "a\r\nX: y", "ä")
        ],
        *[
            ({"headers": {"A": "b", name: text}}, f"cannot be sent as a header: {name!r}")
            for name, text in [("", "x"), ("a b", "x"), ("a:", "x"), ("X", "a\r\nb"), ("X", "ä")]
        ],
        *[
            (
                {"headers": {name: "x"}},
                f"is set by the probe itself, or by a key of its own: {name!r}",
            )
            for name in ("Host", "origin", "Upgrade", "Sec-WebSocket-Key", "Content-Length")
        ],
    ],
)
def test_what_a_probe_cannot_send(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Probe(kind="http", **options)

    assert str(caught.value) == reason


def test_what_a_probe_can_send() -> None:
    headers = {"Authorization": "Bearer a b=c", "X-Empty": ""}

    assert Probe(kind="http", host="[::1]:80", origin="null", headers=headers).headers == headers


# Faults of a file, with their keys.


SOURCE = 'must be "client", "header:NAME", "cookie:NAME" or "query:NAME", not'


@pytest.mark.parametrize(
    ("line", "key", "reason"),
    [
        ('hash_on = "client:x"', "hash_on", f"{SOURCE} 'client:x'"),
        ('hash_on = "header:"', "hash_on", f"{SOURCE} 'header:'"),
        ('hash_on = "header:a b"', "hash_on", f"{SOURCE} 'header:a b'"),
        ('hash_on = "path"', "hash_on", f"{SOURCE} 'path'"),
        ('panic = "no"', "panic", "must be one of 'try', 'refuse', not 'no'"),
        ("hold.timeout = -1", "hold.timeout", "must be from 0 to 3600, not -1.0"),
        ("hold.waiting = 0", "hold.waiting", "must be from 1 to 2147483648, not 0"),
        ("slow_start = nan", "slow_start", "must be from 0 to 3600, not nan"),
        ("detect_drain.share = 0", "detect_drain.share", "must be from 0.01 to 1.0, not 0.0"),
        (
            'balance = "hash"\nrebalance = {}',
            "rebalance",
            "would move sessions for ever: 'hash' sends them back",
        ),
        (
            'probe = { kind = "http", status = [99] }',
            "probe.status",
            "must be from 200 to 599, not 99",
        ),
        ("rebalance.rate = 0", "rebalance.rate", "must be from 0.01 to 100000, not 0.0"),
        ("rest.longest = 0.5", "rest.longest", "must be at least first (1)"),
        ("discovery.longest = 0.5", "discovery.longest", "must be at least shortest (1)"),
        (
            'discovery.nameservers = [ "dns.example:53" ]',
            "discovery.nameservers",
            'must be IP addresses with a port, like "10.0.0.2:53", not "dns.example:53"',
        ),
        ("tls.server_name = 'A b'", "tls.server_name", None),
        ('probe.expect = "x"', "probe.expect", "means nothing to a probe of kind 'none'"),
        (
            'probe = { kind = "deepstream", send = "x" }',
            "probe.send",
            "means nothing to a probe of kind 'deepstream'",
        ),
        (
            'probe = { kind = "tcp", path = "/" }',
            "probe.path",
            "means nothing to a probe of kind 'tcp'",
        ),
        ('probe = { kind = "http", path = "x" }', "probe.path", "must start with /, not 'x'"),
        (
            'probe = { kind = "http", path = "/a b" }',
            "probe.path",
            "'/a b' cannot be in a request's target",
        ),
        (
            'probe = { kind = "http", host = "a b" }',
            "probe.host",
            "cannot be sent in a header: 'a b'",
        ),
        (
            'probe = { kind = "http", headers = { "a b" = "c" } }',
            "probe.headers",
            "cannot be sent as a header: 'a b'",
        ),
        (
            'probe = { kind = "http", headers = { A = "b\\n" } }',
            "probe.headers",
            "cannot be sent as a header: 'A'",
        ),
        (
            'probe = { kind = "http", headers = { Host = "b" } }',
            "probe.headers",
            "is set by the probe itself, or by a key of its own: 'Host'",
        ),
    ],
)
def test_faults(line: str, key: str, reason: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(line)
    (problem,) = caught.value.problems

    assert problem.startswith(f"t: upstreams.one.{key}: ")
    if reason is not None:
        assert problem == f"t: upstreams.one.{key}: {reason}"


@pytest.mark.parametrize(
    ("nodes", "key", "reason"),
    [
        (
            'nodes = [ { address = "10.0.0.1:1", backup = true } ]',
            "nodes",
            "are all backups: one has to be a node of the first choice",
        ),
        ('nodes = [ "a:1", "a:1" ]', "nodes[1]", "is the same as nodes[0]"),
        (
            'nodes = [ "srv:_a._tcp.b" ]\ntls = {}',
            "nodes[0]",
            "has no host name to check: tls needs server_name",
        ),
        (
            'nodes = [ "srv:example.org" ]',
            "nodes[0].address",
            "'srv:example.org': an SRV name is like \"srv:_deepstream._tcp.example.org\"",
        ),
    ],
)
def test_faults_of_nodes(nodes: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(nodes=nodes)

    assert caught.value.problems == (f"t: upstreams.one.{key}: {reason}",)


def test_certificate_and_key_belong_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'tls.cert_file = "{__file__}"')

    assert caught.value.problems == (
        "t: upstreams.one.tls: cert_file and key_file belong together",
    )


def test_a_listener_cannot_be_an_srv_name() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT.replace("127.0.0.1:8080", "srv:_a._tcp.b") + ONE, name="t")

    assert caught.value.problems == (
        "t: listeners[0].bind: a listener cannot be bound to an SRV name",
    )
