"""Plain requests over sockets: kept connections, what comes before an answer, and who hangs up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
import trio.testing

from proxy import open_proxy, parse_config
from proxy.observe.record import Record
from proxy.serve.server import Server
from tests.io.rig import LIMIT

CONFIG = """
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
prefix = "/"
upstream = "nodes"
[upstreams.nodes]
nodes = [ {nodes} ]
hold = {{ timeout = 0.0 }}
{more}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"

Talk = Callable[["Caller"], Awaitable[None]]


class Caller:
    """The proxy, as a node sees it: one connection."""

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        self.stream = stream
        #: How many have come before it.
        self.number = number
        self._buffer = b""

    async def head(self) -> bytes:
        """Return the head of the next request, b"" if there is none."""
        while b"\r\n\r\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                return b""
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    async def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += await self.stream.receive_some()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)


@attrs.define
class Rig:
    server: Server
    records: list[Record]
    #: The connections that nodes have had.
    calls: list[Caller]
    clients: list[Caller] = attrs.field(factory=list)

    async def connect(self) -> Caller:
        port = self.server.address().port
        self.clients.append(Caller(await trio.open_tcp_stream("127.0.0.1", port), 0))
        return self.clients[-1]

    async def settle(self) -> None:
        """Wait until the proxy has no request under way."""
        with trio.fail_after(LIMIT):
            await self.server.service.under_way.wait_none()


@asynccontextmanager
async def open_rig(talk: Talk, more: str = "", nodes: int = 1) -> AsyncIterator[Rig]:
    calls: list[Caller] = []
    records: list[Record] = []

    async def serve(stream: trio.SocketStream) -> None:
        caller = Caller(stream, len(calls))
        calls.append(caller)
        async with stream:
            # The proxy may have hung up on it.
            with suppress(trio.BrokenResourceError):
                await talk(caller)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="0.0.0.0")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            port = listener.socket.getsockname()[1]
            addresses = ", ".join(f'"127.0.0.{1 + n}:{port}"' for n in range(nodes))
            config = parse_config(CONFIG.format(nodes=addresses, more=more))
            async with open_proxy(config, on_record=records.append) as server:
                rig = Rig(server, records, calls)
                yield rig
                for client in rig.clients:
                    await client.stream.aclose()
            nursery.cancel_scope.cancel()


async def ok(caller: Caller) -> None:
    """Answer every request, its body read if it has one."""
    while head := await caller.head():
        if b"Content-Length: 3" in head:
            assert await caller.read(3) == b"abc"
        await caller.send(OK)


async def answer(client: Caller) -> tuple[bytes, bytes]:
    """Return an answer's head, and its body of a length that is told."""
    head = await client.head()
    return head, await client.read(int(head.lower().partition(b"content-length: ")[2][:1]))


async def test_connections_to_nodes_are_used_again() -> None:
    async with open_rig(ok) as rig:
        first, second = await rig.connect(), await rig.connect()
        for client in (first, second, first, second):
            for request in (GET, POST):
                await client.send(request)
                assert (await answer(client))[1] == b"ok"

        assert len(rig.calls) == 1
        await rig.settle()
        assert [record.attempts for record in rig.records] == [1] * 8
        assert len(rig.server.service.kept) == 1
    assert len(rig.server.service.kept) == 0


async def test_with_none_kept_each_has_its_own() -> None:
    async def talk(caller: Caller) -> None:
        assert b"Connection: close" in await caller.head()
        await caller.send(OK)

    async with open_rig(talk, "keepalive = 0") as rig:
        client = await rig.connect()
        for _ in range(2):
            await client.send(GET)
            await answer(client)
        assert len(rig.calls) == 2


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        await client.send((GET + POST) * 10)
        for _ in range(20):
            assert (await answer(client))[1] == b"ok"
        assert [record.method for record in rig.records] == ["GET", "POST"] * 10


@pytest.mark.parametrize("request_", [GET, GET.replace(b"GET", b"DELETE")])
async def test_a_kept_connection_that_dies_with_a_request_is_no_loss(request_: bytes) -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(OK)
        if caller.number == 0:
            # It reads the second one, and hangs up all the same.
            await caller.head()
            return
        await ok(caller)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        for _ in range(2):
            await client.send(request_)
            assert (await answer(client))[1] == b"ok"
        await rig.settle()
        assert [record.status for record in rig.records] == [200, 200]
        assert len(rig.calls) == 2
        (node,) = rig.server.service.upstreams["nodes"].nodes
        assert node.takes(trio.current_time())


async def test_what_may_not_be_repeated_dies_with_it() -> None:
    async def talk(caller: Caller) -> None:
        await ok(caller) if caller.number else None
        await caller.head()
        await caller.send(OK)
        await caller.head()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET + POST)
        assert (await answer(client))[0].startswith(b"HTTP/1.1 200")
        assert (await client.head()).startswith(b"HTTP/1.1 502")
        assert len(rig.calls) == 1


async def test_a_kept_connection_that_was_hung_up_meanwhile_is_not_used() -> None:
    gone = trio.Event()

    async def talk(caller: Caller) -> None:
        if caller.number:
            await ok(caller)
            return
        await caller.head()
        await caller.send(OK)
        await caller.stream.aclose()
        gone.set()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET)
        await answer(client)
        await gone.wait()
        await client.send(POST)
        assert (await answer(client))[1] == b"ok"
        assert len(rig.calls) == 2


async def test_the_node_decides_about_100_continue() -> None:
    async def talk(caller: Caller) -> None:
        assert b"Expect: 100-continue" in await caller.head()
        await caller.send(b"HTTP/1.1 100 Go on\r\nX-A: b\r\n\r\n")
        assert await caller.read(3) == b"abc"
        await caller.send(OK)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(POST.replace(b"\r\n\r\nabc", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await client.head() == b"HTTP/1.1 100 Go on\r\nX-A: b"
        await client.send(b"abc")
        assert (await answer(client))[1] == b"ok"


async def test_hints_go_through_to_those_who_know_them() -> None:
    async def talk(caller: Caller) -> None:
        while await caller.head():
            await caller.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: a\r\n\r\n")
            await caller.send(OK)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET)
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </x>"
        assert (await answer(client))[1] == b"ok"
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await answer(client))[0].startswith(b"HTTP/1.1 200")


async def test_trailers_go_both_ways_and_carry_no_headers() -> None:
    seen = trio.Event()
    trailers = b"0\r\nX-Sum: 1\r\nHost: evil\r\nContent-Length: 9\r\n\r\n"

    async def talk(caller: Caller) -> None:
        head = await caller.head()
        assert b"Transfer-Encoding: chunked" in head
        assert b"TE: trailers\r\nConnection: TE" in head
        assert await caller.read(8) == b"3\r\nabc\r\n"
        assert await caller.head() == b"0\r\nX-Sum: 1"
        seen.set()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await caller.send(b"3\r\nabc\r\n" + trailers)

    async with open_rig(talk) as rig:
        client = await rig.connect()
        chunked = b"Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE"
        head = POST.replace(b"Content-Length: 3", chunked).removesuffix(b"abc")
        await client.send(head + b"3\r\nabc\r\n" + trailers)
        assert (await client.head()).endswith(b"Transfer-Encoding: chunked")
        assert await client.head() == b"3\r\nabc\r\n0\r\nX-Sum: 1"
        assert seen.is_set()


async def test_events_arrive_as_they_are_made() -> None:
    heard = [trio.Event() for _ in range(3)]

    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for one in heard:
            await caller.send(b"data: x\n\n")
            await one.wait()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET)
        assert b"text/event-stream" in await client.head()
        for one in heard:
            assert await client.read(14) == b"9\r\ndata: x\n\n\r\n"
            one.set()
        assert await client.read(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("request_", [GET, POST, POST.replace(b"h: 3", b"h: 300")])
async def test_a_client_that_hangs_up_takes_its_request_along(request_: bytes, begun: bool) -> None:
    gone, asked = trio.Event(), trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        if begun:
            await caller.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        asked.set()
        while await caller.stream.receive_some():
            pass
        gone.set()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(request_)
        await asked.wait()
        if begun:
            await client.head()
        await client.stream.aclose()
        await gone.wait()
        await rig.settle()
        (record,) = rig.records
        assert (record.ended_by, record.ending) == ("client", "client_lost")


async def test_an_answer_before_the_body_has_come_ends_the_connection() -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        await trio.sleep_forever()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(POST.replace(b"h: 3", b"h: 300"))
        assert (await answer(client))[1] == b"no"
        assert await client.stream.receive_some() == b""
        assert len(rig.server.service.kept) == 0


@pytest.mark.parametrize(
    ("retry", "asked"),
    [
        ("{ attempts = 3 }", 3),
        ("{ attempts = 100 }", 5),
        ("{ share = 0.0, rate = 0.0 }", 1),
        ("{ attempts = 100, share = 0.0, rate = 0.1 }", 2),
    ],
)
async def test_retries_have_an_end(retry: str, asked: int) -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()

    async with open_rig(talk, f"retry = {retry}\npanic = 'refuse'", nodes=5) as rig:
        client = await rig.connect()
        await client.send(GET)
        assert (await client.head()).startswith(b"HTTP/1.1 502")
        assert len(rig.calls) == asked


async def test_what_was_sent_and_is_not_idempotent_is_not_sent_again() -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()

    async with open_rig(talk, nodes=5) as rig:
        client = await rig.connect()
        await client.send(POST)
        assert (await client.head()).startswith(b"HTTP/1.1 502")
        assert len(rig.calls) == 1


async def test_a_connection_that_was_in_use_while_all_were_closed_is_not_kept() -> None:
    """A reload may have changed whom the node has to be."""
    asked, go_on = trio.Event(), trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        if caller.number == 0:
            asked.set()
            await go_on.wait()
        await caller.send(OK)
        await caller.head()

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET)
        await asked.wait()
        await rig.server.reload(rig.server.config)
        go_on.set()
        await answer(client)
        await client.send(GET)
        await answer(client)
        assert len(rig.calls) == 2


async def test_a_body_that_comes_soon_after_its_head_goes_with_it() -> None:
    async with open_rig(ok) as rig:
        client = await rig.connect()
        for _ in range(3):
            await client.send(POST.removesuffix(b"abc"))
            await trio.testing.wait_all_tasks_blocked()
            await client.send(b"abc")
            assert (await answer(client))[1] == b"ok"
        assert len(rig.calls) == 1


async def test_an_answer_that_is_cut_short_does_not_look_whole_to_old_clients() -> None:
    async def talk(caller: Caller) -> None:
        await caller.head()
        await caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")

        async def read_to_end() -> None:
            while await client.stream.receive_some():
                pass

        with pytest.raises(trio.BrokenResourceError):
            await read_to_end()


async def test_answers_before_the_answer_have_an_end_and_wait_for_nobody() -> None:
    asked = trio.Event()

    async def talk(caller: Caller) -> None:
        await caller.head()
        asked.set()
        while True:
            await caller.send(b"HTTP/1.1 103 Hints\r\nX: " + b"y" * 8000 + b"\r\n\r\n")

    async with open_rig(talk) as rig:
        client = await rig.connect()
        await client.send(GET)
        await asked.wait()
        # The client reads nothing of them, and then all.
        await trio.testing.wait_all_tasks_blocked(0.05)
        while not (await client.head()).startswith(b"HTTP/1.1 502"):
            pass
        assert [record.status for record in rig.records] == [502]


async def test_who_sends_many_at_once_leaves_turns_to_the_others() -> None:
    turns = 0

    async with open_rig(ok) as rig:
        client = await rig.connect()

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await client.send(b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n" * 300)
            for _ in range(300):
                head = await client.head()
                assert head.startswith(b"HTTP/1.1 405")
                await client.read(int(head.partition(b"Content-Length: ")[2].split(b"\r")[0]))
            nursery.cancel_scope.cancel()
    # Without turns of their own there are as many as pieces in which they come.
    assert turns > 100
