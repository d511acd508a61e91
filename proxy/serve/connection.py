"""One client, from accept to close.

This is the only file that knows the whole story; each step of it lives elsewhere:

    TLS                     serve.arrival             under one deadline
    request head            io.client_http            with this
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

import ssl
from typing import Protocol

import attrs
import h11
import trio

from proxy.config.model import Listener
from proxy.config.route import Route
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
from proxy.wire.headers import ClientFacts, get

from .answer import add_page, onward, own_answer
from .arrival import shake_hands
from .forward import Forward
from .hooked import HookedSession, tell_closed
from .reach import key_of
from .routes import Asked
from .service import Service
from .upgrade import Established, Upgrading


class Entrance(Protocol):
    """Where a client came in."""

    @property
    def config(self) -> Listener: ...


@attrs.define
class Connection:
    """A client's connection; one that is `surplus` is told so, whatever it asks."""

    service: Service
    stream: trio.abc.Stream
    entrance: Entrance
    client: str
    port: int = 0
    tls: ssl.SSLContext | None = None
    surplus: bool = False

    @property
    def listener(self) -> Listener:
        """The listener as it is configured now."""
        return self.entrance.config

    async def run(self) -> None:
        """Serve the client until one of us hangs up."""
        established = None
        try:
            established = await self._serve_requests()
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

    async def _serve_requests(self) -> Established | None:
        """Serve HTTP requests; return what is established if one of them makes a WebSocket."""
        deadline = trio.current_time() + self.service.config.timeouts.handshake
        record = self._new_record()
        if self.tls is not None:
            assert isinstance(self.stream, SocketTransport)
            transport = await shake_hands(self.stream, self.tls, record, deadline)
            if transport is None:
                self.service.on_record(record)
                return None
            self.stream = transport
        http = ClientHttp(self.stream, self.service.head_limits)
        first = True
        while True:
            established = await Exchange(self, http, record, first=first).run(deadline)
            if established is not None or not http.next_request():
                return established
            first = False
            deadline = trio.current_time() + self.service.config.timeouts.keepalive
            record = self._new_record()

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
        #: Where it belongs, once that is known.
        self._route: Route | None = None

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
        except trio.Cancelled:
            record.ended_by, record.ending = "proxy", "cancelled"
            raise
        finally:
            # That somebody hangs up between two requests is no news.
            if established is None and (self._first or record.status):
                self._service.on_record(record)
        return established

    async def _wait(self, deadline: float) -> None:
        with trio.move_on_at(deadline) as scope:
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
        add_page(refusal, self._route, self._service.config)
        # A page is more than any client takes at once; but who is sent away is not waited for.
        patient = refusal.body and not refusal.closes
        limit = self._timeouts.body if patient else self._timeouts.linger
        with trio.move_on_after(limit):
            await self._http.refuse(refusal, self._record.id)

    def _note(self, refusal: Refusal) -> None:
        if not self._record.status:
            self._record.status = refusal.status
        self._record.token, self._record.detail = refusal.token, refusal.detail
        self._record.ended_by = "proxy"

    async def _read_head(self, deadline: float) -> h11.Request:
        try:
            with trio.move_on_at(deadline):
                return await self._http.read_request()
        finally:
            if (request := self._http.request) is not None:
                record = self._record
                record.method = request.method.decode()
                record.host = (get(request.headers, b"host") or b"").decode("latin-1")
                record.target = request.target.decode()
        raise RequestTimeout("The request head was not complete in time.")

    async def _answer(self, request: h11.Request) -> Established | None:
        """Route the request and have it answered: here, by a node, or with a session."""
        if self._service.draining:
            raise Draining
        if self._connection.surplus:
            raise Full
        record, asked = self._record, self._asked(request)
        route = self._route = self._service.routes.match(asked)
        record.route, record.upstream = route.name, route.upstream or ""
        facts = self._facts()
        self._service.admit_request(route, facts.address)
        request = onward(request, route)
        if route.upstream is None:
            raise own_answer(route, request, facts)
        upstream = self._service.upstreams[route.upstream]
        if asked.websocket:
            way = route, upstream
            return await Upgrading(self._service, self._http, request, record, *way, facts).run()
        forward = Forward(self._service, self._http, request, record)
        await forward.run(upstream, facts, key_of(upstream, request, record.target, facts))
        return None

    def _asked(self, request: h11.Request) -> Asked:
        headers, record = request.headers.raw_items(), self._record
        return Asked(
            listener=self._connection.listener.name,
            host=record.host,
            target=record.target,
            websocket=handshake.wants_websocket(headers),
            method=record.method,
            headers=headers,
        )

    def _facts(self) -> ClientFacts:
        connection = self._connection
        return ClientFacts(
            address=connection.client.rpartition(":")[0].strip("[]") or connection.client,
            scheme=connection.listener.scheme,
            port=connection.port,
            request_id=self._record.id,
        )
