"""A node's answer on its way to the client: in few pieces, and cut short where it has to be."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import BadResponse, ClientGone, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.serve.download import Download
from proxy.wire.headers import ClientFacts, HeadLimits

Clock = trio.testing.MockClock
FACTS = ClientFacts(address="192.0.2.7", scheme="https", port=443, request_id="id-1")


class Ends:
    """A client that has asked, and a node that was."""

    def __init__(self) -> None:
        self.client, near = trio.testing.memory_stream_pair()
        far, self.node = trio.testing.memory_stream_pair()
        self.near = near
        self.http = ClientHttp(near, HeadLimits(1024, 256, 20))
        self.asked = NodeHttp(far, "node:1")
        self.record = Record(id="1", client="c")

    async def relay(self, limit: float = 10.0) -> None:
        await self.client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await self.http.read_request()
        await self.asked.ask(b"GET", b"/", [(b"Host", b"a")])
        response = await self.asked.read_response()
        way = self.http, self.record, FACTS
        download = Download(self.asked, response, *way, limit=limit, close=True)
        if not download.begin():
            await download.go_on()


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (b"Content-Length: 3\r\n\r\nabc", b"Content-Length: 3\r\nConnection: close\r\n\r\nabc"),
        (b"Content-Length: 0\r\n\r\n", b"Content-Length: 0\r\nConnection: close\r\n\r\n"),
        (
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
    ],
)
async def test_what_is_here_at_once_goes_out_at_once(answer: bytes, sent: bytes) -> None:
    ends = Ends()
    await ends.node.send_all(b"HTTP/1.1 200 OK\r\n" + answer)
    await ends.relay()

    assert await ends.client.receive_some() == b"HTTP/1.1 200 OK\r\n" + sent
    assert ends.record.status == 200
    assert ends.record.bytes_from_node == (3 if b"abc" in answer else 0)


async def test_a_head_does_not_wait_for_its_body(autojump_clock: Clock) -> None:
    ends = Ends()
    await ends.node.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    with pytest.raises(ResponseTimeout):
        await ends.relay()

    assert (await ends.client.receive_some()).endswith(b"close\r\n\r\n")
    assert trio.current_time() == pytest.approx(10)


async def test_one_that_is_cut_short() -> None:
    ends = Ends()
    await ends.node.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
    await ends.node.send_stream.aclose()
    with pytest.raises(BadResponse):
        await ends.relay()

    assert (await ends.client.receive_some()).endswith(b"\r\n\r\na")


async def test_a_client_that_does_not_read(autojump_clock: Clock) -> None:
    ends = Ends()
    ends.near.send_stream.send_all_hook = trio.sleep_forever
    await ends.node.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    with pytest.raises(ClientGone):
        await ends.relay()

    assert trio.current_time() == pytest.approx(10)
