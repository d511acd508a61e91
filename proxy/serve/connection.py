"""One client, from accept to close.

This is the only file that knows the whole story; each step of it lives elsewhere:

    whom it is for, TLS     serve.arrival             under one deadline
    request head            io.client_http            with this
    who it is               wire.clients              502 here if it is the proxy itself
    route                   serve.routes              else 404 here, never at a node
    validate the upgrade    wire.handshake            400, 403, 426 here, never at a node
    a place, the hooks      serve.admission, .hooked  429 or 503 here; a hook may refuse, or choose
    lease, dial, upgrade    serve.reach, .upgrade     the next node on failure; nothing sent so far
    101 to the client       serve.upgrade             only after the node's own was checked
    splice                  io.splice, wire.tunnel    until both ends are done
    account                 observe.record            one record, whatever happened
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Protocol

import attrs
import trio

from proxy.config.model import Listener
from proxy.errors import (
    ClientGone,
    Draining,
    Full,
    InternalError,
    Refusal,
    RequestTimeout,
)
from proxy.io.client_http import ClientHttp
from proxy.io.transport import SocketTransport, hang_up
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.wire import handshake
from proxy.wire.clients import Peer
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers, own_headers
from proxy.wire.proxy_protocol import Source

from .arrival import describe, hangs_up, host_of, read_source, shake_hands
from .forward import Forward
from .hooked import HookedSession, tell_closed
from .reach import key_of
from .service import Service
from .upgrade import Established, Upgrading


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
    tls: ssl.SSLContext | None = None
    surplus: bool = False
    #: What its PROXY header has said.
    source: Source | None = None

    @property
    def listener(self) -> Listener:
        """The listener as it is configured now."""
        return self.entrance.config

    @property
    def scheme(self) -> str:
        """What the client speaks, be it to us or to whom we have it from."""
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
        record = self._new_record()
        if not await self._arrive(record, deadline):
            # That somebody looks whether we are there, and goes, is no news.
            if record.detail:
                self.service.on_record(record)
            return None
        http = ClientHttp(self.stream, self.service.head_limits)
        first = True
        while True:
            established = await Exchange(self, http, record, first=first).run(deadline)
            if established is not None or not http.next_request():
                return established
            first = False
            deadline = trio.current_time() + self.service.config.timeouts.keepalive
            record = self._new_record()

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
            transport = await shake_hands(self.stream, self.tls, record, deadline)
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
            self.port = destination.port

    def telling(self, record: Record) -> Callable[[], Source]:
        """Return what tells a node whose connection this is."""
        return partial(describe, self.stream, self.source, self.client, record.id)

    def _new_record(self) -> Record:
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


class Exchange:
    """One request of a client."""

    def __init__(
        self, connection: Connection, http: ClientHttp, record: Record, *, first: bool
    ) -> None:
        self._connection = connection
        self._service = connection.service
        self._timeouts = connection.service.config.timeouts
        self._http = http
        self._record = record
        self._first = first
        #: Known once the head is read.
        self._facts: ClientFacts | None = None

    async def run(self, deadline: float) -> Established | None:
        """Serve the request; return what is established if it makes a WebSocket.

        `deadline` is that of its first byte and, on a new connection, of its whole head.

        Raises:
            ClientGone: nobody is left to serve.
        """
        record = self._record
        established = None
        try:
            await self._wait(deadline)
            # It may have waited for long.
            self._timeouts = self._service.config.timeouts
            if not self._first:
                deadline = trio.current_time() + self._timeouts.handshake
            with self._service.under_way:
                established = await self._serve(deadline)
        except ClientGone as gone:
            record.ended_by, record.ending = "client", "client_lost"
            record.detail = record.detail or str(gone)
            raise
        except (trio.Cancelled, BaseExceptionGroup):
            # Of one that waits for a node it is a nursery's group.
            record.ended_by, record.ending = "proxy", "cancelled"
            raise
        finally:
            # That somebody hangs up between two requests is no news.
            if established is None and (self._first or record.status):
                self._service.on_record(record)
        return established

    async def _wait(self, deadline: float) -> None:
        if self._http.has_begun:
            return
        with trio.CancelScope(deadline=deadline) as scope:
            if not await self._http.wait_request():
                raise ClientGone("It hung up before a request.")
        if scope.cancelled_caught:
            raise ClientGone("It sent no request in time.")

    async def _serve(self, deadline: float) -> Established | None:
        """Read, answer and account for a request whose first byte is there."""
        started = trio.current_time()
        try:
            request = await self._read_head(deadline)
            self._record.head_time = trio.current_time() - started
            return await self._answer(request)
        except ClientGone:
            raise
        except Refusal as refusal:
            await self._refuse(refusal)
        except Exception:
            LOG.exception("bug", extra={"id": self._record.id})
            await self._refuse(InternalError())
        finally:
            self._record.session_time = trio.current_time() - started
        return None

    async def _refuse(self, refusal: Refusal) -> None:
        self._note(refusal)
        with trio.move_on_after(self._timeouts.linger):
            await self._http.refuse(refusal, self._record.id, self._finished)

    def _finished(self, headers: Headers) -> Headers:
        """Return the headers of an answer that is made here as the client gets them."""
        facts = self._facts
        if facts is None:
            # Of a head that could not be read nothing is believed.
            facts = self._service.clients.facts(self._peer(), [], self._record.id)
        return own_headers(headers, facts)

    def _note(self, refusal: Refusal) -> None:
        if not self._record.status:
            self._record.status = refusal.status
        self._record.token, self._record.detail = refusal.token, refusal.detail
        self._record.ended_by = "proxy"

    async def _read_head(self, deadline: float) -> Request:
        try:
            if (request := self._http.request_nowait()) is not None:
                return request
            with trio.move_on_at(deadline):
                return await self._http.read_request()
        finally:
            if (request := self._http.request) is not None:
                record = self._record
                record.method = request.method.decode()
                record.host = (request.get(b"host") or b"").decode("latin-1")
                record.target = request.target.decode()
        raise RequestTimeout("The request head was not complete in time.")

    async def _answer(self, request: Request) -> Established | None:
        """Route the request and have it answered: here, by a node, or with a session."""
        facts = self._facts = self._meet(request)
        self._service.clients.check_hops(request.headers)
        if self._service.draining:
            raise Draining
        if self._connection.surplus:
            raise Full
        record = self._record
        websocket = handshake.wants_websocket(request)
        route = self._service.routes.match(
            self._connection.listener, record.host, record.target, websocket=websocket
        )
        record.route, record.upstream = route.name, route.upstream
        facts.heads = self._service.clients.heads(route)
        upstream = self._service.upstreams[route.upstream]
        if websocket:
            way = route, upstream
            return await Upgrading(self._service, self._http, request, record, *way, facts).run()
        forward = Forward(self._service, self._http, request, record)
        await forward.run(upstream, facts, key_of(upstream, request, facts))
        return None

    def _meet(self, request: Request) -> ClientFacts:
        """Find out, and note, who the client is."""
        peer, record = self._peer(), self._record
        version = request.http_version
        facts = self._service.clients.facts(peer, request.headers, record.id, version)
        facts.source = self._connection.telling(record)
        if facts.address != peer.address:
            record.client, record.peer = facts.address, record.peer or record.client
        if facts.request_id != record.id:
            record.request_id = facts.request_id
        return facts

    def _peer(self) -> Peer:
        connection = self._connection
        where = connection.listener, connection.port, connection.scheme
        return Peer(host_of(connection.client), *where)
