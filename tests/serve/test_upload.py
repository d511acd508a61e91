"""A request's body: taken whole if it is small, else piece by piece, and never too long."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from proxy.errors import BodyTooLarge, ClientGone, RequestTimeout, ResponseTimeout
from proxy.io.client_http import ClientHttp
from proxy.io.node_http import NodeHttp
from proxy.observe.record import Record
from proxy.serve.upload import Upload
from proxy.wire.headers import HeadLimits

Clock = trio.testing.MockClock


class Ends:
    """A client that asks with a body, and a node that gets it."""

    def __init__(self) -> None:
        self.client, near = trio.testing.memory_stream_pair()
        far, self.node = trio.testing.memory_stream_pair()
        self.http = ClientHttp(near, HeadLimits(1024, 256, 20))
        self.asked = NodeHttp(far, "node:1")
        self.record = Record(id="1", client="c")

    async def upload(self, head: bytes, body: bytes = b"", most: int = 100) -> Upload:
        await self.client.send_all(head + b"\r\nHost: a\r\n\r\n" + body)
        request = await self.http.read_request()
        upload = Upload(self.http, request, self.record, most=most, limit=5.0)
        upload.take()
        return upload


@pytest.mark.parametrize(
    ("head", "body", "whole", "harmless", "odd"),
    [
        (b"GET / HTTP/1.1", b"", b"", True, False),
        (b"POST / HTTP/1.1", b"", b"", False, False),
        (b"PUT / HTTP/1.1\r\nContent-Length: 3", b"abc", b"abc", True, False),
        (b"POST / HTTP/1.1\r\nContent-Length: 3", b"abc", b"abc", False, False),
        (b"PUT / HTTP/1.1\r\nContent-Length: 3", b"ab", None, False, False),
        (b"GET / HTTP/1.1\r\nContent-Length: 3", b"abc", b"abc", True, True),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked", b"0\r\n\r\n", None, False, False),
    ],
)
async def test_what_came_with_the_head(
    head: bytes, body: bytes, whole: bytes | None, harmless: bool, odd: bool
) -> None:
    upload = await Ends().upload(head, body)
    assert (upload.whole, upload.is_harmless, upload.is_odd) == (whole, harmless, odd)


async def test_what_comes_soon_is_waited_for(autojump_clock: Clock) -> None:
    ends = Ends()
    upload = await ends.upload(b"PUT / HTTP/1.1\r\nContent-Length: 3")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload.wait)
        await trio.sleep(0.05)
        await ends.client.send_all(b"abc")
    assert upload.whole == b"abc"


async def test_what_does_not_is_not(autojump_clock: Clock) -> None:
    ends = Ends()
    upload = await ends.upload(b"PUT / HTTP/1.1\r\nContent-Length: 3", b"ab")
    began = trio.current_time()
    await upload.wait()
    assert upload.whole is None
    assert trio.current_time() - began == pytest.approx(0.1)
    # Nothing of it is lost.
    await ends.client.send_all(b"c")
    await upload.run(ends.asked)
    assert await ends.node.receive_some() == b"abc"


async def test_pieces(autojump_clock: Clock) -> None:
    ends = Ends()
    upload = await ends.upload(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload.run, ends.asked)
        await ends.client.send_all(b"3;x\r\nabc\r\n")
        assert await ends.node.receive_some() == b"3\r\nabc\r\n"
        await ends.client.send_all(b"0\r\nX: y\r\n\r\n")
        assert await ends.node.receive_some() == b"0\r\nX: y\r\n\r\n"
    assert ends.record.bytes_from_client == 3


async def test_too_long() -> None:
    with pytest.raises(BodyTooLarge):
        await Ends().upload(b"PUT / HTTP/1.1\r\nContent-Length: 101")
    ends = Ends()
    upload = await ends.upload(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked")
    await ends.client.send_all(b"65\r\n" + bytes(101) + b"\r\n")
    with pytest.raises(BodyTooLarge):
        await upload.run(ends.asked)


async def test_too_slow_or_gone(autojump_clock: Clock) -> None:
    ends = Ends()
    upload = await ends.upload(b"PUT / HTTP/1.1\r\nContent-Length: 30")
    with pytest.raises(RequestTimeout):
        await upload.run(ends.asked)
    await ends.client.aclose()
    with pytest.raises(ClientGone):
        await upload.run(ends.asked)


async def test_a_node_that_does_not_read(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    ends = Ends()
    upload = await ends.upload(b"PUT / HTTP/1.1\r\nContent-Length: 30", b"abc")
    with pytest.raises(ResponseTimeout):
        await upload.run(NodeHttp(near, "node:1"))
    await far.aclose()
