"""The express lane: what is served there, what wakes the task, and that nothing is lost between."""

from __future__ import annotations

import gc
import os
from contextlib import suppress

import attrs
import outcome
import pytest
import trio
import trio.testing

from proxy.serve.exchange import Exchange
from proxy.serve.express import Express
from proxy.serve.forward import Forward

from .test_forward_kept import GET, OK, POST, Caller, Rig, answer, ok, open_rig

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@attrs.define
class Tasks:
    """How many requests a connection's task had a hand in."""

    count: int = 0


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    counted, run = Tasks(), Exchange.run

    async def counting(self: Exchange, deadline: float) -> object:
        counted.count += 1
        return await run(self, deadline)

    monkeypatch.setattr(Exchange, "run", counting)
    return counted


async def ask(client: Caller, request: bytes = GET) -> bytes:
    await client.send(request)
    return (await answer(client))[1]


def change_timeouts(rig: Rig, **timeouts: float) -> None:
    service = rig.server.service
    service.config = attrs.evolve(
        service.config, timeouts=attrs.evolve(service.config.timeouts, **timeouts)
    )


def is_clean(rig: Rig) -> bool:
    """Whether nobody holds on to anything."""
    service = rig.server.service
    leases = [node.sessions for node in service.upstreams["nodes"].nodes]
    return not (any(leases) or service.under_way.count or len(service.patience))


async def test_all_but_the_first_are_served_without_a_task(tasks: Tasks) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        for request in (GET, POST, GET):
            assert await ask(client, request) == b"ok"
        await rig.settle()

        assert tasks.count == 1
        assert len(rig.calls) == 1
        assert is_clean(rig)
        assert [record.status for record in rig.records] == [200] * 3
        for record in rig.records[1:]:
            known = record.fields()
            assert known.keys() == rig.records[0].fields().keys() - {"dial_time"}
            assert known["node"] == rig.records[0].node
            assert known["bytes_from_node"] == 2


async def test_a_whole_answer_in_pieces_or_none_for_long_wakes_the_task(tasks: Tasks) -> None:
    async def talk(caller: Caller) -> None:
        for pieces in ([OK], [OK[:9], OK[9:]], [OK[:-1], OK[-1:]], [b"", b"", OK], [OK]):
            await caller.head()
            for number, piece in enumerate(pieces):
                if number:
                    await trio.testing.wait_all_tasks_blocked(0.06)
                await caller.send(piece)
        await caller.head()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        woken = []
        for _ in range(5):
            assert await ask(client) == b"ok"
            woken.append(tasks.count)
        await rig.settle()

        assert woken == [1, 2, 3, 4, 4]
        assert [record.status for record in rig.records] == [200] * 5
        assert len(rig.calls) == 1
        assert is_clean(rig)


@pytest.mark.parametrize(
    "answer_",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_answers_are_as_without_the_lane(answer_: bytes) -> None:
    async def talk(caller: Caller) -> None:
        while await caller.head():
            await caller.send(answer_)

    seen = []
    for lane in (True, False):
        async with open_rig(talk) as rig:
            if not lane:
                rig.server.service.splicer = None
            client = await rig.connect()
            got = b""
            for _ in range(3):
                await client.send(GET)
                while not got.endswith(b"0\r\n\r\n" if b"chunked" in answer_ else b"ok"):
                    got += await client.read(1)
                got += b"|"
            await rig.settle()
            assert is_clean(rig)
            seen.append(got)
    assert seen[0] == seen[1]
    assert seen[0].count(b"ok") == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", b"400"),
        (b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", b"405"),
        (UPGRADE, b"404"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", b"413"),
    ],
)
async def test_what_is_no_common_request_wakes_the_task(request_: bytes, status: bytes) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        assert await ask(client) == b"ok"
        await client.send(request_)
        assert (await client.head()).split()[1] == status


async def test_a_head_in_pieces_wakes_the_task(tasks: Tasks) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET[:10])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(GET[10:])
        assert (await answer(client))[1] == b"ok"
        assert await ask(client) == b"ok"
        await rig.settle()
        assert tasks.count == 2
        assert is_clean(rig)


async def test_who_sends_ahead_is_answered_in_order(tasks: Tasks) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET + POST + GET)
        for _ in range(3):
            assert (await answer(client))[1] == b"ok"
        assert await ask(client) == b"ok"
        await rig.settle()
        assert [record.method for record in rig.records] == ["GET", "GET", "POST", "GET", "GET"]
        assert tasks.count == 3, "the first, and two of those that were here already"


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), ["GET"]),
        (GET + POST, ["GET", "POST", "GET"]),
        # It is sent away, since it asked nothing for too long.
        (b"", []),
    ],
)
async def test_what_comes_before_the_task_has_its_turn_is_left_to_it(
    request_: bytes, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, ends = Express._end, 0

    def and_more(lane: Express, result: outcome.Outcome[Exchange | None]) -> None:
        nonlocal ends
        ends += 1
        end(lane, result)
        if ends == 1:
            # The splicer looks for more before it leaves its turn to the task.
            os.write(client.stream.socket.fileno(), GET)

    async with open_rig(ok) as rig:
        change_timeouts(rig, keepalive=0.2)
        client = await rig.connect()
        assert await ask(client) == b"ok"
        monkeypatch.setattr(Express, "_end", and_more)
        if request_:
            await client.send(request_)
        for _ in asked:
            assert (await answer(client))[1] == b"ok"
        if len(asked) < 3:
            # With something unread it may be a reset.
            with suppress(trio.BrokenResourceError):
                assert await client.stream.receive_some() == b""
        await rig.settle()
        assert is_clean(rig)
        assert [record.method for record in rig.records[1:]] == asked


async def test_an_empty_line_between_requests_begins_none(tasks: Tasks) -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client, POST) == b"ok"
        await client.send(b"\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ask(client, POST) == b"ok"
        assert await ask(client, b"\r\n" + GET) == b"ok"
        await rig.settle()
        assert [record.status for record in rig.records] == [200] * 3
        assert tasks.count == 1


async def test_a_hang_up_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, ready = 0, Express.ready

    def counting(lane: Express, events: int) -> None:
        nonlocal looks
        looks += 1
        ready(lane, events)

    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        monkeypatch.setattr(Express, "ready", counting)
        await client.stream.send_eof()
        assert await client.stream.receive_some() == b""
        assert looks == 1


async def test_what_comes_while_an_answer_is_waited_for_is_the_next_request() -> None:
    go_on = trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        await caller.head()
        await go_on.wait()
        await caller.send(OK)
        await ok(caller)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(POST)
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        for _ in range(2):
            assert (await answer(client))[1] == b"ok"
        assert await ask(client) == b"ok"


async def test_a_line_that_the_node_ends_is_closed_at_once() -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        for number in range(3):
            assert await ask(client) == b"ok"
            await rig.settle()
            with trio.fail_after(5):
                while len(rig.server.service.kept):
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(rig.calls) == number + 1
        assert is_clean(rig)


@pytest.mark.parametrize(("request_", "status"), [(GET, 200), (POST, 502)])
async def test_a_line_that_dies_with_a_request(request_: bytes, status: int) -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        if caller.number == 0:
            await caller.head()
            return
        await ok(caller)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(request_)
        assert b"HTTP/1.1 %d " % status in await client.head() + b" "
        await rig.settle()
        assert is_clean(rig)
        assert [record.status for record in rig.records] == [200, status]


async def test_a_client_that_hangs_up_takes_its_request_along() -> None:
    gone = trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        await caller.head()
        assert await caller.stream.receive_some() == b""
        gone.set()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.stream.aclose()
        with trio.fail_after(5):
            await gone.wait()
        await rig.settle()
        assert is_clean(rig)
        assert rig.records[-1].ending == "client_lost"


@pytest.mark.parametrize("before_the_task", ["", "answered", "give_up", "push"])
async def test_cancellation_leaves_nothing_behind(
    before_the_task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    abort = Express._abort

    def turn(lane: Express, raise_cancel: object) -> trio.lowlevel.Abort:
        aborted = abort(lane, raise_cancel)
        assert not lane.events, "nothing is read for a task that is gone"
        if before_the_task:
            # In the same turn of Trio's.
            getattr(lane, before_the_task)()
        return aborted

    monkeypatch.setattr(Express, "_abort", turn)

    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        await caller.head()
        assert await caller.head() == b""

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(rig.server.service.patience) == 1
        service = rig.server.service
        service.config = attrs.evolve(
            service.config, shutdown=attrs.evolve(service.config.shutdown, deadline=0.01)
        )
        rig.server.shut_down()
        await rig.server.stopped.wait()
        assert is_clean(rig)
        assert [record.ending for record in rig.records] == [None, "cancelled"]
        assert rig.records[-1].session_time is not None


async def test_a_quiet_client_is_sent_away(tasks: Tasks) -> None:
    async with open_rig(ok) as rig:
        change_timeouts(rig, keepalive=0.3)
        client = await rig.connect()
        began = trio.current_time()
        assert await ask(client) == b"ok"
        assert await ask(client) == b"ok"
        assert await client.stream.receive_some() == b""
        assert 0.3 <= trio.current_time() - began < 3
        assert tasks.count == 1
        assert len(rig.records) == 2


@pytest.mark.parametrize("talk_on", [True, False])
async def test_a_drain_waits_for_an_answer_and_ends_the_connection(talk_on: bool) -> None:
    go_on = trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        await caller.head()
        if talk_on:
            await go_on.wait()
        await caller.send(OK)
        await caller.head()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        rig.server.shut_down()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        head, body = await answer(client)
        assert body == b"ok"
        assert (b"Connection: close" in head) is talk_on
        assert await client.stream.receive_some() == b""


@pytest.mark.parametrize("step", ["_find_way", "_prepare"])
async def test_a_bug_is_answered_as_elsewhere(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with open_rig(ok) as rig:
        client = await rig.connect()
        assert await ask(client) == b"ok"
        with monkeypatch.context() as patch:
            patch.setattr(Exchange if step == "_find_way" else Forward, step, broken)
            await client.send(GET)
            head = await client.head()
            assert b" 500 " in head
            await client.read(int(head.partition(b"Content-Length: ")[2].split()[0]))
        assert await client.stream.receive_some() == b""
        await rig.settle()
        assert is_clean(rig)
        assert [record.status for record in rig.records] == [200, 500]
        assert [record.message for record in caplog.records].count("bug") == 1


async def test_a_bug_of_the_callers_ends_one_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_rig(ok) as rig:
        one, other = await rig.connect(), await rig.connect()
        for client in (one, other):
            assert await ask(client) == b"ok"
        service, kept = rig.server.service, rig.server.service.on_record

        def broken(_: object) -> None:
            raise ZeroDivisionError

        service.on_record = broken
        await one.send(GET)
        await answer(one)
        assert await one.stream.receive_some() == b""
        await one.stream.aclose()
        service.on_record = kept
        assert await ask(other) == b"ok"
        await rig.settle()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert is_clean(rig)
        assert "ZeroDivisionError" in caplog.text


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        for _ in range(3):
            await ask(client)
        await rig.settle()
        gc.collect()
        for _ in range(50):
            await ask(client)
        await rig.settle()
        assert gc.collect() < 20


async def test_many_requests_at_once_leave_turns_to_the_others() -> None:
    async with open_rig(ok, "keepalive = 150") as rig:
        clients = [await rig.connect() for _ in range(150)]
        for client in clients:
            assert await ask(client) == b"ok"

        async def ask_all() -> None:
            for client in clients:
                # Not through Trio, which would serve them one by one.
                os.write(client.stream.socket.fileno(), GET)
            for client in clients:
                assert (await answer(client))[1] == b"ok"
            await rig.settle()

        steps: list[int] = []

        async def watch() -> None:
            while True:
                before = len(rig.records)
                await trio.lowlevel.checkpoint()
                steps.append(len(rig.records) - before)

        # Each has a connection to the node then.
        await ask_all()
        assert len(rig.calls) == 150
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await ask_all()
            nursery.cancel_scope.cancel()
        assert sum(steps) == 150
        # Two turns may come between two of a task's.
        assert max(steps) <= 128
