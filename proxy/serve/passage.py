"""One client of a TCP listener, from accept to close: its bytes pass unseen.

Only the beginning is not as in `connection`:

    a name                  wire.client_hello         where routes go by it, under one deadline
    route                   serve.passages            by listener, and that name
    a place                 serve.admission           a limit may refuse it
    lease, dial             serve.reach               the next node on failure; nothing sent so far
    splice, account         serve.connection          as any session

What is refused is reset, and the record has the token of the answer that HTTP would have: to a
protocol that we do not know, an end of stream might be one, and an empty one.
"""

from __future__ import annotations

from functools import partial

import attrs
import trio

from proxy.errors import (
    BadClientHello,
    ClientGone,
    Draining,
    Full,
    InternalError,
    Refusal,
)
from proxy.io.transport import SocketTransport
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.pool.upstream import Upstream
from proxy.wire.client_hello import ClientHello

from .arrival import host_of, read_hello
from .connection import Connection
from .reach import Attempt, Reach, client_key
from .upgrade import Established


@attrs.define
class Passage(Connection):
    """A client's connection to a TCP listener; one that is `surplus` is reset."""

    async def _establish(self) -> Established | None:
        """Find a node for it; return what is to be relayed, None if it was refused."""
        started = trio.current_time()
        record = self.new_record()
        established = None
        try:
            established = await self._reach_node(record, started)
        except ClientGone as gone:
            record.ended_by, record.ending, record.detail = "client", "client_lost", str(gone)
        except Refusal as refusal:
            self._refuse(refusal, record)
        except Exception:
            LOG.exception("bug", extra={"id": record.id})
            self._refuse(InternalError(), record)
        except (trio.Cancelled, BaseExceptionGroup):
            # Of one that waits for a node it is a nursery's group.
            record.ended_by, record.ending = "proxy", "cancelled"
            raise
        finally:
            # That somebody looks whether we are there, and goes, is no news.
            if established is None and (record.detail or record.ended_by):
                record.session_time = trio.current_time() - started
                self.service.on_record(record)
        return established

    def _refuse(self, refusal: Refusal, record: Record) -> None:
        record.token, record.detail = refusal.token, refusal.detail
        record.ended_by = "proxy"
        if isinstance(self.stream, SocketTransport):
            self.stream.abort()

    async def _reach_node(self, record: Record, started: float) -> Established | None:
        if self.surplus:
            # Before it costs a handshake.
            raise Full
        deadline = started + self.service.config.timeouts.handshake
        if not await self._arrive(record, deadline):
            return None
        if self.plain is not None:
            raise self.plain
        if (shown := self.peer().certificate) is not None:
            record.client_subject = shown.subject
        early = b""
        if self.service.passages.asks(self.listener.name):
            hello = await self._read_hello(deadline)
            record.host, early = hello.name, bytes(hello.received)
            record.head_time = trio.current_time() - started
        with self.service.under_way:
            return await self._connect(record, early)

    async def _read_hello(self, deadline: float) -> ClientHello:
        """Read what the client asks for; what that takes of its bytes goes to the node."""
        with trio.move_on_at(deadline):
            try:
                return await read_hello(self.stream)
            except trio.BrokenResourceError as exc:
                raise ClientGone(str(exc)) from exc
        raise BadClientHello("The ClientHello was not complete in time.")

    async def _connect(self, record: Record, early: bytes) -> Established:
        """Route it, and connect to a node.

        Raises:
            Refusal, ClientGone: it cannot be, or need not any more.
        """
        service = self.service
        if service.draining:
            raise Draining
        route = service.passages.match(self.listener.name, record.host)
        assert route.upstream is not None, "the configuration sees to that"
        record.route, record.upstream = route.name, route.upstream
        service.admit_request(route, host_of(self.client))
        place = service.admit(route, host_of(self.client))
        attempt = None
        try:
            attempt = await self._ask(service.upstreams[route.upstream], record)
            if service.draining:
                raise Draining
            assert attempt.stream is not None
            tunnel = service.terms(route).make_tunnel(0)
            return Established(
                record, attempt.stream, (early, b""), tunnel, route, attempt, place, hooks=None
            )
        except BaseException:
            place.release()
            if attempt is not None:
                await attempt.release()
            raise

    async def _ask(self, upstream: Upstream, record: Record) -> Attempt:
        """Return the attempt that has connected to a node.

        A client that ends its stream while it waits for one is taken for gone.
        """
        key = client_key(upstream, host_of(self.client))
        reach = Reach(self.service, upstream, record, key=key, hung_up=self._wait_hang_up)
        attempt, _ = await reach.ask(partial(Attempt.connect, source=self.telling(record)))
        # That it accepts says less than that it answers: what probes have found goes before.
        attempt.node.answered(trio.current_time(), record.dial_time, session=False)
        return attempt

    async def _wait_hang_up(self) -> None:
        if not isinstance(self.stream, SocketTransport):
            await trio.sleep_forever()
        await self.stream.wait_hang_up()
