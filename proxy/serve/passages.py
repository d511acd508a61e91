"""From a TCP listener, and the name that a TLS client asks for, to a route."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.config.route import Route
from proxy.errors import NoRoute


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
        route = self._routes.get((listener, name)) if name else None
        rest = name
        while route is None and rest:
            rest = rest.partition(".")[2]
            route = self._routes.get((listener, f"*.{rest}")) if rest else None
        if (found := route or self._routes.get((listener, None))) is not None:
            return found
        asked = f"the server name {name!r}" if name else "clients that ask for no server name"
        raise NoRoute(f"No route is for {asked}.")
