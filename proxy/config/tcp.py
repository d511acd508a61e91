"""Routes of TCP listeners: what they may say, and how they go together with listeners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from .model import Listener
    from .route import Route
    from .upstream import Upstream

#: What means something to bytes that pass unseen; all other keys are about HTTP or about frames.
_KEYS: Final = frozenset(
    (
        "upstream",
        "listener",
        "sni",
        "allow",
        "deny",
        "limits",
        "idle_timeout",
        "half_close_timeout",
        "write_stall",
        "on_stall",
        "on_removed",
    )
)
#: Of `routes.limits`, those that need no frames.
LIMITS: Final = frozenset(
    (
        "bytes_per_second",
        "burst",
        "exceeded",
        "sessions",
        "sessions_per_address",
        "handshakes_per_second",
    )
)
Fault = tuple[str, str]


def route_faults(route: Route) -> list[Fault]:
    """Return what a route of a TCP listener says and cannot mean, by key."""
    needs_path = 'means nothing to a route without "path" and "prefix", which is one of TCP'
    return [
        *((key, needs_path) for key in _given(route) if key not in _KEYS),
        *(
            (f"limits.{key}", "cannot be kept in TCP, where no frames are seen")
            for key in _given(route.limits)
            if key not in LIMITS
        ),
    ]


def _given(section: attrs.AttrsInstance) -> Iterator[str]:
    """Yield the keys that have another value than the default one."""
    for field in attrs.fields(type(section)):
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, to everybody but its stub
            default = default.factory()
        if getattr(section, field.name) != default:
            yield field.name


def config_faults(
    listeners: Sequence[Listener], routes: Sequence[Route], upstreams: Mapping[str, Upstream]
) -> Iterator[Fault]:
    """Yield what listeners, routes and upstreams say that does not go together."""
    by_name = {listener.name: listener for listener in listeners if listener.name}
    for index, route in enumerate(routes):
        listener = by_name.get(route.listener or "")
        if listener is not None:
            yield from _pair_faults(f"routes[{index}]", route, listener)
        if route.kind == "tcp" and (upstream := upstreams.get(route.upstream or "")) is not None:
            if upstream.balance == "hash" and upstream.hash_on != "client":
                reason = f'balances by {upstream.hash_on!r}, which TCP has not; by "client" it can'
                yield f"routes[{index}].upstream", reason
        elif route.listener is None and all(one.mode == "tcp" for one in listeners):
            yield f"routes[{index}]", "is for HTTP, and no listener is"
    for index, listener in enumerate(listeners):
        if listener.mode == "tcp":
            yield from _listener_faults(f"listeners[{index}]", listener, routes)


def _pair_faults(key: str, route: Route, listener: Listener) -> Iterator[Fault]:
    name = repr(listener.name)
    if route.kind == "tcp" and listener.mode != "tcp":
        yield key, f'needs either "path" (exact) or "prefix": the listener {name} is for HTTP'
    elif route.kind != "tcp" and listener.mode == "tcp":
        yield f"{key}.listener", f'{name} is of mode "tcp", whose routes have no "path" or "prefix"'
    elif route.sni is not None and listener.tls is not None:
        yield f"{key}.sni", f"{name} ends TLS itself; names are for listeners without tls"


def _listener_faults(key: str, listener: Listener, routes: Sequence[Route]) -> Iterator[Fault]:
    if not listener.name:
        yield f"{key}.name", 'is missing: the routes of a listener of mode "tcp" name it'
    elif not any(route.listener == listener.name for route in routes):
        yield key, f"no route is for it; one with listener = {listener.name!r} would be"
