"""The listeners of a process: which addresses are bound, and who accepts from them.

A listener is known by its address.  As long as that stays in the configuration the socket stays
too, and no connection in its backlog is lost; what else the configuration says of it is for the
connections that are accepted from then on.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs
import trio

from proxy.config.address import Address
from proxy.config.checks import is_numeric
from proxy.config.model import Listener
from proxy.io.handshakes import Turnstile
from proxy.io.listen import TransportListener, open_listeners
from proxy.io.server_tls import ServerTls
from proxy.io.transport import SocketTransport

#: The configured address.  Where that leaves the port to the kernel: the name besides, and of those
#: without one, how many like it stand before it.
Key = tuple[Address, str, int]
#: Sockets that are bound and not accepted from yet.
Opened = dict[Key, list[TransportListener]]
#: What becomes of a connection: it is given the listener, and the connection.
Take = Callable[[TransportListener, SocketTransport], object]

_WILDCARDS = ("", "0.0.0.0", "::")


@attrs.frozen
class Bound:
    """A listener as it is bound: its name, and the address with the real port."""

    name: str
    address: Address
    tls: bool


@attrs.define(eq=False)
class _Gate:
    """One listener's sockets, as many as its host has addresses, and the tasks that accept."""

    sockets: list[TransportListener]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def accept(self, take: Take, turnstile: Turnstile) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for socket in self.sockets:
                    nursery.start_soon(socket.serve, partial(take, socket), turnstile)

    def close(self) -> None:
        self.scope.cancel()
        for socket in self.sockets:
            socket.close()


class Listeners:
    """All listeners, in the order of the configuration; `turnstile` is that of their handshakes."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._gates: dict[Key, _Gate] = {}
        self._accepting: trio.Nursery | None = None
        self._take: Take = lambda *_: None

    @property
    def bound(self) -> list[Bound]:
        return [
            Bound(socket.config.name, socket.address, socket.tls is not None)
            for gate in self._gates.values()
            for socket in gate.sockets
        ]

    async def bind(self, configs: Sequence[Listener]) -> Opened:
        """Bind those that are not bound yet, all or none; they accept once it is switched to them.

        Raises:
            OSError: one cannot be bound; the text says which.
        """
        opened: Opened = {}
        wanted = keyed(configs)
        try:
            for key, config in wanted.items():
                if key not in self._gates:
                    opened[key] = await self._open(config, wanted)
        except BaseException:
            discard(opened)
            raise
        return opened

    async def _open(
        self, config: Listener, wanted: Mapping[Key, Listener]
    ) -> list[TransportListener]:
        try:
            return await open_listeners(config)
        except OSError as exc:
            reason = f"cannot bind {config.bind}: {exc.strerror}"
            leaving = (key[0] for key in self._gates if key not in wanted)
            ours = next((one for one in leaving if _may_clash(one, config.bind)), None)
            if exc.errno == errno.EADDRINUSE and ours is not None:
                reason += f" by {ours}, which is closed only when all else is ready"
                reason += ": remove that in one reload and add this in the next, or restart"
            raise OSError(exc.errno, reason) from exc

    def switch(
        self,
        configs: Sequence[Listener],
        contexts: Iterable[ServerTls | None],
        opened: Opened,
    ) -> None:
        """Go by another configuration, with what `bind` has opened for it; close what it lacks."""
        before, self._gates = self._gates, {}
        for (key, config), tls in zip(keyed(configs).items(), contexts, strict=True):
            kept = before.pop(key) if key in before else self._begin(_Gate(opened[key]))
            self._gates[key] = kept
            for socket in kept.sockets:
                socket.reconfigure(config, tls)
        for gate in before.values():
            gate.close()

    def accept(self, nursery: trio.Nursery, take: Take) -> None:
        """Accept in tasks of a nursery, now and for those that come later."""
        self._accepting, self._take = nursery, take
        for gate in self._gates.values():
            self._begin(gate)

    def _begin(self, gate: _Gate) -> _Gate:
        if self._accepting is not None:
            self._accepting.start_soon(gate.accept, self._take, self._turnstile)
        return gate

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()


def keyed(configs: Sequence[Listener]) -> dict[Key, Listener]:
    """Return listeners by what they are known by."""
    seen: Counter[tuple[Address, str]] = Counter()
    found: dict[Key, Listener] = {}
    for config in configs:
        fixed = config.bind.port or config.bind.path
        known = (config.bind, "" if fixed else config.name)
        found[*known, seen[known]] = config
        seen[known] += 1
    return found


def labels(configs: Sequence[Listener]) -> dict[str, Key]:
    """Return what listeners are known by, by their names."""
    return {config.name: key for key, config in keyed(configs).items() if config.name}


def discard(opened: Opened) -> None:
    """Close sockets that nothing was accepted from."""
    for sockets in opened.values():
        for socket in sockets:
            socket.close()


def _may_clash(one: Address, other: Address) -> bool:
    """Whether two different addresses cannot be bound at the same time."""
    hosts = one.host, other.host
    anywhere = any(host in _WILDCARDS or not is_numeric(host) for host in hosts)
    return bool(one.port) and one.port == other.port and anywhere
