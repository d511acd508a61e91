"""The splicer's own: one epoll, one task, many legs."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import outcome
import pytest
import trio
import trio.testing

from proxy.config.route import Route, SessionLimits
from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import Bytes, SocketTransport
from proxy.wire.opaque import OpaqueTunnel
from proxy.wire.tunnel import Tunnel
from tests.wire.strategies import frame

from .rig import LIMIT, Explosion, socket_pair

KEY = b"\x01\x02\x03\x04"


async def test_many_sessions_at_once() -> None:
    splicer = Splicer()
    ends = [(socket_pair(), socket_pair()) for _ in range(100)]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splicer.run)
            for client, node in ends:
                relay = Splice(splicer, client[1], node[0], Tunnel(), Terms(), Timers())
                nursery.start_soon(relay.run)
            await trio.testing.wait_all_tasks_blocked()
            assert len(splicer.legs) == 200
            for index, (client, node) in enumerate(ends):
                await client[0].send_all(frame(2, b"%d" % index, key=KEY))
                await node[1].send_all(frame(2, b"%d" % -index))
            for index, (client, node) in enumerate(ends):
                assert await client[0].receive_some() == frame(2, b"%d" % -index)
                assert await node[1].receive_some() == frame(2, b"%d" % index, key=KEY)
            nursery.cancel_scope.cancel()
    assert splicer.legs == {}
    for client, node in ends:
        for transport in (*client, *node):
            transport.close()


class Scripted(SocketTransport):
    """A leg that notes what is done to it, has something decrypted, and may be unable to send."""

    def __init__(self, sock: socket.socket, log: list[str]) -> None:
        super().__init__(sock)
        self.log = log
        self.decrypted: list[bytes] = []
        self.fault: Exception | None = None

    @property
    def pending(self) -> bool:
        return bool(self.decrypted)

    def recv_into(self, buffer: memoryview) -> int:
        self.log.append("read")
        if self.decrypted:
            data = self.decrypted.pop(0)
            buffer[: len(data)] = data
            return len(data)
        return super().recv_into(buffer)

    def push(self) -> bool:
        if self.backlog:
            self.log.append("sent")
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return super().push()


@attrs.frozen
class Spliced:
    """A session that moves when its splicer is told to, and its peers' ends."""

    splice: Splice
    client: socket.socket
    node: socket.socket
    to_client: Scripted
    to_node: Scripted
    failed: list[Exception] = attrs.Factory(list)

    async def run(self) -> None:
        try:
            await self.splice.run()
        except Explosion as exc:
            self.failed.append(exc)


@asynccontextmanager
async def parked(
    splicer: Splicer,
    count: int = 1,
    *,
    terms: Terms | None = None,
    make_tunnel: type[Tunnel] = Tunnel,
    decrypted: tuple[bytes, ...] = (),
) -> AsyncIterator[list[Spliced]]:
    """Have sessions wait for the splicer, which nobody runs."""
    sessions = []
    for _ in range(count):
        (client, near), (node, far) = socket_pair(), socket_pair()
        log: list[str] = []
        legs = Scripted(near.sock, log), Scripted(far.sock, log)
        legs[0].decrypted.extend(decrypted)
        splice = Splice(splicer, *legs, make_tunnel(), terms or Terms(), Timers())
        sessions.append(Spliced(splice, client.sock, node.sock, *legs))
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            for session in sessions:
                nursery.start_soon(session.run)
            await trio.testing.wait_all_tasks_blocked()
            yield sessions
            nursery.cancel_scope.cancel()
    for session in sessions:
        session.client.close()
        session.node.close()
        session.to_client.close()
        session.to_node.close()


async def test_a_batch_is_read_before_any_of_it_is_sent() -> None:
    splicer = Splicer()
    async with parked(splicer, 3) as sessions:
        log: list[str] = []
        for session in sessions:
            session.to_client.log = session.to_node.log = log
            session.client.send(frame(2, b"small", key=KEY))
        splicer.turn()

        assert log == ["read"] * 3 + ["sent"] * 3
        assert splicer.unsent == []
        for session in sessions:
            assert session.node.recv(100) == frame(2, b"small", key=KEY)


async def test_what_is_large_is_not_kept_for_the_end_of_the_batch() -> None:
    splicer = Splicer()
    async with parked(splicer) as [session]:
        large = frame(2, bytes(10_000), key=KEY)
        session.client.send(large)
        splicer.turn()

        assert session.to_node.log == ["read"]
        assert session.node.recv(20_000) == large


async def test_what_was_put_aside_goes_before_a_goodbye() -> None:
    splicer = Splicer()
    async with parked(splicer) as [session]:
        message = frame(2, b"before", key=KEY)
        session.client.send(message)
        session.node.send(b"\xff\xff")
        splicer.turn()

        received = session.node.recv(1000)
        assert received.startswith(message)
        assert received[len(message)] == 0x88


async def test_what_was_decrypted_before_the_start_is_sent() -> None:
    async with parked(Splicer(), make_tunnel=OpaqueTunnel, decrypted=(b"hello",)) as [session]:
        assert session.node.recv(1000) == b"hello"


async def test_what_a_slowed_client_had_sent_is_sent_when_it_goes_on() -> None:
    limits = SessionLimits(bytes_per_second=1e6)
    terms = Terms.of(Route(path="/", upstream="node", websocket=True, limits=limits), 1.0)
    async with parked(Splicer(), terms=terms) as [session]:
        session.splice._legs[0].paused = True
        session.splice.rearm()
        message = frame(2, b"slowly", key=KEY)
        session.to_client.decrypted.extend((message[:3], message[3:]))
        session.splice._go_on()

        assert session.node.recv(3) == message[:3]
        assert session.node.recv(1000) == message[3:]


async def test_a_node_that_takes_nothing_more_is_lost() -> None:
    splicer = Splicer()
    async with parked(splicer) as [session]:
        session.to_node.fault = BrokenPipeError()
        session.client.send(frame(2, b"small", key=KEY))
        splicer.turn()

        assert session.splice.tunnel.ending == "node_lost"
        assert session.client.recv(1000)[:1] == b"\x88"


async def test_a_bug_in_sending_ends_its_own_session_only() -> None:
    splicer = Splicer()
    async with parked(splicer, 2) as [broken, other]:
        fault = broken.to_node.fault = Explosion()
        for session in (broken, other):
            session.client.send(frame(2, b"small", key=KEY))
        splicer.turn()
        await trio.testing.wait_all_tasks_blocked()

        assert broken.failed == [fault]
        assert other.node.recv(1000) == frame(2, b"small", key=KEY)


async def test_a_bug_behind_a_failed_sending_ends_its_own_session_only() -> None:
    splicer = Splicer()
    async with parked(splicer, 2) as [broken, other]:
        bugs = [Explosion()]

        def explode() -> None:
            if bugs:
                raise bugs.pop()

        broken.to_node.fault = BrokenPipeError()
        broken.splice.on_ending = explode
        for session in (broken, other):
            session.client.send(frame(2, b"small", key=KEY))
        splicer.turn()
        await trio.testing.wait_all_tasks_blocked()

        assert len(broken.failed) == 1
        assert other.node.recv(1000) == frame(2, b"small", key=KEY)


async def test_a_bug_in_what_comes_from_outside_ends_its_own_session_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with parked(Splicer(), 2) as [broken, other]:

        def explode() -> None:
            raise Explosion

        monkeypatch.setattr(Splice, "settle", lambda self: explode())
        broken.splice.close("shutdown", 1001, 1001, "")
        monkeypatch.undo()
        await trio.testing.wait_all_tasks_blocked()

        assert len(broken.failed) == 1
        assert not other.failed


async def test_what_makes_no_event_makes_a_turn_shorter() -> None:
    limits = SessionLimits(bytes_per_second=1e9)
    terms = Terms.of(Route(path="/", upstream="node", websocket=True, limits=limits), 1.0)
    splicer = Splicer()
    async with parked(splicer, terms=terms, make_tunnel=OpaqueTunnel) as [session]:
        session.to_client.decrypted.extend([b"x"] * 200)
        session.client.send(b"x")
        splicer.turn()

        assert not session.to_client.decrypted
        assert splicer.left == 256 - 201


async def test_nothing_is_due_for_a_session_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What of it is left to be sent, by a bug perhaps, would find no session any more."""
    splicer = Splicer()
    async with parked(splicer) as [session]:
        legs = session.splice._legs
        splicer.unsent.extend(legs)
        splicer.unread.extend(legs)
        session.splice._end(outcome.Value(None))
        await trio.testing.wait_all_tasks_blocked()

        assert not splicer.unsent
        assert not splicer.unread


@pytest.mark.parametrize("size", [100, 5000])
async def test_last_words_of_a_node_that_has_gone_arrive_whole(size: int) -> None:
    splicer = Splicer()
    async with parked(splicer) as [session]:
        for end in (session.to_client.sock, session.node):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        words = frame(1, b"x" * 40_000, fin=False) + frame(0, b"y" * 90_000)
        words += frame(8, b"\x03\xe8bye")
        session.client.send(frame(2, bytes(size), key=KEY))
        assert session.node.send(words) == len(words)
        session.node.close()
        for _ in range(10):
            splicer.turn()
            await trio.testing.wait_all_tasks_blocked()

        assert session.splice.tunnel.ending == "node_closed"
        assert session.client.recv(2**20) == words


async def test_a_paced_clients_last_words_do_not_heap_up(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SessionLimits(bytes_per_second=1e6, burst=1)
    terms = Terms.of(Route(path="/", upstream="node", websocket=True, limits=limits), 1.0)
    terms, splicer, most = attrs.evolve(terms, chunk=256), Splicer(), 0
    put = Scripted.put

    def noted(self: Scripted, data: Bytes) -> None:
        nonlocal most
        put(self, data)
        most = max(most, len(self.backlog))

    monkeypatch.setattr(Scripted, "put", noted)
    async with parked(splicer, terms=terms, make_tunnel=OpaqueTunnel) as [session]:
        session.to_node.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        session.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**21)
        session.client.send(bytes(180_000))
        session.client.shutdown(socket.SHUT_RD)
        session.node.send(b"hello")
        splicer.turn()

        assert 0 < most <= 2 * 256
