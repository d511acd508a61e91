"""What would become of a request, and why; nothing is sent, and no name is resolved.

Each step is the function that serves a request by it, so that what is said here is what happens.
What depends on the moment is left out: which nodes are up, who has used up a rate, hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.errors import BodyTooLarge, HeadTooLarge, Refusal, RouteAnswer
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.wire.body import SizedBody, request_body
from proxy.wire.client_certificate import SAMPLE
from proxy.wire.clients import Clients, Peer
from proxy.wire.handshake import check_upgrade, node_request, wants_websocket
from proxy.wire.head import Request, check_request, read_request, write_request
from proxy.wire.headers import ClientFacts, HeadLimits
from proxy.wire.node_headers import node_headers

from .admission import check_address
from .answer import add_page, onward, own_answer
from .explanation import (
    Explanation,
    bounds,
    label,
    listener_title,
    named_listener,
    pointed_to,
    pool_of,
)
from .question import Question
from .reach import key_of
from .routes import Asked, Condition, Routes

#: Stands where each request has a name of its own.
_REQUEST_ID: Final = "(of each request)"
#: Stands where each process has a name of its own.
_INSTANCE: Final = "(of each process)"
#: Stands where each node has a name of its own, for a request without Host.
_AUTHORITY: Final = "(of each node)"


def explain(config: Config, question: Question) -> Explanation:
    """Say what would become of a request.

    Raises:
        ValueError: it could not even come in: no listener is for it.
    """
    listener, request = _listener(config, question), question.request
    found = Explanation(
        listener=listener_title(listener),
        scheme=listener.scheme,
        client=question.client,
        request=question.title,
        websocket=wants_websocket(request),
    )
    clients = Clients(config, _INSTANCE)
    facts = clients.facts(_peer(config, listener, question), request, _REQUEST_ID)
    found.client = facts.address
    route: Route | None = None
    try:
        request = _understood(config, question)
        clients.check_hops(request)
        route = _route(config, listener, request, found)
        check_address(route, facts.address)
        found.limits = dict(_limits(config, route, websocket=found.websocket))
        facts.heads = clients.heads(route)
        goes_on = onward(request, route)
        if route.upstream is None:
            raise own_answer(route, goes_on, facts)
        pool = pool_of(config, route.upstream)
        node = pointed_to(pool, key_of(pool, request, request.target.decode(), facts))
        if found.websocket:
            head = _handshake(goes_on, route, facts)
        else:
            _check_body(config, route, request)
            head = _plain(goes_on, facts, pool, node)
        found.sent = head.decode("latin-1").split("\r\n")[:-2]
        found.note_pool(pool, node)
    except Refusal as refusal:
        add_page(refusal, route, config)
        found.refused = not isinstance(refusal, RouteAnswer)
        found.status, found.token = refusal.status, refusal.token if refusal.is_fault else ""
        found.reason = refusal.detail
        found.answer = [f"{n.decode()}: {v.decode('latin-1')}" for n, v in refusal.headers]
    return found


def _understood(config: Config, question: Question) -> Request:
    """Return the request as it is read from the bytes that come in."""
    limits, head = config.limits, question.head
    if len(head) > limits.head_bytes:
        raise HeadTooLarge
    largest = HeadLimits(limits.head_bytes, limits.target_bytes, limits.headers)
    return check_request(read_request(head, largest))


def _check_body(config: Config, route: Route, request: Request) -> None:
    body = request_body(request)
    most = config.limits.body_bytes if route.body_bytes is None else route.body_bytes
    if isinstance(body, SizedBody) and body.size > most:
        raise BodyTooLarge


def _plain(request: Request, facts: ClientFacts, pool: Upstream, chosen: Node | None) -> bytes:
    """Return the head of a plain request as a node gets it."""
    if chosen is None and len(pool.nodes) == len(pool.config.nodes) == 1:
        chosen = pool.nodes[0]
    headers = node_headers(
        request,
        facts,
        authority=_AUTHORITY if chosen is None else chosen.authority,
        # Nothing else depends on it but an expectation, and who has one waits with the body.
        whole=request_body(request).done,
        keeps=pool.config.keeps_connections,
    )
    return write_request(request.method, request.target, headers)


def _handshake(request: Request, route: Route, facts: ClientFacts) -> bytes:
    """Return the head of a WebSocket handshake as a node gets it."""
    upgrade = check_upgrade(
        request.method, request.target, request.http_version, request.headers, route.origins
    )
    sent = node_request(upgrade, facts)
    return write_request(sent.method, sent.target, sent.headers.raw_items())


def _peer(config: Config, listener: Listener, question: Question) -> Peer:
    asked = listener.tls and listener.tls.over(config.tls).client_certificates
    # Where one is optional this client has none.
    shown = SAMPLE if asked and asked.mode == "required" else None
    port = listener.bind.port or question.port
    return Peer(question.client, listener, port, listener.scheme, shown)


def _listener(config: Config, question: Question) -> Listener:
    """Return the listener that is named, or is bound to the port, or may be behind another one."""
    if question.listener is not None:
        return _for_http(named_listener(config, question.listener))
    fitting = [one for one in config.listeners if (one.tls is not None) == question.secure]
    there = [listener for listener in config.listeners if listener.bind.port == question.port]
    bound = [listener for listener in there if listener in fitting]
    if not bound and any(listener.mode == "tcp" for listener in there):
        # TLS that passes through comes to a listener without.
        bound = [listener for listener in there if listener.mode == "tcp"]
    elif not fitting:
        raise ValueError(f"no listener {'has' if question.secure else 'is without'} TLS")
    http = [listener for listener in fitting if listener.mode == "http"]
    return _for_http((bound or http or fitting)[0])


def _for_http(listener: Listener) -> Listener:
    if listener.mode == "tcp":
        reason = "bytes pass unseen: there are no requests; ask with tcp:// or tls://"
        raise ValueError(f"on {listener.name!r} {reason}")
    return listener


def _route(config: Config, listener: Listener, request: Request, found: Explanation) -> Route:
    asked = Asked(
        listener=listener.name,
        host=(request.get(b"host") or b"").decode("latin-1"),
        target=request.target.decode(),
        websocket=found.websocket,
        method=request.method.decode(),
        headers=request.headers,
    )
    routes = Routes(config.routes)
    failed = routes.failed(asked)
    chosen = next((route for route, why in failed if why is None), None)
    found.others = [
        (label(config, route), _why_not(route, why, asked))
        for route, why in failed
        if route is not chosen
    ]
    route = routes.match(asked)
    found.route = label(config, route)
    return route


def _why_not(route: Route, why: Condition | None, asked: Asked) -> str:
    match why:
        case None:
            return "matches too, and is less specific"
        case "listener":
            return f"is for listener {route.listener!r}"
        case "host":
            return f"is for host {route.host}"
        case "path":
            return f"is for path {route.path}"
        case "prefix":
            return f"is for prefix {route.prefix}"
        case "websocket":
            return f"is for {'plain requests' if asked.websocket else 'WebSocket'} only"
        case "query":
            return "takes no query: nodes would not; drop_query takes it away"
        case "headers":
            told = ", ".join(f"{name}: {value}" for name, value in route.headers.items())
            return f"is for requests with {told}"
        case "methods":
            return f"is for {', '.join(route.methods or ())}"


def _limits(config: Config, route: Route, *, websocket: bool) -> Iterator[tuple[str, object]]:
    """Yield what is in force for a request of a route, by its key."""
    if (rate := route.requests) is not None:
        yield "requests.per_second", rate.per_second
        yield "requests.burst", rate.burst
    if route.upstream is None:
        return
    yield "hold.timeout", config.upstreams[route.upstream].hold.timeout
    for name in ("dial", "reach", *(("upgrade", "close") if websocket else ())):
        yield f"timeouts.{name}", getattr(config.timeouts, name)
    if not websocket:
        own = route.response_timeout, route.body_timeout, route.body_bytes
        default = config.timeouts.response, config.timeouts.body, config.limits.body_bytes
        for name, mine, given in zip(
            ("response_timeout", "body_timeout", "body_bytes"), own, default, strict=True
        ):
            yield name, given if mine is None else mine
        return
    for name in ("frames", "idle_timeout", "write_stall", "on_stall"):
        yield name, getattr(route, name)
    yield from bounds("limits", route.limits)
    yield from bounds("ping", route.ping)
