"""From host and target to a route."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

from proxy.config.model import Listener
from proxy.config.route import Route
from proxy.errors import NoRoute, UpgradeRequired

_NONE: Final[Mapping[str, Hashable]] = {}


class Routes:
    """A configuration's routes, the most specific first.

    `labels` are the names of listeners, and what each is known by.

    A route with a host goes before one without, an exact path before a prefix, a longer prefix
    before a shorter one; routes that are equal in this go in the order of the file.
    """

    def __init__(self, routes: Sequence[Route], labels: Mapping[str, Hashable] = _NONE) -> None:
        http = [route for route in routes if route.kind != "tcp"]
        self._routes = sorted(http, key=_specificity)
        self._labels = labels
        #: What requests there are routes for.
        self.keys = frozenset(map(self.key, routes))

    def key(self, route: Route) -> Hashable:
        """Return what requests a route is for: a route with another key is another route.

        Listeners are known by where they are bound, whatever they are called.
        """
        listener = self._labels.get(route.listener or "", route.listener)
        return listener, route.host, route.path, route.prefix, route.websocket, route.sni

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
