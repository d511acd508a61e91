"""What comes before a request: TLS, and what the record says where that fails."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trio

from proxy.io.transport import SocketTransport
from proxy.observe.record import Record
from proxy.serve.arrival import shake_hands
from tests.io.rig import LIMIT, socket_pair


@pytest.fixture
def ends() -> Iterator[tuple[SocketTransport, SocketTransport]]:
    pair = socket_pair()
    yield pair
    for end in pair:
        end.sock.close()


async def test_a_client_shakes_hands(
    ends: tuple[trio.abc.Stream, SocketTransport],
    client_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    client = trio.SSLStream(ends[0], client_tls, server_hostname="localhost")
    record = Record(id="1", client="c")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            transport = await shake_hands(ends[1], server_tls, record, trio.current_time() + LIMIT)

        assert transport is not None
        assert record.tls_time is not None
        assert record.detail == ""
        await transport.send_all(b"hello")
        assert await client.receive_some() == b"hello"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_handshake_is_told_to_the_record(
    sent: bytes, ends: tuple[trio.abc.Stream, SocketTransport], server_tls: ssl.SSLContext
) -> None:
    record = Record(id="1", client="c")
    if sent:
        await ends[0].send_all(sent)
    await ends[0].aclose()

    assert await shake_hands(ends[1], server_tls, record, trio.current_time() + LIMIT) is None
    assert record.tls_time is None
    assert record.detail.startswith("The TLS handshake failed: ")


async def test_a_handshake_has_its_time(
    ends: tuple[trio.abc.Stream, SocketTransport], server_tls: ssl.SSLContext
) -> None:
    record = Record(id="1", client="c")

    assert await shake_hands(ends[1], server_tls, record, trio.current_time() + 0.01) is None
    assert record.detail == "The TLS handshake was not complete in time."
