"""Who may have another session of a route: in all, of one client address, and how often.

Counted are handshakes too, from their arrival on: those that wait for a node will be sessions.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from proxy.config.route import SessionLimits
from proxy.errors import RouteFull, TooMany
from proxy.wire.rate import Rate


class Place:
    """One session's place among its route's; `release` once is enough, more often is no harm."""

    __slots__ = ("_address", "_admission")

    def __init__(self, admission: Admission, address: str) -> None:
        self._admission: Admission | None = admission
        self._address = address

    def release(self) -> None:
        if self._admission is not None:
            admission, self._admission = self._admission, None
            admission.left(self._address)


class Admission:
    """The sessions of one route, which outlive the route's own settings."""

    def __init__(self) -> None:
        self.sessions = 0
        self._by_address: dict[str, int] = {}
        #: The least recently seen address first.
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    @property
    def addresses(self) -> int:
        """How many addresses' handshakes are remembered."""
        return len(self._rates)

    def admit(self, limits: SessionLimits, client: str, now: float, remembered: int) -> Place:
        """Return a place for a handshake from `client`, an IP address or another name.

        Of at most `remembered` addresses is known how often they come.

        Raises:
            TooMany, RouteFull: there is none.
        """
        address = _same_customer(client)
        if limits.handshakes_per_second:
            self._check_pace(limits, address, now, remembered)
        if limits.sessions and self.sessions >= limits.sessions:
            raise RouteFull
        of_address = self._by_address.get(address, 0)
        if limits.sessions_per_address and of_address >= limits.sessions_per_address:
            raise TooMany
        self.sessions += 1
        self._by_address[address] = of_address + 1
        return Place(self, address)

    def left(self, address: str) -> None:
        """Take back a place."""
        self.sessions -= 1
        if self._by_address[address] == 1:
            del self._by_address[address]
        else:
            self._by_address[address] -= 1

    def _check_pace(self, limits: SessionLimits, address: str, now: float, remembered: int) -> None:
        pace = limits.handshakes_per_second, limits.burst
        rate = self._rates.pop(address, None)
        if rate is None or rate.pace != pace:
            rate = Rate(*pace)
        self._rates[address] = rate
        self._forget(now, remembered)
        if wait := rate.allows(now):
            raise TooMany(
                "Too many handshakes from this address.", retry_after=max(1, math.ceil(wait))
            )
        rate.spend(now)

    def _forget(self, now: float, remembered: int) -> None:
        """Drop those who have paid for all, then, if they are too many, who was quiet longest."""
        while len(self._rates) > 1:
            address, rate = next(iter(self._rates.items()))
            if not rate.idle(now) and len(self._rates) <= remembered:
                return
            del self._rates[address]


def _same_customer(client: str) -> str:
    """Return what stands for all addresses that one customer has: of IPv6 a whole /64."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{address.exploded[:19]}::/64"
