"""What would become of a request, and why; nothing is sent, and no name is resolved.

Each step is the function that serves a request by it, so that what is said here is what happens.
What depends on the moment is left out: which nodes are up, who has used up a rate, hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Final, Literal

import attrs

from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.errors import BodyTooLarge, HeadTooLarge, Refusal, RouteAnswer
from proxy.pool.policy import rendezvous
from proxy.pool.upstream import Upstream, needs_resolving
from proxy.wire.body import SizedBody, request_body
from proxy.wire.client_certificate import SAMPLE
from proxy.wire.clients import Clients, Peer
from proxy.wire.handshake import check_upgrade, node_request, wants_websocket
from proxy.wire.head import Request, check_request, read_request, write_request
from proxy.wire.headers import ClientFacts, HeadLimits, request_headers
from proxy.wire.refusal import reason_phrase

from .admission import check_address
from .answer import add_page, onward, own_answer
from .question import Question
from .reach import key_of
from .routes import Asked, Condition, Routes

#: Stands where each request has a name of its own.
_REQUEST_ID: Final = "(of each request)"
#: Stands where each process has a name of its own.
_INSTANCE: Final = "(of each process)"


@attrs.frozen(kw_only=True)
class Candidate:
    """A node as it is configured; `chosen` is whether this request's key points to it."""

    address: str
    weight: int
    backup: bool
    max_sessions: int
    chosen: bool = False


@attrs.define(kw_only=True)
class Explanation:
    """What would become of a request."""

    listener: str
    scheme: Literal["http", "https"]
    client: str
    #: The request line as understood, and whether it is a WebSocket handshake.
    request: str
    websocket: bool
    #: The route, and why not the others, in the order in which they are tried.
    route: str = ""
    others: list[tuple[str, str]] = attrs.field(factory=list)
    #: What the client is told: by the route, or since the request is `refused`.
    refused: bool = False
    status: int = 0
    reason: str = ""
    token: str = ""
    answer: list[str] = attrs.field(factory=list)
    upstream: str = ""
    balance: str = ""
    candidates: list[Candidate] = attrs.field(factory=list)
    #: The request's head as a node gets it.
    sent: list[str] = attrs.field(factory=list)
    #: What is in force, by its key in the configuration.
    limits: dict[str, object] = attrs.field(factory=dict)

    def fields(self) -> dict[str, object]:
        """Return all of it, for JSON."""
        return attrs.asdict(self)


def explain(config: Config, question: Question) -> Explanation:
    """Say what would become of a request.

    Raises:
        ValueError: it could not even come in: no listener is for it.
    """
    listener, request = _listener(config, question), question.request
    found = Explanation(
        listener=f"{listener.name} {listener.bind}".lstrip(),
        scheme=listener.scheme,
        client=question.client,
        request=f"{request.method.decode()} {question.whole_target}",
        websocket=wants_websocket(request),
    )
    clients = Clients(config, _INSTANCE)
    peer = _peer(config, listener, question)
    facts = clients.facts(peer, request, _REQUEST_ID)
    found.client = facts.address
    route: Route | None = None
    try:
        limits = config.limits
        head = write_request(request.method, request.target, request.headers)
        if len(head) > limits.head_bytes:
            raise HeadTooLarge
        bounds = HeadLimits(limits.head_bytes, limits.target_bytes, limits.headers)
        request = check_request(read_request(head, bounds))
        clients.check_hops(request)
        route = _route(config, listener, request, found)
        check_address(route, facts.address)
        found.limits = dict(_limits(config, route, websocket=found.websocket))
        facts.heads = clients.heads(route)
        body = request_body(request)
        most = limits.body_bytes if route.body_bytes is None else route.body_bytes
        if route.upstream and isinstance(body, SizedBody) and body.size > most:
            raise BodyTooLarge
        goes_on = onward(request, route)
        if route.upstream is None:
            raise own_answer(route, goes_on, facts)
        found.sent = _sent(goes_on, route, facts, websocket=found.websocket)
        _candidates(config, route.upstream, request, facts, found)
    except Refusal as refusal:
        add_page(refusal, route, config)
        found.refused = not isinstance(refusal, RouteAnswer)
        found.status, found.token = refusal.status, refusal.token if refusal.is_fault else ""
        found.reason = refusal.detail
        found.answer = _lines(refusal.headers)
    return found


def _peer(config: Config, listener: Listener, question: Question) -> Peer:
    asked = listener.tls and listener.tls.over(config.tls).client_certificates
    # Where one is optional this client has none.
    shown = SAMPLE if asked and asked.mode == "required" else None
    port = listener.bind.port or question.port
    return Peer(question.client, listener, port, listener.scheme, shown)


def label(config: Config, route: Route) -> str:
    """Return how to call a route of a configuration: its place there, and its name."""
    index = next(index for index, one in enumerate(config.routes) if one is route)
    return f"routes[{index}] {route.name}"


def _listener(config: Config, question: Question) -> Listener:
    """Return the listener that is named, or is bound to the port, or may be behind another one."""
    if question.listener is not None:
        for listener in config.listeners:
            if question.listener in (listener.name, str(listener.bind)):
                return _for_http(listener)
        raise ValueError(f"no listener is called {question.listener!r}")
    fitting = [one for one in config.listeners if (one.tls is not None) == question.secure]
    if not fitting:
        raise ValueError(f"no listener {'has' if question.secure else 'is without'} TLS")
    bound = [listener for listener in fitting if listener.bind.port == question.port]
    http = [listener for listener in fitting if listener.mode == "http"]
    return _for_http((bound or http or fitting)[0])


def _for_http(listener: Listener) -> Listener:
    if listener.mode == "tcp":
        raise ValueError(f"on {listener.name!r} bytes pass unseen: there are no requests")
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
    for section in ("limits", "ping"):
        for name, value in attrs.asdict(getattr(route, section)).items():
            # 0 is no limit.
            if value:
                yield f"{section}.{name}", value


def _sent(request: Request, route: Route, facts: ClientFacts, *, websocket: bool) -> list[str]:
    headers = request.headers
    if websocket:
        upgrade = check_upgrade(
            request.method, request.target, request.http_version, headers, route.origins
        )
        headers = node_request(upgrade, facts).headers.raw_items()
    else:
        headers = request_headers(headers, facts)
    line = b"%s %s HTTP/1.1" % (request.method, request.target)
    return [line.decode(), *_lines(headers)]


def _lines(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    return [f"{name.decode()}: {value.decode('latin-1')}" for name, value in headers]


def _candidates(
    config: Config, name: str, request: Request, facts: ClientFacts, found: Explanation
) -> None:
    upstream = Upstream(name, config.upstreams[name], Random())
    found.upstream, found.balance = name, upstream.config.balance
    names = any(needs_resolving(node.address) for node in upstream.config.nodes)
    key = key_of(upstream, request, request.target.decode(), facts)
    chosen = None
    if key and not names:
        # Where names stand for nodes, only their addresses have a place in the ring.
        first = [node for node in upstream.nodes if not node.backup]
        chosen = rendezvous(first, 0.0, key, Random()).address
    found.candidates = [
        Candidate(
            address=str(node.address),
            weight=node.weight,
            backup=node.backup,
            max_sessions=node.max_sessions,
            chosen=node.address == chosen,
        )
        for node in upstream.config.nodes
    ]


def text(found: Explanation) -> str:
    """Return an explanation for people: a block for each part, aligned."""
    kind = "WebSocket handshake" if found.websocket else "plain request"
    blocks = {
        "listener": [f"{found.listener} ({found.scheme})"],
        "request": [f"{found.request} ({kind} from {found.client})"],
        "route": [found.route or "none"],
        "not": [f"{name}: {why}" for name, why in found.others],
        "upstream": [f"{found.upstream} ({found.balance})"] if found.upstream else [],
        "nodes": [_node(one) for one in found.candidates],
        "sent": found.sent,
        "answer": _answer(found) if found.status else [],
        "limits": [f"{key} = {value}" for key, value in found.limits.items()],
    }
    return "\n".join(
        f"{name if not index else '':<10}{line}".rstrip()
        for name, lines in blocks.items()
        for index, line in enumerate(lines)
    )


def _answer(found: Explanation) -> list[str]:
    said = f"{found.status} {reason_phrase(found.status).decode()}".rstrip()
    why = f": {found.reason} ({found.token})" if found.token else ""
    return [said + why, *found.answer]


def _node(node: Candidate) -> str:
    told = [f"weight {node.weight}"]
    if node.max_sessions:
        told.append(f"at most {node.max_sessions}")
    if node.backup:
        told.append("backup")
    if node.chosen:
        told.append("this request's, by its key")
    return f"{node.address} ({', '.join(told)})"
