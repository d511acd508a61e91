"""One request of a client: read, routed, and answered; or a session comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from proxy.config.route import Route
from proxy.errors import ClientGone, Draining, Full, InternalError, Refusal, RequestTimeout
from proxy.io.client_http import ClientHttp
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.wire import handshake
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers, own_headers

from .answer import add_page, onward, own_answer
from .forward import Forward
from .reach import key_of
from .routes import Asked
from .upgrade import Established, Upgrading

if TYPE_CHECKING:
    from .connection import Connection


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
            # Nearly always all of it is here.
            request, self._record.head_time = self._head_nowait(), 0.0
            if request is None:
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
            await self._http.refuse(refusal, self._record.id, self._finished)

    def _finished(self, headers: Headers) -> Headers:
        """Return the headers of an answer that is made here as the client gets them."""
        facts = self._facts
        if facts is None:
            # Of a head that could not be read nothing is believed.
            facts = self._service.clients.facts(self._connection.peer(), [], self._record.id)
        return own_headers(headers, facts)

    def _note(self, refusal: Refusal) -> None:
        if not self._record.status:
            self._record.status = refusal.status
        if refusal.is_fault:
            self._record.token, self._record.detail = refusal.token, refusal.detail
        self._record.ended_by = "proxy"

    def _head_nowait(self) -> Request | None:
        try:
            return self._http.request_nowait()
        finally:
            self._note_request()

    async def _read_head(self, deadline: float) -> Request:
        try:
            with trio.move_on_at(deadline):
                return await self._http.read_request()
        finally:
            self._note_request()
        raise RequestTimeout("The request head was not complete in time.")

    def _note_request(self) -> None:
        if (request := self._http.request) is not None:
            record = self._record
            record.method = request.method.decode()
            record.host = (request.get(b"host") or b"").decode("latin-1")
            record.target = request.target.decode()

    async def _answer(self, request: Request) -> Established | None:
        """Route the request and have it answered: here, by a node, or with a session."""
        if self._connection.plain is not None:
            raise self._connection.plain
        facts = self._facts = self._meet(request)
        self._service.clients.check_hops(request.headers)
        if self._service.draining:
            raise Draining
        if self._connection.surplus:
            raise Full
        record, asked = self._record, self._asked(request)
        route = self._route = self._service.routes.match(asked)
        record.route, record.upstream = route.name, route.upstream or ""
        facts.heads = self._service.clients.heads(route)
        self._service.admit_request(route, facts.address)
        request = onward(request, route)
        if route.upstream is None:
            raise own_answer(route, request, facts)
        upstream = self._service.upstreams[route.upstream]
        if asked.websocket:
            way = route, upstream
            return await Upgrading(self._service, self._http, request, record, *way, facts).run()
        forward = Forward(self._service, self._http, request, record, route)
        await forward.run(upstream, facts, key_of(upstream, request, record.target, facts))
        return None

    def _asked(self, request: Request) -> Asked:
        record = self._record
        return Asked(
            listener=self._connection.listener.name,
            host=record.host,
            target=record.target,
            websocket=handshake.wants_websocket(request),
            method=record.method,
            headers=request.headers,
        )

    def _meet(self, request: Request) -> ClientFacts:
        """Find out, and note, who the client is."""
        peer, record = self._connection.peer(), self._record
        version = request.http_version
        facts = self._service.clients.facts(peer, request.headers, record.id, version)
        facts.source = self._connection.telling(record)
        if facts.address != peer.address:
            record.client, record.peer = facts.address, record.peer or record.client
        if facts.request_id != record.id:
            record.request_id = facts.request_id
        return facts
