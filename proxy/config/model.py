"""The configuration, as frozen values.

Every default stands beside the peers' value, so that whoever changes one knows what operators are
used to.  Times are in seconds, sizes in bytes.  A class checks what can be checked from its own
fields; `Config` checks that names refer to something.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs import validators

from . import tcp
from .address import Address
from .checks import (
    Invalid,
    bindable,
    count,
    repeated,
    seconds,
    within,
)
from .forwarding import Forwarding, Hsts
from .http import error_statuses
from .network import Network, networks
from .page import Page
from .route import Route
from .tls import ListenerTls, Tls
from .upstream import Drain, Upstream


def _only_one_worker(_: object, __: attrs.Attribute[Any], value: int) -> None:
    if value != 1:
        raise ValueError("only 1 is supported by this version")


@attrs.frozen(kw_only=True)
class ListenerProxyProtocol:
    """Every connection begins with a PROXY header, which tells whom it is for.

    Whoever may send one may claim any address: nobody else may connect at all.
    """

    # Networks, and "unix" for the peers of a unix socket.  nginx: set_real_ip_from; HAProxy's
    # accept-proxy: anybody
    trusted: tuple[Network, ...] = attrs.field(converter=networks, validator=validators.min_len(1))

    def trusts(self, host: str) -> bool:
        """Whether to believe a peer, an IP address or "unix"."""
        return any(host in network for network in self.trusted)


@attrs.frozen(kw_only=True)
class Listener:
    """A bound address."""

    bind: Address = attrs.field(validator=bindable)
    name: str = ""
    # tcp: bytes pass unseen, to the route that names this listener.  nginx: stream, HAProxy: mode
    mode: Literal["http", "tcp"] = "http"
    tls: ListenerTls | None = None
    # nginx 511, HAProxy: its maxconn; the kernel caps it at net.core.somaxconn (4096)
    backlog: int = count(1024, high=65_535)
    # Strict-Transport-Security on every answer; Caddy, nginx, HAProxy: to be said
    hsts: Hsts | None = None
    proxy_protocol: ListenerProxyProtocol | None = None

    def __attrs_post_init__(self) -> None:
        if self.bind.path and self.proxy_protocol and not self.proxy_protocol.trusts("unix"):
            raise Invalid(("proxy_protocol.trusted", 'must hold "unix": this is a unix socket'))

    @property
    def scheme(self) -> Literal["http", "https"]:
        return "https" if self.tls else "http"


@attrs.frozen(kw_only=True)
class Timeouts:
    # TLS handshake and request head together.  nginx 60, HAProxy's advice 10
    handshake: float = seconds(10.0)
    # Between two requests of a client.  nginx 75, Apache 5
    keepalive: float = seconds(60.0)
    # One try to connect to a node, its TLS included.  nginx 60, HAProxy's advice 5, Envoy 5
    dial: float = seconds(2.0)
    # One node's answer to an upgrade.  nginx 60
    upgrade: float = seconds(5.0)
    # All tries of one request together: deepstream's client has no time-out of its own
    reach: float = seconds(10.0)
    # The head of a node's answer to an ordinary request.  nginx 60, Envoy 15; deepstream's own
    # limit for /api is 20
    response: float = seconds(30.0)
    # Between two pieces of a body, either way.  nginx 60
    body: float = seconds(60.0)
    # A closing handshake, from the first Close to the end of the last leg.  ws 30, websockets 10
    close: float = seconds(5.0)
    # How long a client that was told goodbye may take to hang up.  nginx 5 (lingering_timeout)
    linger: float = seconds(2.0)
    # One call of an embedding program's hook
    hook: float = seconds(5.0)


@attrs.frozen(kw_only=True)
class Limits:
    # Open connections from clients; each session needs two file descriptors, so the process's
    # limit may lower it.  nginx 512 per worker, HAProxy: from the file limit
    connections: int = count(10_000)
    # TLS handshakes of clients which are not finished, some 50 KiB each; of more the oldest one is
    # given up.  HAProxy's maxsslconn: none, nginx: as all connections
    handshakes: int = count(1000)
    # Steps of handshakes between two looks at all else, 0.3 ms each with an ECDSA key, 0.4 with RSA
    # 2048, 3 with RSA 4096: the less, the less sessions are kept waiting
    handshake_steps: int = count(2, high=1000)
    # Connections beyond that limit which are told so (503) at a time; the rest are just closed
    shedding: int = count(100, low=0)
    # Request line and headers.  nginx 4 x 8 KiB, HAProxy 16 KiB, Node.js 16 KiB
    head_bytes: int = count(16 * 1024, low=512, high=2**20)
    # nginx 8 KiB, Apache 8190
    target_bytes: int = count(8 * 1024, low=64, high=2**20)
    # HAProxy 101, Apache 100
    headers: int = count(100, high=10_000)
    # nginx 1 MiB; deepstream refuses more than 1 MiB itself
    body_bytes: int = count(2**20, low=0, high=2**50)
    # Client addresses whose handshakes, and requests, a route counts at a time, some 200 bytes
    # each; of more the one that was quiet for longest is forgotten.  nginx's limit_req_zone: to be
    # said
    addresses: int = count(100_000)


@attrs.frozen(kw_only=True)
class Shutdown(Drain):
    """All sessions leave; those that are told so come back at once, if somebody else is there."""

    # HAProxy's close-spread-time: off
    rate: float = attrs.field(default=100.0, validator=within(0.01, 10**6))
    # After this the process ends, whatever is still open.  Kubernetes kills at 30
    deadline: float = seconds(25.0)


@attrs.frozen(kw_only=True)
class Log:
    format: Literal["keyvalue", "json"] = "keyvalue"
    level: Literal["debug", "info", "warning", "error"] = "info"
    # One line per request or session
    access: bool = True


@attrs.frozen(kw_only=True)
class Config:
    """One whole configuration."""

    listeners: tuple[Listener, ...] = attrs.field(validator=validators.min_len(1))
    routes: tuple[Route, ...] = attrs.field(validator=validators.min_len(1))
    upstreams: dict[str, Upstream] = attrs.field(factory=dict)
    # nginx 1
    workers: int = attrs.field(default=1, validator=_only_one_worker)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    limits: Limits = attrs.field(factory=Limits)
    # Of every listener that has TLS and does not say otherwise
    tls: Tls = attrs.field(factory=Tls)
    forwarding: Forwarding = attrs.field(factory=Forwarding)
    shutdown: Shutdown = attrs.field(factory=Shutdown)
    log: Log = attrs.field(factory=Log)
    # Bodies of answers that the proxy makes itself, by status: "502", or "5xx" for the others.
    # nginx error_page, HAProxy errorfile: none
    error_pages: dict[str, Page] = attrs.field(factory=dict, validator=error_statuses)

    def __attrs_post_init__(self) -> None:
        faults = [*self._unknown_names(), *self._duplicates(), *self._never_sent(), *self._loops()]
        faults += self._tls_faults()
        faults += tcp.config_faults(self.listeners, self.routes, self.upstreams)
        if faults:
            raise Invalid(*faults)

    def _unknown_names(self) -> list[tuple[str, str]]:
        listeners = {listener.name for listener in self.listeners if listener.name}
        faults = []
        for index, route in enumerate(self.routes):
            if route.upstream is not None and route.upstream not in self.upstreams:
                known = ", ".join(map(repr, self.upstreams)) or "none"
                reason = f"no upstream is called {route.upstream!r}; there are: {known}"
                faults.append((f"routes[{index}].upstream", reason))
            if route.listener is not None and route.listener not in listeners:
                known = ", ".join(map(repr, sorted(listeners))) or "none has a name"
                reason = f"no listener is called {route.listener!r}; there are: {known}"
                faults.append((f"routes[{index}].listener", reason))
        return faults

    def _tls_faults(self) -> list[tuple[str, str]]:
        faults = []
        for index, listener in enumerate(self.listeners):
            try:
                _ = listener.tls and listener.tls.over(self.tls)
            except Invalid as exc:
                faults += [(f"listeners[{index}].tls.{key}", why) for key, why in exc.faults]
        return faults

    def _never_sent(self) -> list[tuple[str, str]]:
        reason = "is never sent: the listener is plain, and forwarding.trusted is empty"
        return [
            (f"listeners[{index}].hsts", reason)
            for index, listener in enumerate(self.listeners)
            if listener.hsts and not listener.tls and not self.forwarding.trusted
        ]

    def _loops(self) -> list[tuple[str, str]]:
        """Return redirects to the scheme that the client has come with already."""
        faults = []
        for index, route in enumerate(self.routes):
            if (redirect := route.redirect) is None or redirect.host or redirect.port:
                continue
            if not route.redirects_to_itself:
                continue
            for listener in self.listeners:
                if route.listener in (None, listener.name) and redirect.scheme == listener.scheme:
                    reason = f"leads to itself on listener {listener.name or str(listener.bind)!r}"
                    hint = f"which is {listener.scheme} already; say with listener which it is for"
                    faults.append((f"routes[{index}].redirect", f"{reason}, {hint}"))
        return faults

    def _duplicates(self) -> list[tuple[str, str]]:
        routes = [
            # One path may be a WebSocket here and a plain request there.
            (f"routes[{i}]", (r.listener, *r.conditions))
            for i, r in enumerate(self.routes)
            if r.kind != "tcp"
        ]
        passages = [
            (f"routes[{i}]", (r.listener, r.sni))
            for i, r in enumerate(self.routes)
            if r.kind == "tcp"
        ]
        names = [(f"listeners[{i}].name", x.name) for i, x in enumerate(self.listeners) if x.name]
        # Port 0 asks the kernel for a free one: any number of listeners may.
        binds = [
            (f"listeners[{i}].bind", x.bind)
            for i, x in enumerate(self.listeners)
            if x.bind.port or x.bind.path
        ]
        return repeated(routes) + repeated(passages) + repeated(names) + repeated(binds)
