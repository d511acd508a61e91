"""HTTP to a node over memory streams: a request, its answer, and what is left of the connection."""

from __future__ import annotations

import h11
import pytest
import trio
import trio.testing

from proxy.errors import BadResponse, ClosedEarly
from proxy.io.node_http import NodeHttp


def node() -> tuple[trio.testing.MemorySendStream, NodeHttp]:
    peer, stream = trio.testing.memory_stream_pair()
    return peer.send_stream, NodeHttp(stream, "node:1")


async def ask(http: NodeHttp) -> None:
    await http.ask(b"GET", b"/", [(b"Host", b"a")])


async def test_answer_of_a_node() -> None:
    send, http = node()
    await ask(http)
    await send.send_all(
        b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    )
    hints: list[int] = []

    async def inform(response: h11.InformationalResponse) -> None:
        hints.append(response.status_code)

    response = await http.read_response(inform)

    assert response.status_code == 200
    assert hints == [103]
    assert [await http.read_body(), await http.read_body()] == [b"abc", None]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ClosedEarly),
        (b"HTT", BadResponse),
        (b"\x82\x05hello", BadResponse),
        (b"hello\r\n\r\n", BadResponse),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000, BadResponse),
        (b"HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n", BadResponse),
    ],
)
async def test_broken_answers(answer: bytes, error: type[Exception]) -> None:
    send, http = node()
    await ask(http)
    await send.send_all(answer)
    await send.aclose()
    with pytest.raises(error) as caught:
        await http.read_response()

    assert type(caught.value) is error


async def test_answer_that_is_cut_short() -> None:
    send, http = node()
    await ask(http)
    await send.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    await send.aclose()
    await http.read_response()
    assert await http.read_body() == b"abc"
    with pytest.raises(BadResponse):
        await http.read_body()


async def test_node_that_is_gone_when_asked() -> None:
    peer, stream = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(peer)
    with pytest.raises(ClosedEarly):
        await ask(NodeHttp(stream, "node:1"))


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 204 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\nabc", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", False),
    ],
)
async def test_which_connections_may_be_used_again(answer: bytes, reusable: bool) -> None:
    send, http = node()
    await ask(http)
    await send.send_all(answer)
    await http.read_response()
    assert await http.read_body() in (b"abc", None)

    assert http.reusable is reusable
