"""What a route's configuration means to one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

import attrs

from proxy.config.route import Route, SessionLimits
from proxy.wire.frames import Scanner
from proxy.wire.liveness import Patience
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.rate import Meter, Rate
from proxy.wire.rules import STRICT, Rules
from proxy.wire.tunnel import Tunnel

from .transport import CHUNK

#: The smallest frame of a client: its header.
_SMALLEST: Final = 6
#: Less is never read at a time: every read costs a system call.
_LEAST: Final = 256


@attrs.frozen
class Terms:
    """The settings that a session keeps from its beginning to its end."""

    #: For the closing handshakes, in seconds.
    close_timeout: float = 5.0
    patience: Patience = attrs.field(factory=Patience)
    #: Whether a side that does not read is reset, not told.
    abort_stalled: bool = False
    #: Whether a client that sends too fast is ended, not slowed.
    end_fast: bool = False
    #: Makes what watches a client's pace, and its control frames'; None: nobody does.
    meter: Callable[[Scanner], Meter] | None = None
    control_rate: Callable[[], Rate] | None = None
    #: What is read at a time of a client whose pace is watched, in bytes: what was read comes in at
    #: once, whatever the pace.
    chunk: int = CHUNK
    rules: tuple[Rules, Rules] = (STRICT, STRICT)
    #: Of a message that is shown to a hook.
    held_bytes: int = 4 * 2**20
    make_tunnel: Callable[[int], Tunnel] = lambda reserved: Tunnel(reserved=reserved)

    @classmethod
    def of(cls, route: Route, close_timeout: float) -> Self:
        limits, ping = route.limits, route.ping
        patience = Patience(
            ping=(0.0, 0.0) if route.opaque else (ping.client, ping.node),
            ping_timeout=ping.timeout,
            idle=route.idle_timeout,
            half_close=route.half_close_timeout,
            write_stall=route.write_stall,
        )
        rules = _rules(route)
        metered = limits.messages_per_second or limits.bytes_per_second
        return cls(
            close_timeout=close_timeout,
            patience=patience,
            abort_stalled=route.on_stall == "abort",
            end_fast=limits.exceeded == "close",
            meter=_meter(route) if metered else None,
            chunk=_chunk(limits) if metered else CHUNK,
            control_rate=_control_rate(route) if limits.controls_per_second else None,
            rules=rules,
            held_bytes=limits.held_bytes,
            make_tunnel=_tunnels(rules, opaque=route.opaque),
        )


def _meter(route: Route) -> Callable[[Scanner], Meter]:
    limits = route.limits

    def make(scanner: Scanner) -> Meter:
        return Meter(scanner, limits.messages_per_second, limits.bytes_per_second, limits.burst)

    return make


def _chunk(limits: SessionLimits) -> int:
    """Return how much may be read at a time so that it is not much more than a burst."""
    chunk = CHUNK
    if limits.bytes_per_second:
        chunk = min(chunk, max(_LEAST, int(limits.bytes_per_second * limits.burst)))
    if limits.messages_per_second:
        # However small they are.
        messages = limits.messages_per_second * limits.burst
        chunk = min(chunk, max(_LEAST, int(messages * _SMALLEST)))
    return chunk


def _control_rate(route: Route) -> Callable[[], Rate]:
    return lambda: Rate(route.limits.controls_per_second, route.limits.burst)


def _rules(route: Route) -> tuple[Rules, Rules]:
    limits, lenient = route.limits, route.frames == "lenient"
    return (
        Rules(limits.message_bytes, limits.frame_bytes, limits.fragments, lenient=lenient),
        Rules(limits.node_message_bytes, lenient=lenient),
    )


def _tunnels(rules: tuple[Rules, Rules], *, opaque: bool) -> Callable[[int], Tunnel]:
    if opaque:
        return lambda reserved: OpaqueTunnel()
    return lambda reserved: Tunnel(reserved=reserved, rules=rules)
