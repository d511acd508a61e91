"""The ways in which proxies say whom they speak for: `X-Forwarded-For`, and `Forwarded` (RFC 7239).

Each proxy writes at the end of a list whom it was connected to.  So only the end can be believed:
what the nearest proxy has written if that is trusted, what the one before it has if that is trusted
too, and so on.  The walk goes from the right and ends at the first address that is not, which is
the client; what stands left of that anybody may have written, and may be anything.  Lists are
therefore taken apart from the right as well: no quote that a client leaves open reaches what the
proxies behind it have written.

What goes on is written anew, from what was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from itertools import takewhile
from typing import Final

import attrs

#: Of a longer list the rest is neither believed nor passed on; ALB refuses more than 30.
LONGEST: Final = 32
#: RFC 7239 section 6: no address is known, or shall be.
UNKNOWN: Final = "unknown"

_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}))?"
#: RFC 7239 section 6, and IPv6 without brackets, as it stands in X-Forwarded-For.
_NODE = re.compile(
    rf"\[(?P<v6>[0-9A-Fa-f:.]{{2,45}})\]{_PORT}|(?P<v4>[0-9.]{{7,15}}){_PORT}"
    rf"|(?P<bare>[0-9A-Fa-f:.]{{2,45}})|(?P<hidden>unknown|_[A-Za-z0-9._-]{{1,64}}){_PORT}",
    re.IGNORECASE,
)
#: Up to the next comma that is not within quotes; quotes are the same from either end.
_ELEMENT = re.compile(rb'((?:[^",]|"[^"]*")*+)(,|$)')
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
#: Nothing that is understood here needs a backslash.
_PAIR = re.compile(rf'[ \t]*({_TOKEN})=(?:({_TOKEN})|"([^"\\]*)")[ \t]*(?:;|$)')
_PLAIN = re.compile(_TOKEN)
HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::\d{0,5})?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NUMBER = re.compile(r"[0-9]{1,5}")
#: Some proxies tell WebSockets from the rest.
_SCHEMES: Final = {"http": "http", "ws": "http", "https": "https", "wss": "https"}


@attrs.frozen
class Hop:
    """One hand-over: who had connected, and for what, as far as that is said."""

    #: An IP address, "unknown", or a name that hides one ("_edge1").
    node: str
    scheme: str = ""
    host: str = ""
    #: Beside the host, which may have one as well.
    port: int = 0

    @property
    def is_address(self) -> bool:
        """Whether it is told who that was."""
        return is_address(self.node)

    @property
    def wanted_port(self) -> int:
        """The port that was asked for: as it is told, in the host, or the scheme's; 0: unknown."""
        _, colon, given = self.host.rpartition(":")
        return self.port or _port(given if colon else "") or _DEFAULT_PORTS.get(self.scheme, 0)


def is_address(name: str) -> bool:
    """Whether a name that is one of ours is an IP address."""
    return ":" in name or name[:1].isdigit()


def is_host(text: str) -> bool:
    """Whether this can be somebody's Host header."""
    return bool(text) and HOST.fullmatch(text.encode("latin-1")) is not None


def scheme(text: str) -> str:
    """Return "http" or "https", "" if that is neither."""
    return _SCHEMES.get(text.lower(), "")


def node_name(text: str) -> str:
    """Return who that is, without a port, in one way of writing; "unknown" if that is nobody."""
    match = _NODE.fullmatch(text)
    if match is None:
        return UNKNOWN
    if match["hidden"]:
        return match["hidden"] if match["hidden"].startswith("_") else UNKNOWN
    try:
        address = ip_address(match["v6"] or match["v4"] or match["bare"])
    except ValueError:
        return UNKNOWN
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def members(values: Sequence[bytes]) -> list[str]:
    """Return the last members of a list that stands in these lines, quotes being nothing."""
    parts = b",".join(values).rsplit(b",", LONGEST)[-LONGEST:]
    return [text.decode("latin-1") for part in parts if (text := part.strip())]


def read_x_forwarded(
    nodes: Sequence[str], schemes: Sequence[str], hosts: Sequence[str], ports: Sequence[str]
) -> list[Hop]:
    """Read the members of X-Forwarded-For, -Proto, -Host and -Port: the last hops, in order."""
    if not nodes and (schemes or hosts or ports):
        nodes = [UNKNOWN]
    return [
        Hop(
            node_name(node),
            scheme(_at(schemes, depth)),
            host if is_host(host := _at(hosts, depth)) else "",
            _port(_at(ports, depth)),
        )
        for depth, node in zip(range(len(nodes), 0, -1), nodes, strict=True)
    ]


def _at(values: Sequence[str], depth: int) -> str:
    """Return what a list says of the hop that is so many from its right.

    A proxy that replaces what was there leaves one value, for all hops.
    """
    return values[-min(depth, len(values))] if values else ""


def _port(text: str) -> int:
    return int(text) if _NUMBER.fullmatch(text) and int(text) < 65536 else 0


def read_forwarded(values: Sequence[bytes]) -> list[Hop]:
    """Read the lines of Forwarded (RFC 7239 section 4): the last hops, in order.

    Of an element that is none nothing is known, and of all that stand before an open quote.
    """
    backwards, position, found = b",".join(values)[::-1], 0, list[Hop]()
    while len(found) < LONGEST:
        match = _ELEMENT.match(backwards, position)
        element = match[1][::-1].decode("latin-1").strip() if match else "?"
        if element:
            found.append(_hop(element))
        if match is None or not match[2]:
            break
        position = match.end()
    return found[::-1]


def _hop(element: str) -> Hop:
    pairs: dict[str, str] = {}
    position = 0
    while match := _PAIR.match(element, position):
        name = match[1].lower()
        if name in pairs:
            return Hop(UNKNOWN)
        pairs[name] = match[2] or match[3] or ""
        position = match.end()
    if position != len(element):
        return Hop(UNKNOWN)
    host = pairs.get("host", "")
    return Hop(
        node_name(pairs.get("for", "")),
        scheme(pairs.get("proto", "")),
        host if is_host(host) else "",
    )


def find_client(chain: Sequence[Hop], peer: str, trusts: Callable[[str], bool]) -> tuple[str, int]:
    """Return the address of the client, and how many hops from the right it stands in the chain.

    That is the rightmost that is not trusted, or the last before nothing more is known; 0 hops is
    the peer, who is trusted.
    """
    address, depth = peer, 0
    for depth, hop in enumerate(reversed(chain), 1):
        if not hop.is_address:
            return address, depth - 1
        address = hop.node
        if not trusts(address):
            break
    return address, depth


def addresses(hops: Sequence[Hop]) -> bytes:
    """Write the value of X-Forwarded-For; it may be empty.

    What stands before a hop without an address is left out: without the gap it would be believed.
    The last hop is the one to here, which leaves no gap.
    """
    before = takewhile(lambda hop: hop.is_address, reversed(hops[:-1]))
    known = [*reversed([*before]), *(hop for hop in hops[-1:] if hop.is_address)]
    return ", ".join(hop.node for hop in known).encode("latin-1")


def elements(hops: Iterable[Hop]) -> bytes:
    """Write the value of Forwarded (RFC 7239 section 4)."""
    return ", ".join(map(_element, hops)).encode("latin-1")


def _element(hop: Hop) -> str:
    node = f'"[{hop.node}]"' if ":" in hop.node else hop.node
    host = hop.host if _PLAIN.fullmatch(hop.host) else f'"{hop.host}"'
    parts = [f"for={node}", hop.host and f"host={host}", hop.scheme and f"proto={hop.scheme}"]
    return ";".join(filter(None, parts))
