"""An ordinary HTTP request, to a node and back.

Connections to nodes are kept and used again.  Bodies are streamed both ways, a piece at a time and
at the pace of the slower side; a node may answer before it has read the whole body.

Most requests are small and are answered soon: their body, if they have one, is here with the head,
goes to the node with the head, and comes back in one piece.  Nobody looks whether the client is
still there then.  A request that takes longer is watched: when its client hangs up, it ends.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import trio

from proxy.config.route import Route
from proxy.errors import ClientGone, ClosedEarly, DialError, NodeError
from proxy.io.client_http import ClientHttp
from proxy.io.kept import Asker
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire.head import Request, Response
from proxy.wire.headers import ClientFacts
from proxy.wire.node_headers import node_headers

from .answering import Answering
from .download import Download
from .reach import Attempt, Reach
from .service import Service
from .upload import Upload

T = TypeVar("T")

#: More than a head and a small body are together.
_WHOLE: Final = 2**20


class Forward:
    """One request and its answer; `key` is what the policy `hash` goes by.

    `begin`, `push` and `finish` do what needs no waiting, which is all of most requests, and `run`
    does the rest; it does all by itself where they were not called.
    """

    def __init__(
        self,
        service: Service,
        client: ClientHttp,
        request: Request,
        record: Record,
        route: Route,
        upstream: Upstream,
        facts: ClientFacts,
        key: bytes = b"",
    ) -> None:
        self._service = service
        limits, timeouts = service.config.limits, service.config.timeouts
        most = limits.body_bytes if route.body_bytes is None else route.body_bytes
        self._body_timeout = route.body_timeout or timeouts.body
        self._client = client
        self._request = request
        self._record = record
        self._upstream = upstream
        self._facts = facts
        self._key = key
        self._upload = Upload(client, request, record, most=most, limit=self._body_timeout)
        self._is_started = False
        self._reach: Reach | None = None
        #: What `begin` has chosen, the connection, and whether all has gone out to it.
        self._attempt: Attempt | None = None
        self._node: NodeHttp | None = None
        self._is_out: bool | None = None
        self._download: Download | None = None
        #: The client has the answer's beginning, and all of it but for what is put aside.
        self._is_begun = self._is_answered = False
        #: What `finish` has met.
        self._fault: NodeError | ClientGone | None = None
        timeout = route.response_timeout or timeouts.response
        self._answering = Answering(client, facts, timeout=timeout, limit=self._body_timeout)

    def begin(self, now: float, asker: Asker) -> bool:
        """Put the request aside for a node, if that needs no waiting.

        Returns whether that is done: then call `push`, and `asker` is told when `finish` is to look
        for the answer.  If not, call `run`.

        Raises:
            Refusal: what to tell the client.
        """
        self._start(now)
        if self._upload.whole is None or (attempt := self._reached(now).begin()) is None:
            return False
        self._attempt = attempt
        node = attempt.take_line(now, quiet=not self._upload.is_harmless)
        if node is None:
            return False
        assert attempt.line is not None
        node.aside = _WHOLE
        try:
            self._put(node, attempt, now)
        except ClosedEarly:
            self._drop_line(attempt)
            return False
        except BaseException:
            attempt.release_line(now)
            raise
        node.aside = -1
        self._node = node
        attempt.line.asker = asker
        return True

    def push(self) -> bool:
        """Send what `begin` or `finish` has put aside; return whether all has gone out.

        If not, call `run`.
        """
        if self._is_answered:
            with suppress(ClientGone):
                return self._client.push()
            return False
        node, attempt = self._node, self._attempt
        assert node is not None
        assert attempt is not None
        try:
            self._is_out = node.push()
        except ClosedEarly:
            self._drop_line(attempt)
            return False
        if not self._is_out:
            attempt.leave_line()
        return self._is_out

    def _drop_line(self, attempt: Attempt) -> None:
        """Take another connection: on this one, which was idle, nobody has seen the request."""
        assert attempt.line is not None
        attempt.line.close()
        self._node = attempt.line = None

    def finish(self, now: float) -> bool:
        """Put aside for the client what the node has sent; return whether that was all.

        Then call `push`.  If not, call `run`, after `leave`.
        """
        node, attempt = self._node, self._attempt
        assert node is not None
        assert attempt is not None
        if self._is_out is None:
            # It has hung up, or answers what it was not asked.
            self._drop_line(attempt)
            return False
        if not node.receive_nowait() or (response := node.response_nowait()) is None:
            return False
        try:
            self._is_begun = True
            if not self._prepare(node, response).begin():
                return False
        except (NodeError, ClientGone) as exc:
            self._fault = exc
            return False
        self._note_answer(attempt, now)
        assert attempt.line is not None
        attempt.line.lines = node.lines
        attempt.release_line(now, keep=self._keeps(node))
        self._let_go()
        self._is_answered = True
        return True

    def leave(self) -> None:
        """Have a task go on with the request."""
        if self._attempt is not None:
            self._attempt.leave_line()

    def abandon(self) -> None:
        """Let go of the node: neither `finish` nor `run` is called any more."""
        if self._attempt is not None:
            self._attempt.release_line(trio.current_time())
        self._let_go()

    async def run(self) -> None:
        """Serve the request, or what is left of that.

        Raises:
            Refusal: what to tell the client, if nothing was sent to it yet.
            ClientGone: there is nobody to tell.
        """
        if self._is_answered:
            await self._client.flush_within(self._body_timeout)
            return
        if not self._is_started:
            self._start(trio.current_time())
        if self._upload.whole is None:
            await self._upload.wait()
        try:
            attempt, node = await self._reached(None).ask(self._ask, self._attempt)
        finally:
            self._let_go()
        keep = False
        try:
            await self._exchange(node)
            self._note_answer(attempt, trio.current_time())
            keep = self._keeps(node)
        except NodeError as error:
            self._upstream.note(attempt.node, error, trio.current_time())
            raise
        finally:
            await attempt.release(keep=keep)

    def _let_go(self) -> None:
        # They know of each other, which would be a cycle.
        self._reach = self._attempt = None

    def _start(self, now: float) -> None:
        """Take the body, if it came with the head, and count the request."""
        self._is_started = True
        self._upload.take()
        retry = self._upstream.config.retry
        self._upstream.retries.earn(now, retry.share, retry.rate)

    def _reached(self, now: float | None) -> Reach:
        """Return the way to a node, which begins when it is asked for first."""
        if self._reach is None:
            self._reach = Reach(
                self._service,
                self._upstream,
                self._record,
                key=self._key,
                now=trio.current_time() if now is None else now,
                # What comes behind the head may be a body, which stays unread while it waits.
                hung_up=partial(self._client.wait_hang_up, unread_body=self._upload.whole is None),
                repeatable=self._is_repeatable,
            )
        return self._reach

    def _is_repeatable(self, error: NodeError) -> bool:
        retry = self._upstream.config.retry
        if not error.retry or self._record.attempts >= retry.attempts:
            return False
        return isinstance(error, DialError) or (
            self._upload.is_harmless and self._upstream.retries.spend()
        )

    def _note_answer(self, attempt: Attempt, now: float) -> None:
        if self._record.status < 500:
            attempt.node.answered(now, session=False)

    def _keeps(self, node: NodeHttp) -> bool:
        return node.reusable and self._answering.due < math.inf and not self._upload.is_odd

    async def _ask(self, attempt: Attempt) -> NodeHttp:
        """Put the request to a node; if all of it is here, wait for the answer's head."""
        if self._download is not None or self._fault is not None:
            assert self._node is not None
            return self._node
        # What cannot be put to a node twice, and is long, is better off with a new connection.
        node, self._node = self._node, None
        if node is None and self._upload.whole is not None and self._attempt is not attempt:
            node = attempt.kept()
        if node is not None:
            try:
                await self._send_request(node, attempt)
            except ClosedEarly:
                # Nobody has seen the request, or it does no harm twice: the node has hung up on an
                # idle connection, which says nothing about the node.
                await attempt.hang_up()
                if node.sent and not self._upload.is_harmless:
                    raise
            else:
                return node
        node = await attempt.dial(self._facts.source)
        await self._send_request(node, attempt)
        return node

    async def _send_request(self, node: NodeHttp, attempt: Attempt) -> None:
        is_out, self._is_out = self._is_out, None
        if is_out is None:
            is_out = self._put(node, attempt, trio.current_time())
        if not is_out:
            await self._upload.flush(node)
        if self._upload.whole is not None:
            self._prepare(node, await self._answering.watched_head(node))

    def _put(self, node: NodeHttp, attempt: Attempt, now: float) -> bool:
        """Send the head, and the body if it is here; return whether all has gone out."""
        request, body = self._request, self._upload.whole
        self._answering.reset()
        headers = node_headers(
            request,
            self._facts,
            authority=attempt.node.authority,
            whole=body is not None,
            keeps=attempt.upstream.config.keeps_connections,
        )
        is_out = node.ask_nowait(request.method, request.target, headers, body or b"")
        if body is not None:
            self._record.bytes_from_client = len(body)
            self._answering.tells_100 = False
            self._answering.start(now)
        return is_out

    async def _exchange(self, node: NodeHttp) -> None:
        """Send the body, if it is not sent yet, while the answer may come already."""
        if (fault := self._fault) is not None:
            self._fault = None
            try:
                raise fault
            finally:
                # Its traceback has this frame: together they would be a cycle.
                del fault
        if (download := self._download) is not None:
            if self._is_begun or not download.begin():
                await download.go_on(self._answering.body)
            return
        await self._answering.while_sending(
            partial(self._upload.run, node), partial(self._take_answer, node)
        )

    async def _take_answer(self, node: NodeHttp) -> None:
        download = self._prepare(node, await self._answering.head(node))
        if not download.begin():
            await download.go_on()

    def _prepare(self, node: NodeHttp, response: Response) -> Download:
        way, limit = (self._client, self._record, self._facts), self._body_timeout
        close = self._service.draining
        self._download = Download(node, response, *way, limit=limit, close=close)
        return self._download
