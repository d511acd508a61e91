"""Who may ask, and have another session of a route: in all, of one client address, and how often.

Counted are handshakes too, from their arrival on: those that wait for a node will be sessions.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from proxy.config.http import RequestRate
from proxy.config.route import Route, SessionLimits
from proxy.errors import AddressDenied, RouteFull, TooMany
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


def check_address(route: Route, client: str) -> None:
    """Check that a client, given by its address or as "unix", may come to a route at all.

    Raises:
        AddressDenied: it may not.
    """
    if route.deny and any(client in network for network in route.deny):
        raise AddressDenied
    if route.allow and not any(client in network for network in route.allow):
        raise AddressDenied


class Paces:
    """How often each client address comes, of as many as are remembered."""

    def __init__(self) -> None:
        #: The least recently seen address first.
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rates)

    def check(
        self, pace: tuple[float, float], address: str, now: float, remembered: int, what: str
    ) -> None:
        """Account for one of an address, which may have so many a second, in bursts of seconds.

        Raises:
            TooMany: it comes too soon, and is not counted; `what` is what there are too many of.
        """
        rate = self._rates.pop(address, None)
        if rate is None or rate.pace != pace:
            rate = Rate(*pace)
        self._rates[address] = rate
        self._forget(now, remembered)
        if wait := rate.allows(now):
            detail = f"Too many {what} from this address."
            raise TooMany(detail, retry_after=max(1, math.ceil(wait)))
        rate.spend(now)

    def _forget(self, now: float, remembered: int) -> None:
        """Drop those who have paid for all, then, if they are too many, who was quiet longest."""
        while len(self._rates) > 1:
            address, rate = next(iter(self._rates.items()))
            if not rate.idle(now) and len(self._rates) <= remembered:
                return
            del self._rates[address]


class Admission:
    """The requests and sessions of one route, which outlive the route's own settings."""

    def __init__(self) -> None:
        self.sessions = 0
        self._by_address: dict[str, int] = {}
        self._handshakes = Paces()
        self._requests = Paces()

    @property
    def addresses(self) -> int:
        """How many addresses are remembered, of handshakes and of requests."""
        return len(self._handshakes) + len(self._requests)

    def check_request(self, limit: RequestRate, client: str, now: float, remembered: int) -> None:
        """Account for a request or handshake from `client`, an IP address or another name.

        Of at most `remembered` addresses is known how often they come.

        Raises:
            TooMany: it comes too soon.
        """
        pace = limit.per_second, limit.burst / limit.per_second
        self._requests.check(pace, _same_customer(client), now, remembered, "requests")

    def admit(self, limits: SessionLimits, client: str, now: float, remembered: int) -> Place:
        """Return a place for a handshake from `client`, an IP address or another name.

        Of at most `remembered` addresses is known how often they come.

        Raises:
            TooMany, RouteFull: there is none.
        """
        address = _same_customer(client)
        if limits.handshakes_per_second:
            pace = limits.handshakes_per_second, limits.burst
            self._handshakes.check(pace, address, now, remembered, "handshakes")
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
