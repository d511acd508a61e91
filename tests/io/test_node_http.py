"""HTTP to a node over memory streams: a request, its answer, and what is left of the connection."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme

from proxy.errors import BadResponse, ClosedEarly
from proxy.io.node_http import NodeHttp
from proxy.io.tls import TlsTransport
from proxy.wire.head import Response

from .rig import LIMIT, tcp_pair


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

    async def inform(response: Response) -> None:
        hints.append(response.status_code)

    response = await http.read_response(inform)

    assert response.status_code == 200
    assert hints == [103]
    assert [await http.read_body(), await http.read_body()] == [b"abc", b""]


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
    assert await http.read_body() in (b"abc", b"")

    assert http.reusable is reusable


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_connection_that_tls_has_ended_may_not(
    goodbye: bool, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """A node may keep it open, and wait for our goodbye: what is asked there is never answered."""
    near, far = tcp_pair()
    peer, stream = TlsTransport(far, server_tls), TlsTransport(near, client_tls, "localhost")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.do_handshake)
            nursery.start_soon(stream.do_handshake)
        http = NodeHttp(stream, "node:1")
        await ask(http)
        assert await peer.receive_some()
        peer.tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
        if goodbye:
            with suppress(ssl.SSLWantReadError):
                peer.tls.unwrap()
        assert peer.flush()
        await http.read_response()
        assert await http.read_body() == b"abc"
    assert http.reusable is not goodbye
    peer.close()
    stream.close()


async def test_node_that_refuses_our_certificate_after_the_handshake(ca: trustme.CA) -> None:
    """As in TLS 1.3, where we have finished before it looks at it."""
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("localhost").configure_cert(strict)
    ca.configure_trust(strict)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    near, far = tcp_pair()

    async def refuse() -> None:
        node = TlsTransport(far, strict)
        with pytest.raises(trio.BrokenResourceError):
            await node.do_handshake()
        node.close()

    with trio.fail_after(LIMIT):
        transport = TlsTransport(near, trusting, "localhost")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            await transport.do_handshake()
            assert transport.tls.version() == "TLSv1.3"
        http = NodeHttp(transport, "node")
        with pytest.raises(ClosedEarly, match="TLSV13_ALERT_CERTIFICATE_REQUIRED"):
            await http.read_response()
        transport.close()
