"""From a request to its route.

Routes are tried in one order, the most specific first; the first that takes the request is its
route.  Which ones can take it at all is looked up: those of its listener and host have a table of
their own, made when it is first needed, and in that each exact path has its list.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Final, Literal

import attrs

from proxy.config.route import Route
from proxy.errors import MethodNotAllowed, NoRoute, UpgradeRequired
from proxy.wire.headers import Headers
from proxy.wire.target import comparable, host_name

_NONE: Final[Mapping[str, Hashable]] = {}
#: No longer name can be asked for in DNS, so none is compared with what stands for many.
_LONGEST_NAME = 253

#: The conditions of a route, in the order in which they are looked at.
Condition = Literal[
    "listener", "host", "path", "prefix", "query", "websocket", "headers", "methods"
]


#: How many different requests are remembered with their routes, and how long they may be for
#: that: some 500 KiB at most.
_REMEMBERED: Final = 1000
_SHORT: Final = 200


@attrs.define(eq=False)  # frozen it would take twice as long to make, for every request
class Asked:
    """What a request is routed by.

    The listener is told by its name, the target is in origin form, the host may have a port.
    """

    listener: str
    host: str
    target: str
    websocket: bool = False
    method: str = "GET"
    headers: Headers = attrs.field(factory=list)


class Routes:
    """A configuration's routes, the most specific first.

    `labels` are the names of listeners, and what each is known by.

    A route for one listener goes before one for all, an exact host before `*.suffix`, a longer
    suffix before a shorter one, that before any host, an exact path before a prefix, a longer
    prefix before a shorter one, more other conditions before fewer: methods, each header, and that
    it takes only plain requests, or only WebSocket handshakes.  Routes that are equal in all this
    go in the order of the file.
    """

    def __init__(self, routes: Sequence[Route], labels: Mapping[str, Hashable] = _NONE) -> None:
        http = [route for route in routes if route.kind != "tcp"]
        self._entries = [_Entry.of(route) for route in sorted(http, key=_rank)]
        self._labels = labels
        #: What requests there are routes for.
        self.keys = frozenset(map(self.key, routes))
        self._listeners = frozenset(route.listener for route in routes)
        self._hosts = frozenset(route.host for route in routes if route.host)
        #: There are no more than the routes' listeners and hosts make: clients' are not kept.
        self._tables: dict[tuple[str | None, str | None], _Table] = {}
        #: What plain requests asked for before, and its route: most are like another one.
        self._known: dict[tuple[str, str, str, str], Route] = {}
        #: Headers would have to be remembered too.
        self._remembers = not any(route.headers for route in http)

    def __iter__(self) -> Iterator[Route]:
        """Yield them in the order in which they are tried."""
        return (entry.route for entry in self._entries)

    def key(self, route: Route) -> Hashable:
        """Return what requests a route is for: a route with another key is another route.

        Listeners are known by where they are bound, whatever they are called.
        """
        listener = self._labels.get(route.listener or "", route.listener)
        return listener, *route.conditions, route.sni

    def match(self, asked: Asked) -> Route:
        """Return the route for a request.

        Raises:
            NoRoute: none matches.
            MethodNotAllowed: only the method does not, of some.
            UpgradeRequired: the only ones that match carry WebSocket, and this is a plain request.
        """
        path = asked.target.partition("?")[0]
        key = asked.listener, asked.host, path, asked.method
        if not asked.websocket and (known := self._known.get(key)) is not None:
            return known
        route = self._find(asked, comparable(path))
        short = len(asked.host) + len(path) + len(asked.method) <= _SHORT
        if short and self._remembers and not asked.websocket:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = route
        return route

    def _find(self, asked: Asked, path: str) -> Route:
        table = self._table(asked.listener, host_name(asked.host))
        for entry in table.paths.get(path, table.prefixes):
            if entry.takes_path(path) and entry.failed(asked) is None:
                return entry.route
        raise self._refusal(asked)

    def failed(self, asked: Asked) -> list[tuple[Route, Condition | None]]:
        """Return the routes as they are tried, each with the first of its conditions that fails."""
        path, name = comparable(asked.target.partition("?")[0]), host_name(asked.host)
        return [(entry.route, entry.failed_of_all(asked, path, name)) for entry in self._entries]

    def shadowed(self, listeners: Collection[str]) -> list[tuple[Route, Route]]:
        """Return routes that no request gets to, each with one before it that takes all of its.

        `listeners` are the names of all there are, "" for one that has none.
        """
        found = []
        for index, entry in enumerate(self._entries):
            before = (e for e in self._entries[:index] if e.covers(entry, listeners))
            if (first := next(before, None)) is not None:
                found.append((entry.route, first.route))
        return found

    def _refusal(self, asked: Asked) -> NoRoute | MethodNotAllowed | UpgradeRequired:
        failed = self.failed(asked)
        allowed = [route.allowed_methods or () for route, why in failed if why == "methods"]
        if allowed:
            # RFC 9110 section 15.5.6
            names = sorted({name for names in allowed for name in names})
            return MethodNotAllowed(headers=[(b"Allow", ", ".join(names).encode())])
        if not asked.websocket and any(why == "websocket" for _, why in failed):
            return UpgradeRequired()
        return NoRoute()

    def _table(self, listener: str, name: str) -> _Table:
        key = listener if listener in self._listeners else None, self._host(name)
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _Table([e for e in self._entries if e.may_take(*key)])
        return table

    def _host(self, name: str) -> str | None:
        """Return the most specific host of a route that stands for a name; None: there is none."""
        if name in self._hosts:
            return name
        dot = name.find(".", 1) if len(name) <= _LONGEST_NAME else -1
        while dot >= 0:
            if (pattern := f"*{name[dot:]}") in self._hosts:
                return pattern
            dot = name.find(".", dot + 1)
        return None


@attrs.frozen(eq=False)
class _Entry:
    """A route, with its conditions as they are compared."""

    route: Route
    plain: bool
    websocket: bool
    path: str | None
    prefix: str | None
    #: What a path below its prefix begins with.
    below: str
    #: To a deepstream node another query is another path, and not one of its own.
    whole_target: bool
    methods: frozenset[str] | None
    #: Names in lower case; None stands for any value.
    headers: tuple[tuple[bytes, bytes | None], ...]

    @classmethod
    def of(cls, route: Route) -> _Entry:
        plain, websocket = route.takes
        path, prefix = route.path, route.prefix
        return cls(
            route,
            plain,
            websocket,
            path=path and comparable(path),
            prefix=prefix and comparable(prefix),
            below=f"{comparable(prefix or '').rstrip('/')}/",
            whole_target=matches_whole_target(route),
            methods=route.allowed_methods,
            headers=tuple(
                (name.lower().encode(), None if value == "*" else value.encode())
                for name, value in route.headers.items()
            ),
        )

    def may_take(self, listener: str | None, name: str | None) -> bool:
        """Whether it is for a listener and a host; None: one that no route is for."""
        if self.route.listener not in (None, listener):
            return False
        return stands_for(self.route.host, name or "")

    def takes_path(self, path: str) -> bool:
        if self.path is not None:
            return path == self.path
        return path.startswith(self.below) or path == self.prefix

    def failed(self, asked: Asked) -> Condition | None:
        """Return the first condition that fails, of those that are not looked up."""
        if asked.websocket:
            if not self.websocket:
                return "websocket"
            if self.whole_target and asked.target != self.route.path:
                return "query" if "?" in asked.target else "path"
        elif not self.plain:
            return "websocket"
        for name, value in self.headers:
            if not _has(asked.headers, name, value):
                return "headers"
        if self.methods is not None and asked.method not in self.methods:
            return "methods"
        return None

    def failed_of_all(self, asked: Asked, path: str, name: str) -> Condition | None:
        """Return the first of all its conditions that fails."""
        route = self.route
        if route.listener not in (None, asked.listener):
            return "listener"
        if not stands_for(route.host, name):
            return "host"
        if not self.takes_path(path):
            return "prefix" if self.path is None else "path"
        return self.failed(asked)

    def covers(self, other: _Entry, listeners: Collection[str]) -> bool:
        """Whether it takes all requests that another one takes."""
        ours, theirs = self.route, other.route
        if ours.listener not in (None, theirs.listener) and (
            theirs.listener is not None or {*listeners} != {ours.listener}
        ):
            return False
        if ours.host is not None and not stands_for(ours.host, theirs.host or ""):
            return False
        if ours.path is not None and theirs.path is None:
            return False
        if not self.takes_path(other.path or other.prefix or ""):
            return False
        return self._asks_no_more(other)

    def _asks_no_more(self, other: _Entry) -> bool:
        """Whether its other conditions hold wherever those of another route do."""
        if (other.plain and not self.plain) or (other.websocket and not self.websocket):
            return False
        if self.whole_target and other.websocket and not other.whole_target:
            return False
        if self.methods is not None and not (
            other.methods is not None and other.methods <= self.methods
        ):
            return False
        names = {name for name, _ in other.headers}
        return all(
            (name in names) if value is None else ((name, value) in other.headers)
            for name, value in self.headers
        )


class _Table:
    """The routes for one listener and host, in order."""

    __slots__ = ("paths", "prefixes")

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self.prefixes = [entry for entry in entries if entry.path is None]
        order = {entry: index for index, entry in enumerate(entries)}
        exact: dict[str, list[_Entry]] = {}
        for entry in entries:
            if entry.path is not None:
                exact.setdefault(entry.path, []).append(entry)
        #: By each exact path, all that take it.
        self.paths = {
            path: sorted(
                [*own, *(one for one in self.prefixes if one.takes_path(path))],
                key=order.__getitem__,
            )
            for path, own in exact.items()
        }


def stands_for(host: str | None, name: str) -> bool:
    """Whether a route's host is that of a request; `*.` stands for one label or more."""
    if host is None or host == name:
        return True
    return (
        host.startswith("*.")
        and len(host) <= len(name) <= _LONGEST_NAME
        and name.endswith(host[1:])
    )


def matches_whole_target(route: Route) -> bool:
    """Whether a handshake's query has to be none."""
    return route.path is not None and route.has_sessions and not route.drop_query


def _rank(route: Route) -> tuple[object, ...]:
    any_host, suffix = route.host is None, (route.host or "").startswith("*.")
    takes_one = sum(route.takes) == 1
    return (
        route.listener is None,
        any_host,
        suffix,
        -len(route.host or "") if suffix else 0,
        route.path is None,
        -len(comparable(route.prefix or "")),
        -(len(route.headers) + (route.methods is not None) + takes_one),
    )


def _has(headers: Headers, wanted: bytes, value: bytes | None) -> bool:
    return any(
        name.lower() == wanted and (value is None or text == value) for name, text in headers
    )
