"""What nodes and clients are told of each other, and whose word is taken for it."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .checks import TOKEN, Invalid, count
from .network import Network, networks

#: What nodes can be told of a client's certificate.
CertificateFact = Literal["verify", "subject", "serial", "fingerprint", "certificate"]


def _pseudonym(_: object, __: attrs.Attribute[Any], value: str) -> None:
    if value and not (TOKEN.fullmatch(value) and len(value) <= 64):
        raise ValueError(f"must be one word of at most 64 letters, digits and -._~, not {value!r}")


@attrs.frozen(kw_only=True)
class Forwarding:
    """What a request says of where it came from.

    A peer that is not trusted is the client itself: what it says of others is dropped.  A trusted
    one is another proxy: the client's address is the rightmost that is not trusted itself, of
    `X-Forwarded-For` or of `Forwarded`, whichever it is to `believe`.  Each header of that kind has
    to be its own: one that it passes on from clients would be believed as well.
    """

    # Networks, and "unix" for whoever comes by a unix socket.  nginx's set_real_ip_from, Caddy's
    # trusted_proxies, Traefik's trustedIPs: none
    trusted: tuple[Network, ...] = attrs.field(default=(), converter=networks)
    # What trusted peers speak: X-Forwarded-For, -Proto, -Host and -Port, or Forwarded
    believe: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    # nginx, HAProxy: none unless told; Caddy, Traefik, Envoy: X-Forwarded-*
    headers: Literal["x-forwarded", "forwarded", "both", "none"] = "x-forwarded"
    # Behind a trusted peer: the chain with the peer at its end, or the client's address alone.  A
    # deepstream node takes the whole of X-Forwarded-For for one address.  The others append
    forwarded_for: Literal["append", "client"] = "append"
    # The name in Via, "" for none, and then no loop is found.  Caddy: Caddy; nginx, HAProxy: none,
    # though RFC 9110 section 7.6.3 asks for it
    via: str = attrs.field(default="tidegate", validator=_pseudonym)
    # How often one request may come through this process.  Not in the others
    passes: int = count(1, high=8)
    # Entries of Via that a request may bring.  ALB refuses more than 30 addresses
    hops: int = count(30, high=1000)
    # X-Request-Id; one that a trusted peer has made is kept, as in Envoy.  False: nodes get none
    request_id: bool = True
    # X-SSL-Client-Verify (SUCCESS or NONE), -Subject, -Serial, -Fingerprint, and Client-Cert (RFC
    # 9440); those that clients send are dropped then, all of them, whatever the listener.  nginx,
    # HAProxy: to be said, and to be dropped, for each
    client_certificates: tuple[CertificateFact, ...] = ()


@attrs.frozen(kw_only=True)
class Hsts:
    """`Strict-Transport-Security` (RFC 6797), sent only where the client has come by TLS."""

    # Seconds; browsers' preload list asks for a year
    max_age: int = count(31_536_000, low=0)
    include_subdomains: bool = False
    preload: bool = False

    def __attrs_post_init__(self) -> None:
        if self.preload and not (self.include_subdomains and self.max_age >= 31_536_000):
            needs = "needs include_subdomains and a max_age of a year: browsers' list asks for both"
            raise Invalid(("preload", needs))

    @property
    def value(self) -> str:
        """The header's value."""
        subdomains = "; includeSubDomains" if self.include_subdomains else ""
        return f"max-age={self.max_age}{subdomains}{'; preload' if self.preload else ''}"
