"""The express lane sends what a batch has brought in rows: what becomes of what cannot be sent."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Literal

import attrs
import pytest
import trio
import trio.testing

from proxy.io.transport import SocketTransport
from proxy.serve.exchange import Exchange
from proxy.serve.express import Express
from proxy.serve.forward import Forward

from .test_express import Tasks, ask, is_clean
from .test_express import tasks as tasks  # a fixture
from .test_forward_kept import GET, OK, POST, Caller, answer, ok, open_rig


@attrs.define
class Pushes:
    """What becomes of the next thing that is put aside for a side, and pushed."""

    client: list[OSError | int] = attrs.field(factory=list)
    node: list[OSError | int] = attrs.field(factory=list)
    client_is_full: bool = False
    #: All that were, by side.
    seen: list[Literal["client", "node"]] = attrs.field(factory=list)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> Pushes:
    pushed, push = Pushes(), SocketTransport.push

    def planned(transport: SocketTransport) -> bool:
        if not transport.backlog:
            return push(transport)
        whole = bytes(transport.backlog)
        side: Literal["client", "node"] = "client" if whole.startswith(b"HTTP/") else "node"
        pushed.seen.append(side)
        plan = pushed.client if side == "client" else pushed.node
        if side == "client" and pushed.client_is_full:
            return False
        if not plan:
            return push(transport)
        fault = plan.pop(0)
        if isinstance(fault, OSError):
            raise fault
        # There is room for so many bytes only.
        transport.backlog = whole[:fault]
        assert push(transport)
        transport.backlog = whole[fault:]
        return False

    monkeypatch.setattr(SocketTransport, "push", planned)
    return pushed


async def test_requests_of_a_batch_are_sent_in_rows(
    pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(ok, "keepalive = 40") as rig:
        clients = [await rig.connect() for _ in range(40)]

        async def ask_all() -> None:
            for client in clients:
                # Not through Trio, which would serve them one by one.
                os.write(client.stream.socket.fileno(), GET)
            for client in clients:
                assert (await answer(client))[1] == b"ok"
            await rig.settle()

        # Each has a connection to the node then.
        await ask_all()
        await ask_all()
        events: list[str] = []
        receive = Express._receive

        def received(lane: Express) -> None:
            events.append("read")
            receive(lane)

        monkeypatch.setattr(Express, "_receive", received)
        pushes.seen = events  # type: ignore[assignment]  # both in one list
        await ask_all()
        first = events.index("node")

        assert events.count("read") == events.count("node") == events.count("client") == 40
        assert events[:first] == ["read"] * 16
        assert events[first : first + 16] == ["node"] * 16
        assert is_clean(rig)


@pytest.mark.parametrize("request_", [GET, POST])
@pytest.mark.parametrize(("fault", "connections"), [(BrokenPipeError(), 2), (9, 1)])
async def test_what_a_node_does_not_take_is_the_tasks(
    fault: OSError | int, connections: int, request_: bytes, pushes: Pushes, tasks: Tasks
) -> None:
    """A line that takes nothing more is given up for a new one, one without room is waited for."""
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        pushes.node.append(fault)
        assert await ask(client, request_) == b"ok"
        assert (len(rig.calls), tasks.count) == (connections, 2)
        assert await ask(client, request_) == b"ok"
        await rig.settle()

        assert (len(rig.calls), tasks.count) == (connections, 2)
        assert [record.status for record in rig.records] == [200] * 3
        assert is_clean(rig)


@pytest.mark.parametrize("ahead", [b"", GET])
async def test_what_a_client_has_no_room_for_is_sent_before_more_is_read(
    ahead: bytes, pushes: Pushes, tasks: Tasks
) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        pushes.client.append(9)
        await client.send(GET + ahead)
        assert (await answer(client))[1] == b"ok"
        if ahead:
            assert (await answer(client))[1] == b"ok"
        assert await ask(client) == b"ok"
        await rig.settle()

        # What waits is the task's, and what was sent ahead.
        assert tasks.count == (3 if ahead else 2)
        assert is_clean(rig)


async def test_a_client_that_takes_no_answer_is_gone(pushes: Pushes) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        # Of the lane's and of the task's, but not of who sends the rest before a goodbye.
        pushes.client.extend([ConnectionResetError(), ConnectionResetError()])
        await client.send(GET)
        assert (await answer(client))[1] == b"ok"
        assert await client.head() == b""
        await rig.settle()

        assert [record.ending for record in rig.records] == [None, "client_lost"]
        assert is_clean(rig)
        assert len(rig.server.service.kept) == 1


async def test_a_client_that_never_has_room_is_sent_away(pushes: Pushes) -> None:
    async with open_rig(ok) as rig:
        service = rig.server.service
        service.config = attrs.evolve(
            service.config,
            timeouts=attrs.evolve(service.config.timeouts, body=0.1, linger=0.1),
        )
        client = await rig.connect()
        assert await ask(client) == b"ok"
        pushes.client_is_full = True
        await client.send(GET)
        with trio.fail_after(3):
            while "client" not in pushes.seen:
                await trio.lowlevel.checkpoint()
            # A drain would wait for it.
            assert service.under_way.count == 1
            assert await client.head() == b""
        await rig.settle()

        assert [record.ending for record in rig.records] == [None, "client_lost"]
        assert is_clean(rig)


async def test_what_tls_has_to_say_goes_with_the_answer(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, count = Express.ready, 0

    def counting(lane: Express, events: int) -> None:
        nonlocal count
        count += 1
        ready(lane, events)

    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await trio.testing.wait_all_tasks_blocked(0.01)
        splicer = rig.server.service.splicer
        assert splicer is not None
        (lane,) = [leg for leg in splicer.legs.values() if isinstance(leg, Express)]
        monkeypatch.setattr(Express, "ready", counting)
        lane.transport.backlog = b"key update "
        await client.send(GET)
        head, body = await answer(client)

        assert head.startswith(b"key update HTTP/1.1 200 ")
        assert body == b"ok"
        assert count == tasks.count == 1


async def test_a_bug_in_sending_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(caller: Caller) -> None:
        while await caller.head():
            await caller.send(OK)

    def broken(_: object) -> bool:
        raise ZeroDivisionError

    async with open_rig(talk) as rig:
        one, other = await rig.connect(), await rig.connect()
        for client in (one, other):
            assert await ask(client) == b"ok"
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, "push", broken)
            await one.send(GET)
            assert await one.head() == b""
        assert await ask(other) == b"ok"
        await one.stream.aclose()
        await rig.settle()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert is_clean(rig)
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("request_", [GET, POST])
async def test_what_comes_before_a_request_is_sent_is_no_answer_to_it(
    request_: bytes, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has hung up, or said something, and that is in the same batch."""
    asked: list[int] = []

    async def talk(caller: Caller) -> None:
        while head := await caller.head():
            asked.append(caller.number)
            if head.startswith(b"POST"):
                await caller.read(3)
            await caller.send(OK)

    receive = Express._receive

    def received(lane: Express) -> None:
        receive(lane)
        if lane._waits:
            lane.answered()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        with monkeypatch.context() as patch:
            patch.setattr(Express, "_receive", received)
            assert await ask(client, request_) == b"ok"
        assert await ask(client) == b"ok"
        await rig.settle()

        assert asked == [0, 1, 1]
        assert tasks.count == 2
        assert is_clean(rig)


@pytest.mark.parametrize("count", [15, 16, 40])
async def test_lines_that_are_reset_while_their_requests_wait(
    count: int, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found as the row is sent, or by what epoll says of them, whichever comes first."""
    finish, bugs = Forward.finish, []

    def finished(way: Forward, now: float) -> bool:
        try:
            return finish(way, now)
        except Exception as exc:
            bugs.append(exc)
            raise

    monkeypatch.setattr(Forward, "finish", finished)

    async def talk(caller: Caller) -> None:
        with suppress(trio.ClosedResourceError):
            await ok(caller)

    async with open_rig(talk, "keepalive = 40") as rig:
        clients = [await rig.connect() for _ in range(count)]

        async def ask_all() -> None:
            for client in clients:
                assert (await answer(client))[1] == b"ok"
            await rig.settle()

        for _ in range(2):
            for client in clients:
                os.write(client.stream.socket.fileno(), GET)
            await ask_all()
        lines = [*rig.calls]
        assert len(lines) == tasks.count == count
        for client in clients:
            os.write(client.stream.socket.fileno(), GET)
        for caller in lines:
            caller.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.stream.socket.close()
        await ask_all()

        assert tasks.count == 2 * count
        assert [record.status for record in rig.records] == [200] * 3 * count
        assert not bugs
        assert is_clean(rig)
