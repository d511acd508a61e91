"""The whole proxy: listeners, connections, and how it comes to an end.

Three nurseries, one inside the other, are the order of the end.  The innermost accepts; it ends
first.  Then connections are drained: sessions say goodbye at a pace, requests are finished, and
what is still there at the deadline is cancelled.  The splicer, which sessions need for their
goodbyes, is outermost and ends last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import get_args

import trio

from proxy.config.address import Address
from proxy.config.model import Config
from proxy.io.descriptors import make_room, needed
from proxy.io.listen import TransportListener
from proxy.io.transport import SocketTransport
from proxy.observe.live import SessionStatistics, Statistics, UpstreamStatistics
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.pool.node import Admin
from proxy.wire.closing import ENDINGS

from .arrival import GONE
from .connection import Connection
from .hooks import Hooks
from .keep import persist
from .keepers import Keepers
from .leave import DrainProgress
from .listeners import Bound, Listeners
from .move import Mover
from .passage import Passage
from .reload import Reloaded, Reloader
from .renewal import Renewal, tell_remarks
from .revocation import Revocation
from .service import Service

OnRecord = Callable[[Record], object]


class Server:
    """A running proxy, as the task that started it sees it."""

    def __init__(
        self,
        config: Config,
        on_record: OnRecord | None = None,
        *,
        hooks: Mapping[str, Hooks] | None = None,
    ) -> None:
        self.service = Service(config, on_record=on_record, hooks=hooks)
        #: Set when nothing is left: no listener, no connection.
        self.stopped = trio.Event()
        self._stop = trio.Event()
        self._listeners = Listeners(self.service.handshakes.turnstile)
        self._keepers = Keepers(self.service)
        self._renewal = Renewal(self.service)
        self._reloader = Reloader(self.service, self._listeners, self._keepers)
        #: Of having the nodes asked for the first time, which no end waits for.
        self._beginning = trio.CancelScope()
        self._connections = 0
        self._shedding = 0
        self._full = False

    @property
    def config(self) -> Config:
        """What it goes by."""
        return self.service.config

    @property
    def bound(self) -> list[Bound]:
        """All that is bound, in the order of the configuration."""
        return self._listeners.bound

    def address(self, name: str = "") -> Address:
        """Return where a listener is bound, by its name; the first one without.

        Raises:
            KeyError: there is none of that name.
        """
        for bound in self.bound:
            if not name or bound.name == name:
                return bound.address
        raise KeyError(f"no listener is called {name!r}")

    def set_node(self, upstream: str, node: str, admin: Admin) -> None:
        """Take a node out by hand, or put it back; it is called by its address, as in the log.

        "down": it gets no new sessions.  "drain": that, and those it has leave, at the pace of
        its upstream's `drain`.  "ready": it is like any other again.

        Raises:
            KeyError: there is no such upstream, or it has no such node now.
            ValueError: `admin` is none of the three.
        """
        if admin not in get_args(Admin):
            raise ValueError(f"must be one of {get_args(Admin)}, not {admin!r}")
        upstreams = self.service.upstreams
        if upstream not in upstreams:
            raise KeyError(f"no upstream is called {upstream!r}; there are: {_names(upstreams)}")
        nodes = {one.name: one for one in upstreams[upstream].nodes}
        if node not in nodes:
            raise KeyError(f"{upstream!r} has no node {node!r}; it has: {_names(nodes)}")
        upstreams[upstream].set_admin(nodes[node], admin, trio.current_time())

    def sessions(self) -> list[SessionStatistics]:
        """Return every live session as it is at this moment, in no order; costs only the caller."""
        now = trio.current_time()
        return [session.statistics(now) for session in self.service.sessions]

    def statistics(self) -> Statistics:
        """Return the whole proxy in numbers."""
        service, now = self.service, trio.current_time()
        return Statistics(
            connections=self._connections,
            sessions=len(service.sessions),
            endings={ending: service.endings[ending] for ending in ENDINGS},
            upstreams={
                name: UpstreamStatistics(
                    waiting=len(upstream.hold),
                    nodes=tuple(node.statistics(now) for node in upstream.nodes),
                )
                for name, upstream in (service.upstreams | service.removed).items()
            },
            certificates=self._renewal.statistics(),
        )

    def drains(self) -> list[DrainProgress]:
        """Return how far each drain has come: of nodes, of removed routes, of the whole at its end.

        Nothing is said here of sessions that are moved since they are old, or for balance.
        """
        return self.service.drains()

    def shut_down(self) -> None:
        """Begin the orderly end: `serve` returns when all is drained, or at the deadline."""
        self.service.draining = True
        self._stop.set()
        self._beginning.cancel()
        self._reloader.close()

    async def reload(
        self,
        config: Config,
        *,
        hooks: Mapping[str, Hooks] | None = None,
        source: str = "config",
    ) -> Reloaded:
        """Go by another configuration from now on, without touching a session.

        Established sessions and requests that are under way go on with the settings that they began
        with; what is new goes by the new ones.  Certificates are read again, nodes keep their state
        by address, listeners their sockets.  A session whose route or node is gone stays or leaves
        as its route says (`on_removed`).  One reload waits for the other.

        `hooks` take the place of those there are; None: they stay, and each needs its route still.

        If it fails, or is cancelled, nothing has changed.  Either way the log is told; `source` is
        what faults call the configuration.

        Raises:
            ConfigError: a certificate, key or CA file cannot be used, or hooks are for no route.
            OSError: an address cannot be bound.
            NotRunning: the proxy has not started yet, or is shutting down.
        """
        return await self._reloader.reload(config, source, hooks)

    async def run(self, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shut_down`, then drain."""
        make_room(needed(self.config.limits.connections))
        opened = await self._listeners.bind(self.config.listeners)
        self._listeners.switch(self.config.listeners, self.service.contexts.listeners, opened)
        tell_remarks(self.config, self.service.contexts)
        try:
            await self._serve(task_status)
        finally:
            self._listeners.close()
            self.service.kept.close()
            self.stopped.set()

    async def _serve(self, task_status: trio.TaskStatus[Server]) -> None:
        async with trio.open_nursery() as background:
            background.start_soon(self.service.run_splicer)
            background.start_soon(self.service.timers.run)
            background.start_soon(persist, Mover(self.service).run)
            background.start_soon(persist, self._renewal.run)
            background.start_soon(persist, Revocation(service=self.service).run)
            with self._beginning:
                await self._keepers.start(background, self.service.upstreams.values())
            await background.start(self._reloader.run, background)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    self._listeners.accept(
                        accepting, lambda *taken: connections.start_soon(self._handle, *taken)
                    )
                    task_status.started(self)
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                with trio.move_on_after(self.config.shutdown.deadline) as scope:
                    await self.service.drain()
                if scope.cancelled_caught:
                    LOG.warning("deadline", extra={"connections": self._connections})
                connections.cancel_scope.cancel()
            background.cancel_scope.cancel()

    async def _handle(self, listener: TransportListener, transport: SocketTransport) -> None:
        """Serve one connection, and let no error of it out: this is the boundary."""
        limits = self.config.limits
        surplus = self._connections - self._shedding >= limits.connections
        if surplus != self._full:
            self._full = surplus
            extra = {"connections": limits.connections}
            LOG.warning(
                "connection limit reached" if surplus else "below connection limit", extra=extra
            )
        if surplus and self._shedding >= limits.shedding:
            transport.close()
            return
        self._connections += 1
        self._shedding += surplus
        # Many come and go in one turn of the loop; the sessions need not wait for all of them.
        turnstile = self.service.handshakes.turnstile
        turnstile.between()
        try:
            kind = Passage if listener.config.mode == "tcp" else Connection
            connection = kind(
                self.service,
                transport,
                listener,
                client=_peer(transport),
                port=listener.address.port,
                tls=listener.tls,
                surplus=surplus,
            )
            await connection.run()
        except* Exception as group:
            LOG.error("bug", exc_info=group)
        finally:
            transport.close()
            turnstile.between()
            self._connections -= 1
            self._shedding -= surplus


def _names(known: Iterable[str]) -> str:
    return ", ".join(map(repr, known)) or "none"


def _peer(transport: SocketTransport) -> str:
    """Return the client's address as `host:port`; `unix:` for one that has none."""
    with suppress(OSError):
        name = transport.sock.getpeername()
        if isinstance(name, tuple):
            return str(Address(host=name[0].partition("%")[0], port=name[1]))
        return "unix:"
    return GONE


async def serve(
    config: Config,
    *,
    on_record: OnRecord | None = None,
    hooks: Mapping[str, Hooks] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a proxy in a nursery: `server = await nursery.start(proxy.serve, config)`.

    It runs until `server.shut_down()`, which drains it, or until it is cancelled, which does not.
    `on_record` is called with every access record; by default they are logged.  `hooks` are for
    WebSocket routes, by the route's name, see `Hooks`.

    Raises:
        ConfigError: a certificate, key or CA file cannot be used, or hooks are for no route.
        OSError: an address cannot be bound.
    """
    await Server(config, on_record, hooks=hooks).run(task_status=task_status)


@asynccontextmanager
async def open_proxy(
    config: Config,
    *,
    on_record: OnRecord | None = None,
    hooks: Mapping[str, Hooks] | None = None,
) -> AsyncIterator[Server]:
    """Run a proxy for the length of a block, and drain it at its end; see `serve`.

    Raises:
        ConfigError: a certificate, key or CA file cannot be used, or hooks are for no route.
        OSError: an address cannot be bound.
    """
    server = Server(config, on_record, hooks=hooks)
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        # An error of the block, or of binding, is the caller's own: it leaves without a group.
        try:
            await nursery.start(server.run)
            yield server
        except Exception as exc:
            error = exc
        server.shut_down()
    if error is not None:
        raise error
