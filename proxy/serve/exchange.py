"""One request of a client: read, routed, and answered; or a session comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from proxy.config.route import Route
from proxy.errors import ClientGone, Draining, Full, InternalError, Refusal, RequestTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.kept import Asker
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
    """One request of a client, the `first` one of its connection or a later one.

    `begin`, `push`, `finish` and `conclude` do what needs no waiting, which is all of most
    requests, and `run` does the rest; it does all by itself where they were not called.
    """

    def __init__(
        self, connection: Connection, http: ClientHttp, record: Record, *, first: bool
    ) -> None:
        self._connection = connection
        self._service = connection.service
        self._timeouts = connection.service.config.timeouts
        self._http = http
        self._record = record
        self._first = first
        self._started = 0.0
        #: It counts as under way.
        self._is_begun = False
        #: What `begin` or `finish` has met.
        self._fault: Exception | None = None
        #: Known once the head is read.
        self._facts: ClientFacts | None = None
        #: Where it belongs, once that is known.
        self._route: Route | None = None
        #: And how it is served.
        self._way: Forward | Upgrading | None = None

    def begin(self, now: float, asker: Asker) -> bool:
        """Read and route a request whose first bytes are here, and put it aside for a node.

        Returns whether that is done: then call `push`, and `asker` is told when `finish` is to look
        for the answer.  If not, call `run`.
        """
        self._enter(now)
        try:
            if (request := self._head_nowait(now)) is None:
                return False
            self._way = way = self._find_way(request)
            return isinstance(way, Forward) and way.begin(now, asker)
        except Exception as exc:  # it is for `run` to answer
            self._fault = exc
            return False

    def push(self) -> bool:
        """Send what `begin` or `finish` has put aside; return whether all has gone out.

        If not, call `run`.
        """
        assert isinstance(self._way, Forward)
        return self._way.push()

    def finish(self, now: float) -> bool:
        """Put aside for the client what the node has sent; return whether that was all.

        Then call `push` and, when all is out, `conclude`.  If not, call `run`, after `leave`.
        """
        assert isinstance(self._way, Forward)
        try:
            return self._way.finish(now)
        except Exception as exc:  # a bug, which is for `run` to answer
            self._way.abandon()
            self._fault = exc
            return False

    def conclude(self, now: float) -> None:
        """Account for a request whose answer is out."""
        self._record.session_time = now - self._started
        self._leave(None)

    def leave(self) -> None:
        """Have a task go on with it: not all of the answer has come yet."""
        assert isinstance(self._way, Forward)
        self._way.leave()

    def abandon(self) -> None:
        """Break off what waits for an answer: neither `finish` nor `run` is called any more."""
        if self._is_begun:
            assert isinstance(self._way, Forward)
            self._way.abandon()
            self._record.session_time = trio.current_time() - self._started
            self._note_cancelled()
            self._leave(None)

    async def run(self, deadline: float) -> Established | None:
        """Serve the request, or what is left of that; return what is established if any is.

        `deadline` is that of its first byte and, on a new connection, of its whole head.

        Raises:
            ClientGone: nobody is left to serve.
        """
        record = self._record
        established = None
        try:
            if not self._is_begun:
                await self._wait(deadline)
                self._enter(trio.current_time())
            if not self._first:
                deadline = self._started + self._timeouts.handshake
            established = await self._serve(deadline)
        except ClientGone as gone:
            record.ended_by, record.ending = "client", "client_lost"
            record.detail = record.detail or str(gone)
            raise
        except (trio.Cancelled, BaseExceptionGroup):
            # Of one that waits for a node it is a nursery's group.
            self._note_cancelled()
            raise
        finally:
            self._leave(established)
        return established

    def _enter(self, now: float) -> None:
        self._started = now
        # It may have waited for long.
        self._timeouts = self._service.config.timeouts
        self._service.under_way.__enter__()
        self._is_begun = True

    def _leave(self, established: Established | None) -> None:
        if self._is_begun:
            self._is_begun = False
            self._service.under_way.__exit__()
        # That somebody hangs up between two requests is no news.
        if established is None and (self._first or self._record.status or self._record.method):
            self._service.on_record(self._record)

    def _note_cancelled(self) -> None:
        self._record.ended_by, self._record.ending = "proxy", "cancelled"

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
        try:
            return await self._answer(deadline)
        except ClientGone:
            raise
        except Refusal as refusal:
            await self._refuse(refusal)
        except Exception:
            LOG.exception("bug", extra={"id": self._record.id})
            await self._refuse(InternalError())
        finally:
            self._record.session_time = trio.current_time() - self._started
        return None

    async def _answer(self, deadline: float) -> Established | None:
        """Have the request answered: here, by a node, or with a session."""
        if (fault := self._fault) is not None:
            self._fault = None
            try:
                raise fault
            finally:
                # Its traceback has this frame: together they would be a cycle.
                del fault
        if self._way is None:
            # Nearly always all of it is here.
            request = self._head_nowait(trio.current_time()) or await self._read_head(deadline)
            self._way = self._find_way(request)
        way, self._way = self._way, None
        return await way.run()

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
            facts = self._service.clients.facts(self._connection.peer(), None, self._record.id)
        return own_headers(headers, facts)

    def _note(self, refusal: Refusal) -> None:
        if not self._record.status:
            self._record.status = refusal.status
        if refusal.is_fault:
            self._record.token, self._record.detail = refusal.token, refusal.detail
        self._record.ended_by = "proxy"

    def _head_nowait(self, now: float) -> Request | None:
        try:
            request = self._http.request_nowait()
        finally:
            self._note_request()
        if request is not None:
            self._record.head_time = now - self._started
        return request

    async def _read_head(self, deadline: float) -> Request:
        try:
            with trio.move_on_at(deadline):
                request = await self._http.read_request()
                self._record.head_time = trio.current_time() - self._started
                return request
        finally:
            self._note_request()
        raise RequestTimeout("The request head was not complete in time.")

    def _note_request(self) -> None:
        if (request := self._http.request) is not None:
            record = self._record
            record.method = request.method.decode()
            record.host = (request.get(b"host") or b"").decode("latin-1")
            record.target = request.target.decode()

    def _find_way(self, request: Request) -> Forward | Upgrading:
        """Route the request; return how it is served.

        Raises:
            Refusal: how it is answered here.
        """
        service, record = self._service, self._record
        if self._connection.plain is not None:
            raise self._connection.plain
        facts = self._facts = self._meet(request)
        service.clients.check_hops(request)
        if service.draining:
            raise Draining
        if self._connection.surplus:
            raise Full
        asked = self._asked(request)
        route = self._route = service.routes.match(asked)
        record.route, record.upstream = route.name, route.upstream or ""
        facts.heads = service.clients.heads(route)
        service.admit_request(route, facts.address)
        request = onward(request, route)
        if route.upstream is None:
            raise own_answer(route, request, facts)
        upstream = service.upstreams[route.upstream]
        if asked.websocket:
            return Upgrading(service, self._http, request, record, route, upstream, facts)
        key = key_of(upstream, request, record.target, facts)
        return Forward(service, self._http, request, record, route, upstream, facts, key)

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
        facts = self._service.clients.facts(peer, request, record.id)
        facts.source = self._connection.telling(record)
        if facts.address != peer.address:
            record.client, record.peer = facts.address, record.peer or record.client
        if facts.certificate is not None:
            record.client_subject = facts.certificate.subject
        if facts.request_id != record.id:
            record.request_id = facts.request_id
        return facts
