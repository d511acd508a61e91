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
    count,
    host_name,
    lower,
    origin_list,
    seconds,
    server_name,
    starts_with_slash,
    within,
)
from .headers import HeaderRules, request_rules

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
    """Host and path to an upstream; for a TCP listener, the name that TLS clients ask for.

    `path` matches exactly, and for a WebSocket handshake the whole target, so that a query or a
    trailing slash is another path: a deepstream node sees it so.  `prefix` matches whole segments:
    "/api" takes /api and /api/x, not /apix.  With `websocket` a path carries WebSocket only, a
    prefix both kinds.

    A route of a TCP listener names it, and has neither path nor prefix.  `sni` is what a TLS client
    asks for: "*.example.org" takes every name below that, an exact one goes first, then the
    longest; a route without it takes all others, and what is no TLS.
    """

    upstream: str
    path: str | None = attrs.field(default=None, validator=validators.optional(starts_with_slash))
    prefix: str | None = attrs.field(default=None, validator=validators.optional(starts_with_slash))
    # Requests' hosts are compared in lower case.
    host: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(host_name)
    )
    listener: str | None = None
    # nginx: ssl_preread_server_name, HAProxy: req.ssl_sni
    sni: str | None = attrs.field(
        default=None, converter=lower, validator=validators.optional(server_name)
    )
    websocket: bool = False
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
        faults = []
        if (self.path is None) == (self.prefix is None):
            faults.append(("", 'needs either "path" (exact) or "prefix"'))
        if self.sni is not None:
            faults.append(("sni", "is for routes of TCP listeners only"))
        if not self.websocket:
            faults += [
                (name, "is for WebSocket routes only")
                for name, default in _OF_SESSIONS.items()
                if getattr(self, name) != default
            ]
        if self.frames == "tunnel":
            faults += [
                (f"limits.{name}", 'cannot be kept with frames = "tunnel"')
                for name in _NEEDS_FRAMES
                if getattr(self.limits, name) != getattr(_NO_OWN, name)
            ]
            if self.ping != _OF_SESSIONS["ping"]:
                faults.append(("ping", 'cannot be sent with frames = "tunnel"'))
        elif self.half_close_timeout and self.websocket:
            faults.append(
                ("half_close_timeout", 'is for frames = "tunnel"; else a Close ends both')
            )
        if faults:
            raise Invalid(*faults)

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
