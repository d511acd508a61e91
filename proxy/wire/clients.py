"""Who the client of a request is, whom to believe about that, and whether it has been here before.

A request that goes round and round would fill every limit there is.  So each process has a name of
its own, which it puts into `Via` beside the configured one, and which no client gets to see: who
knew it could have this process refuse requests that come through another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from proxy.config.forwarding import Forwarding
from proxy.config.model import Config, Listener
from proxy.config.route import Route
from proxy.errors import LoopDetected, TooManyHops

from .client_certificate import ClientCertificate
from .edits import Edits
from .forwarded import (
    UNKNOWN,
    Hop,
    find_client,
    is_address,
    members,
    read_forwarded,
    read_x_forwarded,
)
from .head import Head
from .headers import ClientFacts, Headers, Heads, get

#: What is a name for a request in every log and header.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_NO_HOP: Final = Hop("")
_OF_A_HOP: Final = (b"proto", b"host", b"port")


@attrs.frozen
class Peer:
    """Who has connected, and to what: an IP address or "unix", the listener, its port.

    `scheme` is what the client speaks, to the listener or to whom that has it from.
    """

    address: str
    listener: Listener
    port: int
    scheme: str
    certificate: ClientCertificate | None = None


class Clients:
    """What one configuration says of trust, and of what nodes and clients are told.

    `instance` is this process's own name, a word that nobody guesses.
    """

    def __init__(self, config: Config, instance: str) -> None:
        self._config: Forwarding = config.forwarding
        self._instance = b"-" + instance.encode()
        self._appends = self._config.forwarded_for == "append"
        self._plain = self._make_heads(None)
        # By identity: a route's hash would cost more than it saves.
        self._routes = config.routes
        self._by_route = {id(route): self._make_heads(route) for route in config.routes}

    def _make_heads(self, route: Route | None) -> Heads:
        config = self._config
        via = config.via.encode()
        return Heads(
            x_forwarded=config.headers in ("x-forwarded", "both"),
            forwarded=config.headers in ("forwarded", "both"),
            request_id=config.request_id,
            certificate=config.client_certificates,
            via_to_node=via and via + self._instance,
            via_to_client=via,
            request=Edits.of(route.request_headers) if route else Edits(),
            response=Edits.of(route.response_headers) if route else Edits(),
        )

    def trusts(self, address: str) -> bool:
        """Whether what this peer says of others is believed; "unix" is one without an address."""
        return any(address in network for network in self._config.trusted)

    def check_hops(self, head: Head) -> None:
        """Refuse a request that has come too far, or through here before.

        Raises:
            LoopDetected, TooManyHops: it has.
        """
        via = head.get(b"via")
        if via is None:
            return
        if via.count(self._instance) >= self._config.passes:
            raise LoopDetected
        if via.count(b",") >= self._config.hops:
            raise TooManyHops

    def facts(self, peer: Peer, head: Head | None, request_id: str) -> ClientFacts:
        """Return what is to be believed of a request; `request_id` is for one that has none.

        Of one whose head could not be read, None, nothing is.
        """
        host = ((head and head.get(b"host")) or b"").decode("latin-1")
        chain: list[Hop] = []
        address, depth = peer.address, 0
        if head is not None and self._config.trusted and self.trusts(peer.address):
            chain = _chain(head.headers, self._config.believe)
            address, depth = find_client(chain, peer.address, self.trusts)
            given = get(head.headers, b"x-request-id") or b""
            request_id = given.decode() if _REQUEST_ID.fullmatch(given) else request_id
        # Of a client whose address nobody tells, what it wanted may be told still.
        hop = chain[-max(depth, 1)] if chain else _NO_HOP
        scheme = hop.scheme or peer.scheme
        hsts = peer.listener.hsts
        return ClientFacts(
            address,
            scheme,
            (hop.wanted_port if chain else 0) or peer.port,
            request_id,
            hop.host or host,
            hops=_passed_on(chain, hop, _own(peer, host)) if chain and self._appends else (),
            version=b"1.1" if head is None else head.http_version,
            hsts=hsts.value if hsts is not None and scheme == "https" else "",
            certificate=peer.certificate,
            heads=self._plain,
        )

    def heads(self, route: Route) -> Heads:
        """Return how heads are made on a route of the configuration."""
        return self._by_route[id(route)]


def _chain(headers: Headers, language: str) -> list[Hop]:
    """Return the hops that a trusted peer tells of.

    It speaks one language: in the other one it may be the client who speaks.
    """
    if language == "forwarded":
        return read_forwarded(_lines(headers, b"forwarded"))
    nodes = members(_lines(headers, b"x-forwarded-for"))
    rest = (members(_lines(headers, b"x-forwarded-" + name)) for name in _OF_A_HOP)
    return read_x_forwarded(nodes, *rest)


def _lines(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _own(peer: Peer, host: str) -> Hop:
    """Return the hop to here."""
    node = peer.address if is_address(peer.address) else UNKNOWN
    return Hop(node, peer.scheme, host)


def _passed_on(chain: Sequence[Hop], client: Hop, own: Hop) -> tuple[Hop, ...]:
    """Return what nodes are told: of the others on the way just who they were.

    One X-Forwarded-Host may be for all of them, and would come out as often.
    """
    return (*(hop if hop is client else Hop(hop.node) for hop in chain), own)
