"""The opening handshake, on both legs (RFC 6455 section 4).

Three parties share one handshake here.  The client's key, subprotocols and extensions go through
to the node unchanged, so that the node's `Sec-WebSocket-Accept` is made for the client and both
ends agree on what they negotiated; the proxy checks that answer as the client would, and only then
lets the client see a 101.  deepstream's client resets its back-off on any 101: one that the node
did not stand behind would bring it back twenty times a second.
"""

from __future__ import annotations

import binascii
from base64 import b64decode

import attrs
import h11
from wsproto.connection import ConnectionType
from wsproto.events import RejectConnection
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from proxy.errors import BadUpgrade, BadUpgradeResponse, OriginDenied, WrongVersion

from .head import Request
from .headers import (
    Changes,
    ClientFacts,
    Headers,
    changed,
    end_to_end,
    get,
    request_headers,
    tokens,
)

_OWN = frozenset((b"sec-websocket-accept", b"upgrade", b"connection", b"content-length"))


@attrs.frozen
class Upgrade:
    """A client's valid handshake: what it offered, and what its answer must say."""

    target: bytes
    headers: Headers
    accept: bytes
    subprotocols: tuple[bytes, ...]
    extensions: tuple[bytes, ...]
    #: What the request to a node says otherwise.
    changes: Changes = ()

    def without_extensions(self) -> Upgrade:
        """Return it as if the client had offered none."""
        changes = (*self.changes, (b"Sec-WebSocket-Extensions", None))
        return attrs.evolve(self, extensions=(), changes=changes)


def wants_websocket(request: Request) -> bool:
    """Whether a request asks for a WebSocket, well-formed or not.

    Any sign counts: a broken handshake gets a clear answer here and never reaches a node.
    """
    names = request.names
    return (
        b"sec-websocket-key" in names
        or b"sec-websocket-version" in names
        or request.lists(b"upgrade", b"websocket")
    )


def check_upgrade(
    method: bytes, target: bytes, version: bytes, headers: Headers, origins: tuple[str, ...] | None
) -> Upgrade:
    """Validate a client's handshake (RFC 6455 section 4.2.1); wsproto is the judge.

    `origins` are those that may connect; a request without one is not a browser's and passes.

    Raises:
        BadUpgrade, WrongVersion, OriginDenied: with the reason.
    """
    if method != b"GET":
        raise BadUpgrade("A WebSocket handshake is a GET.")
    if version != b"1.1":
        raise BadUpgrade("A WebSocket handshake needs HTTP/1.1.")
    if get(headers, b"content-length") not in (None, b"0") or get(headers, b"transfer-encoding"):
        raise BadUpgrade("A WebSocket handshake has no body.")
    _ask_wsproto(target, headers)
    origin = get(headers, b"origin")
    if origins is not None and origin is not None and origin.decode("latin-1") not in origins:
        raise OriginDenied
    return Upgrade(
        target=target,
        headers=headers,
        accept=generate_accept_token(_key(headers)),
        subprotocols=_listed(headers, b"sec-websocket-protocol"),
        extensions=_extension_names(headers),
    )


def _ask_wsproto(target: bytes, headers: Headers) -> None:
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        handshake.initiate_upgrade_connection(headers, target)
    except RemoteProtocolError as exc:
        hint = exc.event_hint
        if isinstance(hint, RejectConnection) and hint.status_code == 426:
            raise WrongVersion from exc
        raise BadUpgrade(f"The WebSocket handshake is malformed: {exc}.") from exc
    except (h11.LocalProtocolError, UnicodeError) as exc:
        raise BadUpgrade from exc


def _key(headers: Headers) -> bytes:
    keys = [value for name, value in headers if name.lower() == b"sec-websocket-key"]
    try:
        valid = len(keys) == 1 and len(b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise BadUpgrade("Sec-WebSocket-Key is not one base64 value of 16 bytes.")
    return keys[0]


def _listed(headers: Headers, name: bytes) -> tuple[bytes, ...]:
    """Return a list header's members as written: subprotocol names are case-sensitive."""
    values = b",".join(value for key, value in headers if key.lower() == name)
    return tuple(part for piece in values.split(b",") if (part := piece.strip()))


def _extension_names(headers: Headers) -> tuple[bytes, ...]:
    offers = tokens(headers, b"sec-websocket-extensions")
    return tuple(offer.partition(b";")[0].rstrip() for offer in offers)


def node_request(upgrade: Upgrade, facts: ClientFacts) -> h11.Request:
    """Return the handshake as a node gets it: the client's own, with this hop's headers ours."""
    kept = request_headers(upgrade.headers, facts)
    kept = [pair for pair in kept if pair[0].lower() != b"content-length"]
    kept = changed(kept, upgrade.changes) if upgrade.changes else kept
    headers = [*kept, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return h11.Request(method=b"GET", target=upgrade.target, headers=headers)


def client_response(upgrade: Upgrade, headers: Headers, node: str) -> h11.InformationalResponse:
    """Check a node's 101 (RFC 6455 section 4.1) and return the 101 for the client.

    Raises:
        BadUpgradeResponse: if the client would have to fail the connection.
    """
    if reason := _fault(upgrade, headers):
        raise BadUpgradeResponse(node, reason)
    kept = [pair for pair in end_to_end(headers) if pair[0].lower() not in _OWN]
    answer = [
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Accept", upgrade.accept),
        *kept,
    ]
    return h11.InformationalResponse(status_code=101, headers=answer, reason=b"Switching Protocols")


def _fault(upgrade: Upgrade, headers: Headers) -> str | None:
    if tokens(headers, b"upgrade") != [b"websocket"]:
        return "The node's 101 does not switch to WebSocket."
    if b"upgrade" not in tokens(headers, b"connection"):
        return "The node's 101 has no Connection: Upgrade."
    accepts = [value for name, value in headers if name.lower() == b"sec-websocket-accept"]
    if accepts != [upgrade.accept]:
        return "The node's 101 has a wrong Sec-WebSocket-Accept."
    chosen = _listed(headers, b"sec-websocket-protocol")
    if len(chosen) > 1 or not set(chosen) <= set(upgrade.subprotocols):
        return "The node's 101 has a subprotocol that was not offered."
    if not set(_extension_names(headers)) <= set(upgrade.extensions):
        return "The node's 101 has an extension that was not offered."
    return None


def reserved_bits(headers: Headers) -> int:
    """Return the reserved bits that a 101's extensions may use, as a mask of a frame's first byte.

    permessage-deflate uses RSV1 (RFC 7692 section 6); of an extension nobody knows here, all three
    may be in use.
    """
    bits = 0
    for name in _extension_names(headers):
        bits |= 0x40 if name == b"permessage-deflate" else 0x70
    return bits
