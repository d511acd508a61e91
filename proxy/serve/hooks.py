"""What an embedding program may hang on a route, and the values that its hooks get and return.

Hooks are given by the route's name: `proxy.serve(config, hooks={"/deepstream": Hooks(...)})`.  They
concern its WebSocket handshakes and sessions, never plain requests.  Each call has `timeouts.hook`
seconds; one that takes longer, or raises, is logged, and what it was called for fails: a handshake
with 500, a session with Close 1011 to the client and 1001 to the node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import attrs
from attrs import validators

from proxy.config.address import Address
from proxy.config.headers import check_end_to_end, check_headers
from proxy.config.route import Route
from proxy.errors import ConfigError
from proxy.io.relay import Relay
from proxy.observe.record import Record
from proxy.wire.client_certificate import ClientCertificate
from proxy.wire.closing import sendable
from proxy.wire.headers import Changes, Headers
from proxy.wire.keys import cookie
from proxy.wire.messages import Message

#: What a Close frame has room for beside its code (RFC 6455 section 5.5), in bytes.
_REASON = 123


@attrs.frozen(kw_only=True)
class Handshake:
    """A client's WebSocket handshake, valid and of an allowed origin.

    Headers are as the client sent them, decoded as Latin-1.
    """

    #: As in the record.
    id: str
    #: As in the record, with the port where it is known; `address` is without it.
    client: str
    address: str
    #: The name of the listener, and "http" or "https".
    listener: str
    scheme: str
    host: str
    target: str
    headers: tuple[tuple[str, str], ...]
    #: What the client offers.
    subprotocols: tuple[str, ...]
    #: What the configuration has chosen.
    route: str
    upstream: str
    #: What the client has shown, where the listener asks for it.
    certificate: ClientCertificate | None = None

    def header(self, name: str) -> str | None:
        """Return a header's value, that of several lines joined by commas; None: there is none."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def cookie(self, name: str) -> str | None:
        """Return the value of the first cookie of that name; None: there is none."""
        value = cookie(_encoded(self.headers), name.encode())
        return None if value is None else value.decode("latin-1")


def _address(value: str | None) -> str | None:
    return None if value is None else str(Address.parse(value))


def _changes(changes: Iterable[tuple[str, str | None]]) -> tuple[tuple[str, str | None], ...]:
    return tuple(changes)


def _check_changes(_: object, __: object, changes: Sequence[tuple[str, str | None]]) -> None:
    hosts = [value for name, value in changes if name.lower() == "host"]
    if len(hosts) > 1 or None in hosts:
        raise ValueError("a request has one Host")
    check_end_to_end([(name, value or "") for name, value in changes])


def _pairs(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(pairs)


def _encoded(pairs: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


@attrs.frozen(kw_only=True)
class Allow:
    """Let a handshake go to a node, otherwise than the configuration says.

    `upstream` is the name of another one.  `node` is the address of the only node that may be
    asked; where that cannot be, the client is answered as if there were none, at once.

    `headers` change the request to the node: what is given under a name takes the place of all that
    stood there, the proxy's own `X-Forwarded-*` too, and None only leaves it out.  Not to be
    changed are hop-by-hop headers, `Content-Length` and `Sec-WebSocket-*`; `Host` can be set, and
    not left out.

    Raises:
        ValueError: this is no address, or a header cannot be sent or not be changed.
    """

    upstream: str | None = None
    node: str | None = attrs.field(default=None, converter=_address)
    headers: tuple[tuple[str, str | None], ...] = attrs.field(
        default=(), converter=_changes, validator=_check_changes
    )

    @property
    def changes(self) -> Changes:
        """The headers as they go into the request."""
        return tuple(
            (name.encode(), None if value is None else value.encode("latin-1"))
            for name, value in self.headers
        )


def _check_status(_: object, __: object, value: int) -> None:
    if not 300 <= value <= 599 or value == 304:
        raise ValueError(f"a refusal has a status from 300 to 599, and not 304: {value}")


@attrs.frozen
class Refuse:
    """Answer a handshake instead of a node: with this status and, as they are, headers and body.

    What is added is `Content-Length`, `Proxy-Status` and, where needed, `Connection: close`.

    Raises:
        ValueError: the status refuses nothing, or a header cannot be sent.
    """

    status: int = attrs.field(validator=_check_status)
    headers: tuple[tuple[str, str], ...] = attrs.field(
        default=(), converter=_pairs, validator=lambda _, __, value: check_headers(value)
    )
    body: bytes = attrs.field(default=b"", validator=validators.instance_of(bytes))

    @property
    def encoded(self) -> Headers:
        """The headers as they go into the answer."""
        return _encoded(self.headers)


class SessionView:
    """A live session as hooks see it.

    `id`, `client`, `route`, `upstream` and `node` are as in its record.
    """

    __slots__ = ("_record", "_relay")

    def __init__(self, record: Record, relay: Relay) -> None:
        self._record = record
        self._relay = relay

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def client(self) -> str:
        return self._record.client

    @property
    def route(self) -> str:
        return self._record.route

    @property
    def upstream(self) -> str:
        return self._record.upstream

    @property
    def node(self) -> str:
        return self._record.node

    def close(self, code: int, reason: str = "") -> None:
        """End the session: this Close to the client, 1001 to the node; no matter if it has ended.

        Raises:
            ValueError: a Close frame cannot carry that.
        """
        if not sendable(code):
            raise ValueError(f"{code} may not be sent in a Close frame")
        if len(reason.encode()) > _REASON:
            raise ValueError(f"a Close frame's reason has at most {_REASON} bytes")
        self._relay.close("hook", code, 1001, reason)


OnHandshake = Callable[[Handshake], Awaitable[Allow | Refuse | None]]
OnOpen = Callable[[SessionView], Awaitable[object]]
OnClose = Callable[[Record], Awaitable[object]]
OnMessage = Callable[[SessionView, Message], Awaitable[Message | None]]
_optional = validators.optional(validators.is_callable())


@attrs.frozen(kw_only=True)
class Hooks:
    """Async functions for the WebSocket handshakes and sessions of one route.

    `on_handshake` is asked before a node is; None allows it as it is.

    `on_open` is called when the client has its 101.  Until it returns no frame is read.

    `on_close` is called with the finished record once both connections are over, for every session
    with a 101, whatever `on_open` did; also when the proxy is cancelled.

    `on_message` is given each whole message, in the order of its direction, and returns what is
    passed on instead, or None for nothing; the next one is read when it has returned.  The session
    then runs on the portable relay, which costs a multiple of the fast one, strictly by RFC 6455,
    and without extensions: compressed messages could not be shown.  A message is in memory as a
    whole, each way one of at most `limits.held_bytes`.
    """

    on_handshake: OnHandshake | None = attrs.field(default=None, validator=_optional)
    on_open: OnOpen | None = attrs.field(default=None, validator=_optional)
    on_close: OnClose | None = attrs.field(default=None, validator=_optional)
    on_message: OnMessage | None = attrs.field(default=None, validator=_optional)


def check_hooks(hooks: Mapping[str, Hooks], routes: Sequence[Route]) -> None:
    """Check that each name is that of a WebSocket route, which can have these hooks.

    Raises:
        ConfigError: with all that is wrong.
    """
    faults = [
        f"hooks: {name!r}: {fault}"
        for name, one in hooks.items()
        if (fault := _fault(one, name, routes))
    ]
    if faults:
        raise ConfigError(faults)


def _fault(hooks: Hooks, name: str, routes: Sequence[Route]) -> str:
    named = [route for route in routes if route.name == name]
    if not named:
        known = ", ".join(sorted({repr(route.name) for route in routes}))
        return f"no route is called that; there are: {known}"
    websocket = [route for route in named if route.has_sessions]
    if any(route.kind == "tcp" for route in named):
        return "is a route of TCP connections; hooks are for WebSocket routes"
    if not websocket:
        return "is a route of plain requests; hooks are for WebSocket routes"
    if hooks.on_message is not None and any(route.frames == "tunnel" for route in websocket):
        return 'has frames = "tunnel", where no message is seen: on_message cannot be had'
    return ""
