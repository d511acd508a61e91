"""One client, from accept to close.

This is the whole story; each step of it lives elsewhere, those of one request in `exchange`:

    whom it is for, TLS     serve.arrival             under one deadline; 400 for HTTP without
    request head            io.client_http            with this
    who it is               wire.clients              502 here if it is the proxy itself
    route                   serve.routes              else 404, 405 here, never at a node
    may it ask              serve.admission           403, 429 here
    rewrite                 wire.target               what the node is asked for
    redirect, respond       serve.answer              what a route without an upstream says
    validate the upgrade    wire.handshake            400, 403, 426 here, never at a node
    a place, the hooks      serve.admission, .hooked  429 or 503 here; a hook may refuse, or choose
    lease, dial, upgrade    serve.reach, .upgrade     the next node on failure; nothing sent so far
    101 to the client       serve.upgrade             only after the node's own was checked
    splice                  io.splice, wire.tunnel    until both ends are done
    account                 observe.record            one record, whatever happened
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from proxy.config.model import Listener
from proxy.errors import ClientGone, PlainHttp
from proxy.io.client_http import ClientHttp
from proxy.io.client_tls import client_certificate
from proxy.io.server_tls import ServerTls
from proxy.io.tls import TlsTransport
from proxy.io.transport import SocketTransport, hang_up
from proxy.observe.record import Record
from proxy.wire.clients import Peer
from proxy.wire.proxy_protocol import Source

from .arrival import describe, hangs_up, host_of, read_source, shake_hands
from .exchange import Exchange
from .express import Express
from .hooked import HookedSession, tell_closed
from .service import Service
from .upgrade import Established


class Entrance(Protocol):
    """Where a client came in."""

    @property
    def config(self) -> Listener: ...


@attrs.define
class Connection:
    """A client's connection; one that is `surplus` is told so, whatever it asks.

    It speaks HTTP; `passage` is for what does not.
    """

    service: Service
    stream: trio.abc.Stream
    entrance: Entrance
    client: str
    port: int = 0
    tls: ServerTls | None = None
    surplus: bool = False
    #: What its PROXY header has said.
    source: Source | None = None
    #: It speaks HTTP where TLS is spoken: that is all it is told.
    plain: PlainHttp | None = attrs.field(default=None, init=False)
    _peer: Peer | None = attrs.field(default=None, init=False)

    @property
    def listener(self) -> Listener:
        """The listener as it is configured now."""
        return self.entrance.config

    @property
    def scheme(self) -> str:
        """What the client speaks, be it to us or to whom we have it from."""
        if self.plain is not None:
            return "http"
        return "https" if self.source and self.source.over_tls else self.listener.scheme

    async def run(self) -> None:
        """Serve the client until one of us hangs up."""
        established = None
        try:
            established = await self._establish()
            if established is not None:
                await self._splice(established)
        except ClientGone:
            # Its record says so.
            return
        finally:
            try:
                await self._hang_up()
            finally:
                if established is not None and established.hooks is not None:
                    limit = self.service.config.timeouts.hook
                    await tell_closed(established.hooks, established.record, limit)

    async def _establish(self) -> Established | None:
        """Serve HTTP requests; return what is established if one of them makes a WebSocket."""
        deadline = trio.current_time() + self.service.config.timeouts.handshake
        record = self.new_record()
        if not await self._arrive(record, deadline):
            # That somebody looks whether we are there, and goes, is no news.
            if record.detail:
                self.service.on_record(record)
            return None
        early = self.plain.received if self.plain is not None else b""
        http = ClientHttp(self.stream, self.service.head_limits, early)
        exchange: Exchange | None = Exchange(self, http, record, first=True)
        while exchange is not None:
            established = await exchange.run(deadline)
            if http.lacks_its_end and isinstance(self.stream, SocketTransport):
                # A clean end would be that of a whole answer.
                self.stream.abort()
            if established is not None or not http.next_request():
                return established
            exchange = await self._next(http)
            deadline = trio.current_time() + self.service.config.timeouts.keepalive
        return None

    async def _next(self, http: ClientHttp) -> Exchange | None:
        """Return the next request that needs this task; None: there are no more."""
        if http.has_begun:
            # Whoever sends many at once would otherwise keep all others waiting.
            await trio.lowlevel.checkpoint()
        elif (
            (splicer := self.service.splicer) is not None
            and isinstance(self.stream, SocketTransport)
            and not self.stream.pending
        ):
            lane = Express(self, http, self.stream, splicer, self.service.patience)
            return await lane.serve(self.service.timers)
        return Exchange(self, http, self.new_record(), first=False)

    async def _arrive(self, record: Record, deadline: float) -> bool:
        """Learn whom it is for, and shake hands; return False if that was all."""
        if (proxy_protocol := self.listener.proxy_protocol) is not None:
            assert isinstance(self.stream, SocketTransport)
            peer = self.client
            source = await read_source(self.stream, proxy_protocol, peer, record, deadline)
            if source is None:
                return False
            self._speak_for(source)
            # Its own connections are checks, which just hang up: version 1 tells of them like that.
            if self.client == peer and await hangs_up(self.stream, deadline):
                return False
            record.client = self.client
        if self.tls is not None:
            assert isinstance(self.stream, SocketTransport)
            handshakes = self.service.handshakes
            try:
                transport = await shake_hands(self.stream, self.tls, record, deadline, handshakes)
            except PlainHttp as plain:
                self.plain = plain
                return True
            if transport is None:
                return False
            self.stream = transport
        return True

    def _speak_for(self, source: Source) -> None:
        """Have the connection be whose it is, and not its peer's."""
        self.source = source
        if source.ends is not None:
            client, destination = source.ends
            self.client = str(client) if client.host else "unix:"
            self._peer = None
            self.port = destination.port

    def peer(self) -> Peer:
        """Return who it is from, as its listener is configured now."""
        listener = self.listener
        if self._peer is None or self._peer.listener is not listener:
            tls = self.stream.tls if isinstance(self.stream, TlsTransport) else None
            shown = client_certificate(tls) if tls is not None else None
            self._peer = Peer(host_of(self.client), listener, self.port, self.scheme, shown)
        return self._peer

    def telling(self, record: Record) -> Callable[[], Source]:
        """Return what tells a node whose connection this is."""
        return partial(describe, self.stream, self.source, self.client, record.id)

    def new_record(self) -> Record:
        return Record(id=self.service.next_id(), client=self.client, listener=self.listener.name)

    async def _splice(self, established: Established) -> None:
        """Relay frames until both sides are done, and account for it."""
        record, tunnel = established.record, established.tunnel
        started = trio.current_time()
        attempt, route, hooks = established.attempt, established.route, established.hooks
        try:
            relay = self.service.relay(self.stream, established.node, tunnel, route)
            try:
                with self.service.live(relay, record, route, attempt.upstream, attempt.node):
                    if hooks is None:
                        await relay.run(established.early)
                    else:
                        limit = self.service.config.timeouts.hook
                        await HookedSession(relay, hooks, record, limit).run(established.early)
            finally:
                record.rtt_client, record.rtt_node = relay.rtts
        except Exception:
            tunnel.ending = tunnel.ending or "bug"
            raise
        finally:
            tunnel.ending = tunnel.ending or "cancelled"
            record.session_time = trio.current_time() - started
            record.take(tunnel)
            self.service.endings[tunnel.ending] += 1
            try:
                self.service.on_record(record)
            finally:
                established.place.release()
                await established.attempt.release()

    async def _hang_up(self) -> None:
        if isinstance(self.stream, SocketTransport):
            with trio.move_on_after(self.service.config.timeouts.linger):
                await hang_up(self.stream)
            self.stream.close()
        else:
            await trio.aclose_forcefully(self.stream)
