"""What is said of a request or connection that nobody has made: as data, and as text for people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from random import Random
from typing import Literal

import attrs

from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.config.upstream import ProxyVersion
from proxy.pool.node import Node
from proxy.pool.policy import rendezvous
from proxy.pool.upstream import Upstream, needs_resolving
from proxy.wire.refusal import reason_phrase


@attrs.frozen(kw_only=True)
class Candidate:
    """A node as it is configured; `chosen` is whether the key points to it."""

    address: str
    weight: int
    backup: bool
    max_sessions: int
    chosen: bool = False


@attrs.define(kw_only=True)
class Explained(ABC):
    """What is said whatever the client speaks."""

    listener: str
    scheme: Literal["http", "https", "tcp", "tls"]
    client: str
    #: The route, and why not the others, in the order in which they are tried.
    route: str = ""
    others: list[tuple[str, str]] = attrs.field(factory=list)
    #: Something is wrong, so it is not served, and why.
    refused: bool = False
    reason: str = ""
    token: str = ""
    upstream: str = ""
    balance: str = ""
    #: Of the header that connections to a node begin with, if they do.
    proxy_protocol: ProxyVersion | None = None
    candidates: list[Candidate] = attrs.field(factory=list)
    #: What is in force, by its key in the configuration.
    limits: dict[str, object] = attrs.field(factory=dict)

    def fields(self) -> dict[str, object]:
        """Return all of it, for JSON."""
        return attrs.asdict(self)

    def note_pool(self, pool: Upstream, chosen: Node | None) -> None:
        """Note who may be asked."""
        config = pool.config
        self.upstream, self.balance = pool.name, config.balance
        self.proxy_protocol = config.proxy_protocol
        self.candidates = [
            Candidate(
                address=str(node.address),
                weight=node.weight,
                backup=node.backup,
                max_sessions=node.max_sessions,
                chosen=chosen is not None and node.address == chosen.address,
            )
            for node in config.nodes
        ]

    @abstractmethod
    def blocks(self) -> dict[str, list[str]]:
        """Return the lines of each part, for people."""

    def _way(self, keyed: str) -> dict[str, list[str]]:
        """Return where it goes; `keyed` is what to say of a node that the key points to."""
        proxy = f"a PROXY header ({self.proxy_protocol}) begins each connection to a node"
        return {
            "route": [self.route or "none"],
            "not": [f"{name}: {why}" for name, why in self.others],
            "upstream": [f"{self.upstream} ({self.balance})"] if self.upstream else [],
            "nodes": [_node(one, keyed) for one in self.candidates],
            "proxy": [proxy] if self.proxy_protocol else [],
        }

    def _bounds(self) -> list[str]:
        return [f"{key} = {value}" for key, value in self.limits.items()]


@attrs.define(kw_only=True)
class Explanation(Explained):
    """What would become of a request."""

    #: The request line as understood, and whether it is a WebSocket handshake.
    request: str
    websocket: bool
    #: What the client is told: by the route, or since the request is `refused`.
    status: int = 0
    answer: list[str] = attrs.field(factory=list)
    #: The request's head as a node gets it, line by line.
    sent: list[str] = attrs.field(factory=list)

    def blocks(self) -> dict[str, list[str]]:
        kind = "WebSocket handshake" if self.websocket else "plain request"
        return {
            "listener": [f"{self.listener} ({self.scheme})"],
            "request": [f"{self.request} ({kind} from {self.client})"],
            **self._way("this request's, by its key"),
            "sent": self.sent,
            "answer": self._answer() if self.status else [],
            "limits": self._bounds(),
        }

    def _answer(self) -> list[str]:
        said = f"{self.status} {reason_phrase(self.status).decode()}".rstrip()
        why = f": {self.reason} ({self.token})" if self.token else ""
        return [said + why, *self.answer]


@attrs.define(kw_only=True)
class TcpExplanation(Explained):
    """What would become of a connection to a listener of mode "tcp"."""

    tls: Literal["none", "terminated", "passed through"]
    #: What the client asks for in its ClientHello, if anything.
    server_name: str = ""

    def blocks(self) -> dict[str, list[str]]:
        # To a protocol that we do not know there is nothing else to say.
        reset = f"a reset: {self.reason} ({self.token})"
        return {
            "listener": [f"{self.listener} (tcp)"],
            **self._asked(),
            **self._way("this client's, by its address"),
            "answer": [reset] if self.refused else [],
            "limits": self._bounds(),
        }

    def _asked(self) -> dict[str, list[str]]:
        if self.tls == "none":
            return {"client": [self.client]}
        name = f"the server name {self.server_name}" if self.server_name else "no server name"
        return {"client": [f"{self.client}, asks for {name}"], "tls": [self.tls]}


def named_listener(config: Config, name: str) -> Listener:
    """Return the listener that is called so, or is bound there.

    Raises:
        ValueError: none is.
    """
    for listener in config.listeners:
        if name in (listener.name, str(listener.bind)):
            return listener
    known = ", ".join(repr(one.name or str(one.bind)) for one in config.listeners)
    raise ValueError(f"no listener is called {name!r}; there are: {known}")


def listener_title(listener: Listener) -> str:
    """Return how to call a listener: its name, if it has one, and where it is bound."""
    return f"{listener.name} {listener.bind}".lstrip()


def label(config: Config, route: Route) -> str:
    """Return how to call a route of a configuration: its place there, and its name."""
    index = next(index for index, one in enumerate(config.routes) if one is route)
    return f"routes[{index}] {route.name}"


def pool_of(config: Config, name: str) -> Upstream:
    """Return an upstream as it would be asked for a node, with those that need no resolving."""
    return Upstream(name, config.upstreams[name], Random())


def pointed_to(pool: Upstream, key: bytes) -> Node | None:
    """Return the node that a key points to while all are up; None: that depends on the moment."""
    if not key or any(needs_resolving(node.address) for node in pool.config.nodes):
        # Where names stand for nodes, only their addresses have a place in the ring.
        return None
    first = [node for node in pool.nodes if not node.backup]
    return rendezvous(first, 0.0, key, Random())


def bounds(key: str, section: attrs.AttrsInstance) -> Iterator[tuple[str, object]]:
    """Yield what a section of the configuration limits, by its key."""
    for name, value in attrs.asdict(section).items():
        # 0 is no limit.
        if value:
            yield f"{key}.{name}", value


def text(found: Explained) -> str:
    """Return an explanation for people: a block for each part, aligned."""
    return "\n".join(
        f"{name if not index else '':<10}{line}".rstrip()
        for name, lines in found.blocks().items()
        for index, line in enumerate(lines)
    )


def _node(node: Candidate, keyed: str) -> str:
    told = [f"weight {node.weight}"]
    if node.max_sessions:
        told.append(f"at most {node.max_sessions}")
    if node.backup:
        told.append("backup")
    if node.chosen:
        told.append(keyed)
    return f"{node.address} ({', '.join(told)})"
