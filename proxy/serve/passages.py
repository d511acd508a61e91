"""From a TCP listener, and the name that a TLS client asks for, to a route."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from proxy.config.route import Route
from proxy.errors import NoRoute

#: The conditions of a route, in the order in which they are looked at.
Condition = Literal["listener", "sni"]


class Passages:
    """The routes of TCP listeners: an exact name goes first, then the longest that ends like it."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = {(one.listener, one.sni): one for one in routes if one.kind == "tcp"}
        self._asking = frozenset(listener for listener, sni in self._routes if sni is not None)

    def asks(self, listener: str) -> bool:
        """Whether the route depends on the name, so that it has to be known."""
        return listener in self._asking

    def match(self, listener: str, name: str) -> Route:
        """Return the route for a name in lower case; empty: none is asked for.

        Raises:
            NoRoute: none matches.
        """
        for sni in _tried(name):
            if (route := self._routes.get((listener, sni))) is not None:
                return route
        asked = f"the server name {name!r}" if name else "clients that ask for no server name"
        raise NoRoute(f"No route is for {asked}.")

    def failed(self, listener: str, name: str) -> list[tuple[Route, Condition | None]]:
        """Return the routes as they are tried, each with the first of its conditions that fails."""
        taking = frozenset(_tried(name))

        def failed(route: Route) -> Condition | None:
            if route.listener != listener:
                return "listener"
            return None if route.sni in taking else "sni"

        return [(route, failed(route)) for route in sorted(self._routes.values(), key=_rank)]


def _tried(name: str) -> Iterator[str | None]:
    """Yield what routes for a name may say, the most specific first."""
    if name:
        yield name
    while name := name.partition(".")[2]:
        yield f"*.{name}"
    yield None


def _rank(route: Route) -> tuple[object, ...]:
    sni = route.sni or ""
    return route.sni is None, sni.startswith("*."), -len(sni)
