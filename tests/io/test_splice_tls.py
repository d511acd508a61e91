"""What TLS has decrypted, or heard, and epoll tells nobody of."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from proxy.config.route import Route, SessionLimits
from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.transport import SocketTransport
from proxy.wire.opaque import OpaqueTunnel

from .rig import LIMIT, tcp_transports, tls_pair

WORDS = bytes(range(250)) * 64


def paced(bytes_per_second: float, *, chunk: int) -> Terms:
    limits = SessionLimits(bytes_per_second=bytes_per_second, burst=0.01)
    return attrs.evolve(
        Terms.of(Route(path="/", upstream="node", websocket=True, limits=limits), 1.0), chunk=chunk
    )


@attrs.frozen
class Ends:
    client: trio.SSLStream[trio.SocketStream]
    node: SocketTransport
    #: The proxy's own end of the node's connection.
    to_node: SocketTransport
    tunnel: OpaqueTunnel
    over: trio.Event

    async def records(self, do: Callable[..., Awaitable[object]], *args: object) -> bytes:
        """Return what the client would send for this."""
        sent: list[bytes] = []

        async def keep(data: bytes) -> None:
            sent.append(data)
            await trio.lowlevel.checkpoint()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.client.transport_stream, "send_all", keep)
            with trio.move_on_after(0.01):
                await do(*args)
        return b"".join(sent)

    async def heard(self, count: int) -> bytes:
        """Return what the node hears: so many bytes, and what comes with them."""
        heard = b""
        while len(heard) < count:
            heard += await self.node.receive_some()
        return heard


@asynccontextmanager
async def tunnelled(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext, terms: Terms
) -> AsyncIterator[Ends]:
    """Relay bytes between a TLS client and a node."""
    splicer, timers = Splicer(), Timers()
    with trio.fail_after(LIMIT):
        client, near = await tls_pair(client_tls, server_tls, exact=True)
        assert isinstance(client, trio.SSLStream)
        node, far = tcp_transports()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splicer.run)
            nursery.start_soon(timers.run)
            tunnel, over = OpaqueTunnel(), trio.Event()
            splice = Splice(splicer, near, far, tunnel, terms, timers)

            async def run() -> None:
                await splice.run()
                over.set()

            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield Ends(client, node, far, tunnel, over)
            nursery.cancel_scope.cancel()
        for end in (near, far, node):
            end.close()
        await trio.aclose_forcefully(client)


@pytest.mark.parametrize("chunk", [256, 4096])
async def test_a_slowed_client_is_heard_out_when_the_node_has_said_its_last(
    chunk: int, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """Our goodbye to the client comes while some of what it sent waits for its time."""
    terms = paced(200_000.0, chunk=chunk)
    async with tunnelled(exact_tls, server_tls, terms) as ends:
        await ends.client.send_all(WORDS)
        heard = await ends.heard(1)
        await ends.node.send_eof()
        heard += await ends.heard(len(WORDS) - len(heard))
        assert heard == WORDS
        assert await ends.client.receive_some() == b""


async def test_what_is_no_tls_ends_a_slowed_client_that_was_said_goodbye(
    exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async with tunnelled(exact_tls, server_tls, paced(20_000.0, chunk=256)) as ends:
        words = await ends.records(ends.client.send_all, bytes(1000))
        await ends.client.transport_stream.send_all(words + b"\x17\x03\x03\x00\x30" + bytes(48))
        await ends.heard(1)
        await ends.node.send_eof()
        # Not as a bug, which would end this test.
        await ends.over.wait()
        assert ends.tunnel.ending == "node_closed"


@pytest.mark.parametrize("chunk", [256, 4096])
async def test_a_client_is_heard_out_when_the_node_has_room_again(
    chunk: int, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async with tunnelled(exact_tls, server_tls, paced(1e9, chunk=chunk)) as ends:
        size = 1000
        while ends.to_node.send(bytes(1000)):
            size += 1000
        size -= len(ends.to_node.backlog)
        ends.to_node.backlog = b""
        await ends.client.send_all(WORDS)
        await trio.testing.wait_all_tasks_blocked()
        assert (await ends.heard(size + len(WORDS)))[-len(WORDS) :] == WORDS


@pytest.mark.parametrize("terms", [Terms(), paced(1e9, chunk=256)], ids=["free", "paced"])
async def test_a_goodbye_right_behind_the_last_bytes_reaches_the_node(
    terms: Terms, exact_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    """Its sender keeps the connection open, to hear the node's answer."""
    async with tunnelled(exact_tls, server_tls, terms) as ends:
        last = await ends.records(ends.client.send_all, b"the last word")
        last += await ends.records(ends.client.unwrap)
        await ends.client.transport_stream.send_all(last)

        assert await ends.node.receive_some() == b"the last word"
        assert await ends.node.receive_some() == b""
