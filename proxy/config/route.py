"""A route, and what it lets its WebSocket sessions do.

nginx, HAProxy, Envoy, Traefik and ALB see no frames, so for most of what stands here they have
nothing to compare with.  An established session keeps the settings that it began with.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs import validators

from . import tcp
from .checks import (
    Invalid,
    above,
    count,
    lower,
    origin_list,
    seconds,
    server_name,
    starts_with_slash,
    within,
)
from .headers import HeaderRules, request_rules
from .http import (
    Redirect,
    RequestRate,
    Respond,
    Rewrite,
    error_statuses,
    header_conditions,
    host_pattern,
    method_list,
)
from .network import Network, networks
from .page import Page

Frames = Literal["strict", "lenient", "tunnel"]
#: What can only be kept where frames are seen.
_NEEDS_FRAMES = (
    "message_bytes",
    "node_message_bytes",
    "frame_bytes",
    "fragments",
    "messages_per_second",
    "controls_per_second",
)


def _size(default: int) -> Any:
    """Bytes; 0: any number.  Less than what every header can say would be no message at all."""

    def check(_: object, __: attrs.Attribute[Any], value: int) -> None:
        if value and not 125 <= value <= 2**62:
            raise ValueError(f"must be 0 (any) or from 125 to {2**62}, not {value}")

    return attrs.field(default=default, validator=check)


def _rate(default: float) -> Any:
    """So many a second; 0: any number."""
    return attrs.field(default=default, validator=within(0, 10**12))


@attrs.frozen(kw_only=True)
class SessionLimits:
    """What one session may send and hold, and how many a route has; 0: no limit of its own.

    Where nothing else is said, they are for what comes from clients: nodes are the operator's own.
    """

    # Of one message, its fragments together, from the client and from the node, as it stands on
    # the wire: compressed, if they have agreed on that.  Close 1009.
    # deepstream 1 MiB itself, and none towards clients; Kong's websocket-size-limit: to be said
    message_bytes: int = _size(2**20)
    node_message_bytes: int = _size(0)
    # Of one frame; Close 1009
    frame_bytes: int = _size(0)
    # Of one message; Close 1008.  An empty fragment costs its sender 6 bytes and a node a buffer
    fragments: int = count(1024, low=0)
    # Off: a session that sends fast is slowed by its node already, and what is too fast for an
    # application only its operator knows.
    messages_per_second: float = _rate(0.0)
    bytes_per_second: float = _rate(0.0)
    # So many seconds' worth of either, and of handshakes, may come at once, and some 256 bytes
    # more, or a message's rest that one read has brought
    burst: float = attrs.field(default=2.0, validator=within(0.01, 3600))
    # Beyond the rate: read no more until it is kept, or Close 1008
    exceeded: Literal["pause", "close"] = "pause"
    # Pings and pongs; Close 1008.  One ping in some seconds is what libraries send
    controls_per_second: float = _rate(100.0)
    # The largest message, each way, that is shown to a hook, or that a hook returns: it is in
    # memory as a whole, some four times while it is passed on.  What nobody is shown is passed on
    # as it comes: some 200 KiB a session at most.  nginx 2 x 16 KiB, Envoy 2 x 1 MiB
    held_bytes: int = count(4 * 2**20, low=256 * 1024)
    # Sessions of the route, 503 beyond; there is limits.connections besides
    sessions: int = count(0, low=0)
    # Of one client address (an IPv6 /64), 429 beyond.  Off: a whole office, or a mobile network,
    # may stand behind one, and a deepstream client has but five tries
    sessions_per_address: int = count(0, low=0)
    handshakes_per_second: float = _rate(0.0)


@attrs.frozen(kw_only=True)
class Ping:
    """Pings of the proxy's own, on each leg by itself; a peer that does not answer is dead.

    Bytes of any kind are an answer: a long message may stand before the pong.
    """

    # Seconds between them on a leg; 0: none.  Below the 60 s after which nginx, ALB and many a NAT
    # forget a silent connection
    client: float = attrs.field(default=30.0, validator=within(0, 86_400))
    node: float = attrs.field(default=30.0, validator=within(0, 86_400))
    # For the answer.  `websockets` 20, uWebSockets 16
    timeout: float = seconds(15.0)


@attrs.frozen(kw_only=True)
class Route:
    """What requests go to an upstream, or are answered here, by a redirect or a fixed response.

    `path` matches exactly, and for a WebSocket handshake the whole target, so that a query or a
    trailing slash is another path: a deepstream node sees it so.  With `drop_query` it need not.
    `prefix` matches whole segments: "/api" takes /api and /api/x, not /apix.  With `websocket` a
    path carries WebSocket only, a prefix both kinds; without it what goes to an upstream is plain
    requests, and what is answered here is both.

    A route of a TCP listener names it, and has neither path nor prefix.  `sni` is what a TLS client
    asks for: "*.example.org" takes every name below that, an exact one goes first, then the
    longest; a route without it takes all others, and what is no TLS.
    """

    upstream: str | None = None
    redirect: Redirect | None = None
    respond: Respond | None = None
    path: str | None = attrs.field(default=None, validator=validators.optional(starts_with_slash))
    prefix: str | None = attrs.field(default=None, validator=validators.optional(starts_with_slash))
    # Requests' hosts are compared in lower case.
    host: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(host_pattern)
    )
    listener: str | None = None
    # nginx: ssl_preread_server_name, HAProxy: req.ssl_sni
    sni: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(server_name)
    )
    websocket: bool = False
    # GET is HEAD too, as with nginx's limit_except
    methods: tuple[str, ...] | None = attrs.field(default=None, validator=method_list)
    # A line of the request has just this value; "*": there is one, whatever it says
    headers: dict[str, str] = attrs.field(factory=dict, validator=header_conditions)
    rewrite: Rewrite | None = None
    drop_query: bool = False
    # Who may come, and who may not whatever `allow` says; () allows all.  nginx: the first that
    # matches decides
    allow: tuple[Network, ...] = attrs.field(default=(), converter=networks)
    deny: tuple[Network, ...] = attrs.field(default=(), converter=networks)
    requests: RequestRate | None = None
    # Bodies of answers that the proxy makes itself, by status; before those of all routes
    error_pages: dict[str, Page] = attrs.field(factory=dict, validator=error_statuses)
    # For plain requests, in place of timeouts.response and .body, limits.body_bytes
    response_timeout: float | None = attrs.field(
        default=None, validator=validators.optional(above(0))
    )
    body_timeout: float | None = attrs.field(default=None, validator=validators.optional(above(0)))
    body_bytes: int | None = attrs.field(
        default=None, validator=validators.optional(within(0, 2**50))
    )
    # Origins that may open a WebSocket; a request without Origin is no browser's and passes.
    # None allows all, as every peer does: deepstream itself never checks.
    origins: tuple[str, ...] | None = attrs.field(
        default=None, validator=validators.optional(origin_list)
    )
    # Applied last, to requests and answers of both kinds, handshakes too.  Answers are the nodes'
    # and those that are made here, whatever their status: nginx's add_header with "always"
    request_headers: HeaderRules = attrs.field(factory=HeaderRules, validator=request_rules)
    response_headers: HeaderRules = attrs.field(factory=HeaderRules)
    # strict: what RFC 6455 forbids ends the session.  lenient: what leaves the frames' boundaries
    # alone passes.  tunnel: bytes pass unseen, as in every peer; no limit that needs a frame holds,
    # and the end is a bare hang-up.
    frames: Frames = "strict"
    limits: SessionLimits = attrs.field(factory=SessionLimits)
    ping: Ping = attrs.field(factory=Ping)
    # Without a data frame either way, pings apart; 0: for ever.  nginx 60, Envoy 300, HAProxy's
    # advice 3600; deepstream's clients send something every 30 s
    idle_timeout: float = attrs.field(default=900.0, validator=within(0, 10**8))
    # As idle_timeout, once one side has ended its stream and the other goes on, which only bytes
    # unseen can; 0: idle_timeout alone.  nginx: it ends both; HAProxy's advice (client-fin) 30
    half_close_timeout: float = attrs.field(default=0.0, validator=within(0, 10**8))
    # For one that does not read what it is sent to read something; 0: for ever.  nginx 60; a
    # deepstream node keeps in memory, without limit, what such a client does not read
    write_stall: float = attrs.field(default=30.0, validator=within(0, 10**8))
    # How that ends: Close 1013 for whoever may read again, or a reset at once
    on_stall: Literal["close", "abort"] = "close"
    # What becomes of a session whose route or node a reload, or DNS, takes away
    on_removed: Literal["keep", "drain"] = "drain"

    def __attrs_post_init__(self) -> None:
        if self.kind == "tcp" and self.listener is not None:
            if faults := tcp.route_faults(self):
                raise Invalid(*faults)
            return
        faults = [*self._mistakes(), *self._of_no_use()]
        if self.frames == "tunnel":
            faults += self._unseen()
        elif self.half_close_timeout and self.has_sessions:
            faults.append(
                ("half_close_timeout", 'is for frames = "tunnel"; else a Close ends both')
            )
        if faults:
            raise Invalid(*faults)

    def _mistakes(self) -> list[tuple[str, str]]:
        faults = []
        if [self.upstream, self.redirect, self.respond].count(None) != 2:
            faults.append(("", 'needs one of "upstream", "redirect" and "respond"'))
        if (self.path is None) == (self.prefix is None):
            faults.append(("", 'needs either "path" (exact) or "prefix"'))
        if self.sni is not None:
            faults.append(("sni", "is for routes of TCP listeners only"))
        if self.methods is not None and not self.takes[0]:
            faults.append(("methods", "means nothing here: a WebSocket handshake is a GET"))
        if self.rewrite is not None and (fault := self.rewrite.fault(self.path, self.prefix)):
            faults.append((f"rewrite.{fault[0]}", fault[1]))
        if (redirect := self.redirect) is not None:
            if redirect.path is not None and self.rewrite is not None:
                faults.append(("rewrite", "means nothing here: redirect.path takes its place"))
            elsewhere = redirect.scheme or redirect.host or redirect.port
            if self.redirects_to_itself and not elsewhere:
                faults.append(("redirect", "leads to where it comes from"))
        return faults

    def _of_no_use(self) -> list[tuple[str, str]]:
        """Return what is set and means nothing to a route of this kind."""
        kinds: list[tuple[dict[str, object], str]] = []
        if not self.has_sessions:
            kinds.append((_OF_SESSIONS, "is for WebSocket routes only"))
        if self.upstream is None:
            kinds.append((_OF_UPSTREAMS, "is for routes with an upstream only"))
        if self.respond is not None:
            kinds.append((_OF_TARGETS, "means nothing to a fixed response"))
        return [
            (name, reason)
            for defaults, reason in kinds
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]

    def _unseen(self) -> list[tuple[str, str]]:
        """Return what cannot be where frames are not seen."""
        faults = [
            (f"limits.{name}", 'cannot be kept with frames = "tunnel"')
            for name in _NEEDS_FRAMES
            if getattr(self.limits, name) != getattr(_NO_OWN, name)
        ]
        if self.ping != _OF_SESSIONS["ping"]:
            faults.append(("ping", 'cannot be sent with frames = "tunnel"'))
        return faults

    @property
    def redirects_to_itself(self) -> bool:
        """Whether its redirect, if that stays on this host, is to what it takes itself."""
        if self.redirect is None or self.rewrite is not None:
            return False
        if self.redirect.becomes_get and "GET" not in (self.methods or ("GET",)):
            return False
        path = (self.redirect.path or self.path or self.prefix or "").partition("?")[0]
        return path in (self.path, self.prefix) or (
            self.prefix is not None and path.startswith(self.prefix.rstrip("/") + "/")
        )

    @property
    def takes(self) -> tuple[bool, bool]:
        """Whether it takes plain requests, and whether WebSocket handshakes."""
        plain = not self.websocket or self.prefix is not None
        return plain, self.websocket or self.upstream is None

    @property
    def has_sessions(self) -> bool:
        """Whether WebSocket sessions come of it."""
        return self.websocket and self.upstream is not None

    @property
    def conditions(self) -> tuple[object, ...]:
        """What a request has to be, the listener apart: a route with the same is for the same."""
        headers = frozenset((name.lower(), value) for name, value in self.headers.items())
        return self.host, self.path, self.prefix, self.takes, self.allowed_methods, headers

    @property
    def allowed_methods(self) -> frozenset[str] | None:
        """The methods that it takes, None if all."""
        if self.methods is None:
            return None
        return frozenset(self.methods) | ({"HEAD"} if "GET" in self.methods else set())

    @property
    def kind(self) -> Literal["http", "websocket", "tcp"]:
        """What it carries; a prefix with `websocket` carries plain requests too."""
        if self.path is None and self.prefix is None:
            return "tcp"
        return "websocket" if self.websocket else "http"

    @property
    def opaque(self) -> bool:
        """Whether the bytes of its sessions pass unseen."""
        return self.kind == "tcp" or self.frames == "tunnel"

    @property
    def name(self) -> str:
        """How records and metrics call this route."""
        if self.kind == "tcp":
            return f"tcp:{self.listener}" + (f"/{self.sni}" if self.sni else "")
        pattern = self.path if self.path is not None else f"{self.prefix}*"
        return f"{self.host or ''}{pattern}"


_NO_OWN = SessionLimits()
#: What means nothing to a route of plain requests, with what it is there.
_OF_SESSIONS: dict[str, object] = {
    "origins": None,
    "frames": "strict",
    "limits": _NO_OWN,
    "ping": Ping(),
    "idle_timeout": 900.0,
    "half_close_timeout": 0.0,
    "write_stall": 30.0,
    "on_stall": "close",
    "on_removed": "drain",
}
#: The same for a route that has no upstream, and for one that sends nobody anywhere.
_OF_UPSTREAMS: dict[str, object] = {
    "response_timeout": None,
    "body_timeout": None,
    "body_bytes": None,
}
_OF_TARGETS: dict[str, object] = {"rewrite": None, "drop_query": False}
