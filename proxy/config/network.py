"""Ranges of client addresses, as an operator writes them: `10.0.0.0/8`, `2001:db8::/32`, `unix`."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

import attrs

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@attrs.frozen
class Network:
    """A range of IP addresses; None: whoever comes over a unix socket, and has none."""

    range: IpNetwork | None

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read a range in CIDR notation (RFC 4632, RFC 4291), a single address, or `unix`.

        Raises:
            ValueError: if the text is none of them.
        """
        if text == "unix":
            return cls(None)
        try:
            network = ipaddress.ip_network(text)
        except ValueError as exc:
            if "host bits" in str(exc):
                meant = ipaddress.ip_network(text, strict=False)
                raise ValueError(f"{text!r} is no range: {meant} has it in it") from exc
            allowed = '"10.0.0.0/8", "2001:db8::/32", "192.0.2.7" or "unix"'
            raise ValueError(f"{text!r} is no range of addresses: {allowed}") from exc
        if network.version == 6 and network.subnet_of(_MAPPED):
            raise ValueError(f"{text!r} is a range of IPv4: write it as one")
        return cls(network)

    def __contains__(self, client: str) -> bool:
        """Whether the range has a client, given by its address; a name is in none."""
        if self.range is None:
            return client == "unix"
        address = ip_address(client)
        return address is not None and address in self.range

    def __str__(self) -> str:
        return "unix" if self.range is None else str(self.range)


@functools.lru_cache(maxsize=1024)
def ip_address(client: str) -> IpAddress | None:
    """Return a client's address, None if it has none.

    An IPv4 client of a socket that serves both kinds (`::ffff:192.0.2.1`) is one of IPv4, and the
    interface of a link-local address (`%eth0`) is no part of it.
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def networks(values: Iterable[Network | str]) -> tuple[Network, ...]:
    """Return ranges, of which some may be as an operator writes them.

    Raises:
        ValueError: one is no range.
    """
    return tuple(Network.parse(value) if isinstance(value, str) else value for value in values)
