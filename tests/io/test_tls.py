"""How a TLS connection ends."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme

from proxy.io.tls import TlsTransport
from proxy.io.transport import hang_up

from .rig import LIMIT, tcp_pair


async def exact_pair(
    client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[trio.SSLStream[trio.SocketStream], TlsTransport]:
    """Return a client that tells a goodbye from a bare end, and its peer."""
    near, far = tcp_pair()
    stream = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(near)), client, server_hostname="localhost"
    )
    transport = TlsTransport(far, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        nursery.start_soon(transport.do_handshake)
    return stream, transport


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_parting_says_close_notify_though_something_is_unread(
    version: ssl.TLSVersion, exact_tls: ssl.SSLContext, ca: trustme.CA
) -> None:
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server_tls)
    server_tls.maximum_version = version
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        assert transport.tls.version() == version.name.replace("_", ".")
        await client.send_all(b"never read" * 1000)
        await transport.send_all(b"the last word")
        await trio.lowlevel.wait_readable(transport.sock)
        transport.part()

        assert await client.receive_some() == b"the last word"
        assert await client.receive_some() == b""
        await trio.aclose_forcefully(client)


async def test_hanging_up_says_close_notify_and_waits_for_the_other(
    exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    over = trio.Event()
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)

        async def end() -> None:
            await hang_up(transport)
            over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)

            assert await client.receive_some() == b""
            assert not over.is_set()
            await client.aclose()
            await over.wait()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_other_ends_do_not_look_like_a_goodbye(
    end: str, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    causes = {"close": ssl.SSLError, "abort": ConnectionResetError}
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        getattr(transport, end)()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        await trio.aclose_forcefully(client)

    assert isinstance(caught.value.__cause__, causes[end])


async def test_saying_goodbye_twice_disturbs_nothing(
    exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """What the peer still has to say is heard behind our close_notify."""
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        for number in range(3):
            transport.say_eof()
            await client.send_all(b"%d" % number)
            assert await transport.receive_some() == b"%d" % number
        transport.part()
        assert await client.receive_some() == b""
        await trio.aclose_forcefully(client)


@pytest.mark.parametrize("first", [1, 16_384, 20_000])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_goodbye_loses_nothing_that_came_before_it(
    version: ssl.TLSVersion, first: int, exact_tls: ssl.SSLContext, ca: trustme.CA
) -> None:
    """A slow reader has left some of it where OpenSSL, looking for a goodbye, would drop it."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server_tls)
    server_tls.maximum_version = version
    words = bytes(range(250)) * 200
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        await client.send_all(words)
        heard = await transport.receive_some(first)
        while len(heard) < len(words):
            assert transport.say_eof()
            heard += await transport.receive_some(1000)
        await client.send_all(b"the last word")
        assert await transport.receive_some() == b"the last word"
        assert not transport.pending
        transport.close()
        await trio.aclose_forcefully(client)

    assert heard == words


async def test_what_is_left_is_looked_for_without_the_network(
    exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """Else who sends and sends, in records of just this size, would be read for ever."""
    buffer = memoryview(bytearray(512))
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        await client.send_all(bytes(512))
        await trio.lowlevel.wait_readable(transport.sock)
        assert transport.recv_into(buffer) == 512
        was_pending = transport.pending
        assert was_pending
        await client.send_all(b"more")
        await trio.lowlevel.wait_readable(transport.sock)
        with pytest.raises(BlockingIOError):
            transport.recv_into(buffer)
        assert not transport.pending
        assert transport.recv_into(buffer) == 4
        transport.close()
        await trio.aclose_forcefully(client)


async def test_new_keys_behind_our_goodbye_are_not_answered(
    exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        assert transport.say_eof()
        # As OpenSSL puts its answer there (RFC 8446 section 4.6.3).
        transport._outgoing.write(b"an answer")
        await client.send_all(b"the last word")
        assert await transport.receive_some() == b"the last word"
        assert await client.receive_some() == b""
        transport.close()
        await trio.aclose_forcefully(client)


async def test_goodbye_finds_room(exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        sent = 1000
        while transport.send(bytes(1000)):
            sent += 1000
        assert not transport.say_eof()
        heard = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.send_eof)
            while data := await client.receive_some():
                heard += len(data)
        transport.close()
        await trio.aclose_forcefully(client)

    assert heard == sent


@pytest.mark.parametrize("goodbye", [True, False])
async def test_an_end_without_a_goodbye_is_told_apart(
    goodbye: bool, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        await transport.send_all(b"hello")
        # And the tickets before it: what lies unread would make the end a reset.
        assert await client.receive_some() == b"hello"
        if goodbye:
            with trio.move_on_after(0.05):
                await client.unwrap()
        await client.transport_stream.aclose()

        assert await transport.receive_some() == b""
        assert transport.cut_short is not goodbye
        transport.close()


@pytest.mark.parametrize("next_one", [TlsTransport.receive_some, TlsTransport.receive_next])
async def test_a_goodbye_that_came_with_the_last_bytes_is_not_waited_for(
    next_one: Callable[[TlsTransport], Awaitable[bytes]],
    exact_tls: ssl.SSLContext,
    server_tls: ssl.SSLContext,
) -> None:
    """Its sender may keep the connection open, as one that waits for ours does."""
    with trio.fail_after(LIMIT):
        client, transport = await exact_pair(exact_tls, server_tls)
        sent: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch:

            async def keep(data: bytes) -> None:
                sent.append(data)
                await trio.lowlevel.checkpoint()

            patch.setattr(client.transport_stream, "send_all", keep)
            await client.send_all(b"the last word")
            with trio.move_on_after(0.05):
                await client.unwrap()
        assert len(sent) == 2
        await client.transport_stream.send_all(b"".join(sent))

        assert await next_one(transport) == b"the last word"
        assert transport.pending
        assert await next_one(transport) == b""
        transport.close()
        await client.transport_stream.aclose()
