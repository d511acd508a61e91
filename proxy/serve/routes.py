"""From host and target to a route."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.config.model import Listener
from proxy.config.route import Route
from proxy.errors import NoRoute, UpgradeRequired


class Routes:
    """A configuration's routes, the most specific first.

    A route with a host goes before one without, an exact path before a prefix, a longer prefix
    before a shorter one; routes that are equal in this go in the order of the file.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = sorted(routes, key=_specificity)
        self._keys = frozenset(route.key for route in routes)

    def __contains__(self, route: Route) -> bool:
        """Whether there is a route for the same requests, whatever else it says."""
        return route.key in self._keys

    def match(self, listener: Listener, host: str, target: str, *, websocket: bool) -> Route:
        """Return the route for a request; `target` is in origin form, `host` may have a port.

        Raises:
            NoRoute: none matches.
            UpgradeRequired: the only ones that match carry WebSocket, and this is a plain request.
        """
        name = _without_port(host)
        plain_on_websocket = False
        for route in self._routes:
            if route.listener not in (None, listener.name) or route.host not in (None, name):
                continue
            if not _path_matches(route, target, websocket=websocket):
                continue
            if websocket == route.websocket or (route.prefix is not None and route.websocket):
                return route
            plain_on_websocket |= not websocket
        raise UpgradeRequired if plain_on_websocket else NoRoute


def _specificity(route: Route) -> tuple[bool, bool, int]:
    return route.host is None, route.path is None, -len(route.prefix or "")


def _path_matches(route: Route, target: str, *, websocket: bool) -> bool:
    path = target.partition("?")[0]
    if route.path is not None:
        # To a deepstream node another query is another path, and not one of its own.
        return route.path == (target if websocket else path)
    assert route.prefix is not None
    prefix = route.prefix.rstrip("/")
    return path == route.prefix or path.startswith(prefix + "/")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
