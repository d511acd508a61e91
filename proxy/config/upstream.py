"""An upstream: its nodes, and how they are chosen, watched and waited for."""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs import validators

from .address import Address
from .checks import (
    TOKEN,
    Invalid,
    count,
    is_numeric,
    one_of,
    reachable,
    repeated,
    request_target,
    seconds,
    within,
)
from .node_tls import NodeTls

Balance = Literal["least_connections", "round_robin", "random_two", "hash", "least_latency"]
ProxyVersion = Literal["v1", "v2"]
ProbeKind = Literal["none", "tcp", "http", "websocket", "deepstream", "mqtt"]

#: Which keys mean something to which kind of probe.
_PROBE_KEYS: dict[ProbeKind, tuple[str, ...]] = {
    "none": (),
    "tcp": (),
    "mqtt": (),
    "http": ("path", "host", "origin", "headers", "status", "expect"),
    "websocket": ("path", "host", "origin", "headers", "send", "expect"),
    "deepstream": ("path", "host", "origin", "headers"),
}


def _hash_source(_: object, __: attrs.Attribute[Any], value: str) -> None:
    kind, _, name = value.partition(":")
    if kind == "client" and not name and value == "client":
        return
    if kind not in ("header", "cookie", "query") or not TOKEN.fullmatch(name):
        allowed = '"client", "header:NAME", "cookie:NAME" or "query:NAME"'
        raise ValueError(f"must be {allowed}, not {value!r}")


def _name_servers(_: object, __: attrs.Attribute[Any], value: tuple[Address, ...]) -> None:
    for server in value:
        if not server.port or not is_numeric(server.host):
            raise ValueError(
                f'must be IP addresses with a port, like "10.0.0.2:53", not "{server}"'
            )


#: What a probe says itself.
_OWN_FIELDS = frozenset(
    (
        "host",
        "origin",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
    )
)


def _header_fields(_: object, __: attrs.Attribute[Any], value: dict[str, str]) -> None:
    for name, text in value.items():
        if not TOKEN.fullmatch(name) or not text.isascii() or not text.isprintable():
            raise ValueError(f"cannot be sent as a header: {name!r}")
        if name.lower() in _OWN_FIELDS:
            raise ValueError(f"is set by the probe itself, or by a key of its own: {name!r}")


def _one_word(_: object, __: attrs.Attribute[Any], value: str) -> None:
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(f"cannot be sent in a header: {value!r}")


def _statuses(_: object, __: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    for status in value:
        if not 200 <= status <= 599:
            raise ValueError(f"must be from 200 to 599, not {status}")


@attrs.frozen(kw_only=True)
class Node:
    """One address in an upstream, or a name that stands for several; also just the address.

    A host name is resolved again and again, and each of its addresses is a node.
    """

    address: Address = attrs.field(validator=reachable)
    # nginx and HAProxy: 1, up to 256 (HAProxy)
    weight: int = count(1, high=256)
    # Asked only while none of the others can be.
    backup: bool = False
    # Sessions and requests at a time; 0: any number.  nginx max_conns 0, HAProxy maxconn 0
    max_sessions: int = count(0, low=0)


@attrs.frozen(kw_only=True)
class Rest:
    """How long a node that failed is left alone; doubles with each failure in a row.

    A node that cannot be reached rests at once, any other failure has to come `failures` times
    within `window`.  nginx: one failure, a fixed 10 s (fail_timeout); Traefik's window: 10 s;
    Apache: 60 s; Envoy: five answers of 5xx in a row.  A deepstream client has five tries within
    40 s, so the first rest is short.
    """

    first: float = seconds(1.0)
    longest: float = seconds(30.0)
    failures: int = count(3)
    window: float = seconds(10.0)

    def __attrs_post_init__(self) -> None:
        if self.longest < self.first:
            raise Invalid(("longest", f"must be at least first ({self.first:g})"))


@attrs.frozen(kw_only=True)
class Probe:
    """Ask a node how it is, every now and then.

    deepstream: upgrade, challenge and answer, Close; nothing less tells that a node works, and a
    node that is silent after its 101 is a healthy one.
    websocket: upgrade, `send` and `expect` if they are there, ping and pong, Close.
    http: GET, one of `status` (default: below 400), `expect` within the body.
    mqtt: CONNECT and CONNACK.  tcp: connect.
    """

    kind: ProbeKind = "none"
    # nginx plus 5, HAProxy 2, Envoy: to be said, Traefik 30
    interval: float = seconds(2.0)
    # While it is down.  HAProxy downinter: as interval
    down_interval: float = seconds(0.5)
    # HAProxy: the interval
    timeout: float = seconds(2.0)
    # How many in a row bring it up and down.  HAProxy 2 and 3, nginx plus 1 and 1
    rise: int = count(1, high=1000)
    fall: int = count(2, high=1000)
    path: str | None = attrs.field(default=None, validator=validators.optional(request_target))
    host: str | None = attrs.field(default=None, validator=validators.optional(_one_word))
    origin: str | None = attrs.field(default=None, validator=validators.optional(_one_word))
    headers: dict[str, str] = attrs.field(factory=dict, validator=_header_fields)
    status: tuple[int, ...] = attrs.field(default=(), validator=_statuses)
    send: str = ""
    expect: str = ""

    def __attrs_post_init__(self) -> None:
        own = _PROBE_KEYS[self.kind]
        faults = [
            (name, f"means nothing to a probe of kind {self.kind!r}")
            for name in ("path", "host", "origin", "headers", "status", "send", "expect")
            if getattr(self, name) and name not in own
        ]
        if faults:
            raise Invalid(*faults)

    @property
    def target(self) -> str:
        """The path to ask for."""
        return self.path or ("/deepstream" if self.kind == "deepstream" else "/")


@attrs.frozen(kw_only=True)
class Hold:
    """Let requests wait, with nothing sent, while there is no node for them.

    Caddy's lb_try_duration is the nearest, and off; nobody paces the release.
    """

    # 10 s on each of a deepstream client's tries keep it alive for 100 s; twice that while there is
    # a node and the queue moves; 0: answer at once
    timeout: float = attrs.field(default=10.0, validator=within(0, 3600))
    # How many may wait; more get 503.  Each is a connection, of which there is a limit too.
    # Envoy 1024, and 503 is one of a client's five tries
    waiting: int = count(100_000)
    # How many each node gets a second once it is there again: it has just started
    rate: float = attrs.field(default=200.0, validator=within(0.1, 1_000_000))


@attrs.frozen(kw_only=True)
class DetectDrain:
    """Notice a node that is shutting down though every probe finds it healthy.

    A deepstream node that was told to end sends a Close to all its clients, and then, for up to
    30 s, takes new ones, cut off from its cluster.  Nobody else can see it.
    """

    # So many sessions closed by the node within the window, and so much of all it had; 0: never
    closes: int = count(5, low=0)
    share: float = attrs.field(default=0.5, validator=within(0.01, 1.0))
    window: float = seconds(1.0)
    # It is a node like any other again after this, if it has not gone and come back before
    timeout: float = seconds(35.0)


@attrs.frozen(kw_only=True)
class Drain:
    """The pace at which sessions leave: the quiet ones first, and none within a message.

    Their clients come back at once; so many a second is what the others get.
    """

    rate: float = attrs.field(default=50.0, validator=within(0.01, 10**6))
    # Of the time between two of them, how much is chance: several proxies should not keep step
    jitter: float = attrs.field(default=0.5, validator=within(0, 1))
    # They leave faster if they would not be gone by then; what is in a message then is cut short
    deadline: float = seconds(600.0)


@attrs.frozen(kw_only=True)
class Retry:
    """When a plain request may be put to another node: nothing of an answer has come yet.

    It has to be one that does no harm twice (GET, HEAD, OPTIONS, PUT, DELETE, its body at hand), or
    nothing of it was sent.  WebSocket handshakes are put to every node there is: each failure costs
    their client one of few tries.
    """

    # Nodes asked for one request.  HAProxy 1 + 3 retries, Envoy 1 + 1, nginx all
    attempts: int = count(3, high=100)
    # Of all requests, how many may be sent a second time, and how many a second may be anyhow:
    # nodes that fail since there is too much to do should not get more.  Envoy 0.2, and 3 at a time
    share: float = attrs.field(default=0.2, validator=within(0, 1))
    rate: float = attrs.field(default=10.0, validator=within(0, 1_000_000))


@attrs.frozen(kw_only=True)
class Rebalance:
    """Move sessions from the fullest nodes to those that least connections would leave empty."""

    # How far above its share a node may be
    tolerance: float = attrs.field(default=0.2, validator=within(0.01, 10.0))
    # Sessions moved each second
    rate: float = attrs.field(default=10.0, validator=within(0.01, 100_000))


@attrs.frozen(kw_only=True)
class Discovery:
    """How nodes that are names are resolved."""

    # Whatever a record's time to live says.  nginx: the TTL; HAProxy: hold valid 10 s
    shortest: float = seconds(1.0)
    longest: float = seconds(60.0)
    timeout: float = seconds(5.0)
    # Default: the system's
    nameservers: tuple[Address, ...] = attrs.field(default=(), validator=_name_servers)

    def __attrs_post_init__(self) -> None:
        if self.longest < self.shortest:
            raise Invalid(("longest", f"must be at least shortest ({self.shortest:g})"))


@attrs.frozen(kw_only=True)
class Upstream:
    """A named pool of nodes."""

    nodes: tuple[Node, ...] = attrs.field(validator=validators.min_len(1))
    # HAProxy recommends leastconn for very long sessions; nginx's default is round robin
    balance: Balance = "least_connections"
    # What a request is told apart by under "hash"
    hash_on: str = attrs.field(default="client", validator=_hash_source)
    tls: NodeTls | None = None
    # Connections to each node that are kept between two requests; 0: none, each has its own.
    # nginx 32 in all, Envoy and HAProxy any number
    keepalive: int = count(64, low=0, high=10_000)
    # How long one may lie idle to be used again: deepstream's nodes close theirs after 5.  nginx 60
    keepalive_idle: float = seconds(4.0)
    retry: Retry = attrs.field(factory=Retry)
    # Begin every connection with a PROXY header, before TLS.  HAProxy: send-proxy, -v2; nginx: v1,
    # in streams only
    proxy_protocol: ProxyVersion | None = None
    probe: Probe = attrs.field(factory=Probe)
    rest: Rest = attrs.field(factory=Rest)
    hold: Hold = attrs.field(factory=Hold)
    # When the hold is over: try the node that may have recovered, or answer
    panic: Literal["try", "refuse"] = "try"
    # Seconds in which the share of a node that came back grows to its whole.  HAProxy, nginx: off
    slow_start: float = attrs.field(default=10.0, validator=within(0, 3600))
    detect_drain: DetectDrain = attrs.field(factory=DetectDrain)
    # How sessions leave a node that is drained by hand or has gone, and those that are too old
    drain: Drain = attrs.field(factory=Drain)
    rebalance: Rebalance | None = None
    # Seconds, give or take a tenth, after which a session is moved; 0: never
    max_session_age: float = attrs.field(default=0.0, validator=within(0, 10**8))
    discovery: Discovery = attrs.field(factory=Discovery)
    # What a client gets when there is nobody to ask.  nginx 502, HAProxy 503; 500 is what
    # deepstream's documentation asks of its proxy.
    unavailable_status: int = attrs.field(default=500, validator=one_of(500, 502, 503, 504))

    def __attrs_post_init__(self) -> None:
        faults = repeated([(f"nodes[{i}]", node.address) for i, node in enumerate(self.nodes)])
        if self.tls is not None and self.tls.server_name is None:
            faults += [
                (f"nodes[{i}]", "has no host name to check: tls needs server_name")
                for i, node in enumerate(self.nodes)
                if node.address.path or node.address.srv
            ]
        if self.rebalance is not None and self.balance in ("hash", "least_latency"):
            reason = f"would move sessions for ever: {self.balance!r} sends them back"
            faults.append(("rebalance", reason))
        if all(node.backup for node in self.nodes):
            faults.append(("nodes", "are all backups: one has to be a node of the first choice"))
        if faults:
            raise Invalid(*faults)

    @property
    def keeps_connections(self) -> bool:
        """Whether one client's connection to a node may carry another's requests afterwards."""
        return self.keepalive > 0 and self.proxy_protocol is None
