"""An answer is waited for as long as its client is there, and no longer than it may take."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import BadResponse, ClientGone, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.serve.answering import Answering
from proxy.wire.headers import ClientFacts, HeadLimits

Clock = trio.testing.MockClock
FACTS = ClientFacts(address="192.0.2.7", scheme="https", port=443, request_id="id-1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Ends:
    """A client that has asked, and a node that was."""

    def __init__(self) -> None:
        self.client, near = trio.testing.memory_stream_pair()
        far, self.node = trio.testing.memory_stream_pair()
        self.http = ClientHttp(near, HeadLimits(1024, 256, 20))
        self.asked = NodeHttp(far, "node:1")
        self.answering = Answering(self.http, FACTS, timeout=30.0, limit=5.0)

    async def ask(self) -> None:
        await self.client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await self.http.read_request()
        await self.asked.ask(b"GET", b"/", [(b"Host", b"a")])
        self.answering.start(trio.current_time())


async def test_a_head_that_comes_late(autojump_clock: Clock) -> None:
    ends = Ends()
    await ends.ask()

    async def late() -> None:
        await trio.sleep(20)
        await ends.node.send_all(OK[:30])
        await trio.sleep(9)
        await ends.node.send_all(OK[30:])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        response = await ends.answering.watched_head(ends.asked)
    assert response.status_code == 200


async def test_none_in_time(autojump_clock: Clock) -> None:
    ends = Ends()
    await ends.ask()
    began = trio.current_time()
    with pytest.raises(ResponseTimeout):
        await ends.answering.watched_head(ends.asked)
    assert trio.current_time() - began == pytest.approx(30.0)


async def test_nobody_waits_for_what_is_not_sent_yet(autojump_clock: Clock) -> None:
    """The time begins when the node has the whole request, also while the head is waited for."""
    ends = Ends()
    await ends.ask()
    ends.answering.reset()

    async def later() -> None:
        await trio.sleep(1000)
        ends.answering.start(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        began = trio.current_time()
        with pytest.raises(ResponseTimeout):
            await ends.answering.head(ends.asked)
    assert trio.current_time() - began == pytest.approx(1030.0)


@pytest.mark.parametrize("of_body", [False, True])
async def test_the_client_hangs_up(of_body: bool, autojump_clock: Clock) -> None:
    ends = Ends()
    await ends.ask()
    if of_body:
        await ends.node.send_all(OK[:-2])
        await ends.answering.watched_head(ends.asked)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.client.aclose)
        began = trio.current_time()
        with pytest.raises(ClientGone):
            await (ends.answering.body if of_body else ends.answering.watched_head)(ends.asked)
    assert trio.current_time() - began == pytest.approx(0.1)


async def test_a_switch_that_nobody_has_asked_for(autojump_clock: Clock) -> None:
    ends = Ends()
    await ends.ask()
    await ends.node.send_all(b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n")
    with pytest.raises(BadResponse):
        await ends.answering.watched_head(ends.asked)


@pytest.mark.parametrize("tells", [True, False])
async def test_what_comes_before_the_answer(tells: bool, autojump_clock: Clock) -> None:
    ends = Ends()
    ends.answering.tells_100 = tells
    await ends.ask()
    await ends.node.send_all(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK)
    assert (await ends.answering.watched_head(ends.asked)).status_code == 200
    await ends.http.stream.aclose()
    got = b""
    while data := await ends.client.receive_some():
        got += data
    hints = b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
    assert got == (b"HTTP/1.1 100 \r\n\r\n" + hints if tells else hints)
