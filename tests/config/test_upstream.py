"""An upstream's section: its defaults, and every fault with its key."""

from __future__ import annotations

import pytest

from proxy.config.address import Address
from proxy.config.load import parse_config
from proxy.config.upstream import (
    DetectDrain,
    Discovery,
    Hold,
    Node,
    Probe,
    Rebalance,
    Rest,
    Upstream,
)
from proxy.errors import ConfigError

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


def test_defaults() -> None:
    upstream = parse()

    assert upstream == Upstream(
        nodes=(Node(address=Address("10.0.0.1", 6020), weight=1, backup=False, max_sessions=0),),
        balance="least_connections",
        hash_on="client",
        tls=None,
        probe=Probe(kind="none", interval=2, down_interval=0.5, timeout=2, rise=1, fall=2),
        rest=Rest(first=1, longest=30, failures=3, window=10),
        hold=Hold(timeout=10, waiting=10_000, rate=200),
        panic="try",
        slow_start=10,
        detect_drain=DetectDrain(closes=5, share=0.5, window=1, timeout=35),
        drain_rate=50,
        rebalance=None,
        max_session_age=0,
        discovery=Discovery(shortest=1, longest=60, timeout=5, nameservers=()),
        unavailable_status=500,
    )


def test_everything() -> None:
    upstream = parse(
        'balance = "hash"',
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


@pytest.mark.parametrize(
    ("kind", "target"),
    [("deepstream", "/deepstream"), ("websocket", "/"), ("http", "/")],
)
def test_target_of_a_probe_without_a_path(kind: str, target: str) -> None:
    assert parse(f'probe.kind = "{kind}"').probe.target == target


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
