"""What would become of a connection to a listener of mode "tcp", and why; as `explain`, for bytes.

Each step is the function that serves a connection by it; see `passage`.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.config.tcp import LIMITS
from proxy.errors import Refusal

from .admission import check_address
from .explanation import (
    TcpExplanation,
    bounds,
    label,
    listener_title,
    named_listener,
    pointed_to,
    pool_of,
)
from .passages import Condition, Passages
from .question import TcpQuestion
from .reach import client_key


def explain_tcp(config: Config, question: TcpQuestion) -> TcpExplanation:
    """Say what would become of a connection.

    Raises:
        ValueError: it could not even come in: no listener is for it.
    """
    listener, passages = _listener(config, question), Passages(config.routes)
    found = TcpExplanation(
        listener=listener_title(listener),
        scheme="tls" if question.secure else "tcp",
        client=question.client,
        tls=("terminated" if listener.tls else "passed through") if question.secure else "none",
        server_name=question.name,
    )
    try:
        route = _route(config, passages, listener, found)
        check_address(route, question.client)
        assert route.upstream is not None, "the configuration sees to that"
        reads_hello = passages.asks(listener.name)
        found.limits = dict(_limits(config, listener, route, reads_hello=reads_hello))
        pool = pool_of(config, route.upstream)
        found.note_pool(pool, pointed_to(pool, client_key(pool, question.client)))
    except Refusal as refusal:
        found.refused, found.reason, found.token = True, refusal.detail, refusal.token
    return found


def _listener(config: Config, question: TcpQuestion) -> Listener:
    """Return the listener that is named, or is bound to the port.

    No other may be meant: in TCP there is nothing else to tell listeners apart.
    """
    if question.listener is not None:
        there = [named_listener(config, question.listener)]
    else:
        there = [one for one in config.listeners if one.bind.port == question.port]
    tcp = [listener for listener in there if listener.mode == "tcp"]
    fitting = [listener for listener in tcp if question.secure or listener.tls is None]
    if fitting:
        return fitting[0]
    if tcp:
        raise ValueError(f"{_place(config, tcp[0])} has TLS: ask with tls://")
    if there:
        raise ValueError(f"{_place(config, there[0])} is for HTTP: ask with http:// or https://")
    known = [_place(config, one) for one in config.listeners if one.mode == "tcp"]
    reason = f"no listener is bound to port {question.port}"
    raise ValueError(f'{reason}; of mode "tcp" there are: {", ".join(known) or "none"}')


def _place(config: Config, listener: Listener) -> str:
    return f"listeners[{config.listeners.index(listener)}] ({listener_title(listener)})"


def _route(config: Config, passages: Passages, listener: Listener, found: TcpExplanation) -> Route:
    # Where no route goes by the name nobody reads it.
    name = found.server_name if passages.asks(listener.name) else ""
    failed = passages.failed(listener.name, name)
    chosen = next((route for route, why in failed if why is None), None)
    found.others = [
        (label(config, route), _why_not(route, why)) for route, why in failed if route is not chosen
    ]
    route = passages.match(listener.name, name)
    found.route = label(config, route)
    return route


def _why_not(route: Route, why: Condition | None) -> str:
    match why:
        case None:
            return "matches too, and is less specific"
        case "listener":
            return f"is for listener {route.listener!r}"
        case "sni":
            return f"is for the server name {route.sni}"


def _limits(
    config: Config, listener: Listener, route: Route, *, reads_hello: bool
) -> Iterator[tuple[str, object]]:
    """Yield what is in force for a connection of a route, by its key."""
    if listener.tls is not None:
        tls = listener.tls.over(config.tls)
        yield "tls.unknown_sni", tls.unknown_sni
        yield "tls.handshake_timeout", tls.handshake_timeout
    if listener.tls is not None or reads_hello:
        yield "timeouts.handshake", config.timeouts.handshake
    assert route.upstream is not None, "the configuration sees to that"
    yield "hold.timeout", config.upstreams[route.upstream].hold.timeout
    for name in ("dial", "reach"):
        yield f"timeouts.{name}", getattr(config.timeouts, name)
    for name in ("idle_timeout", "half_close_timeout", "write_stall", "on_stall"):
        yield name, getattr(route, name)
    for key, value in bounds("limits", route.limits):
        # What needs frames cannot be kept.
        if key.removeprefix("limits.") in LIMITS:
            yield key, value
