"""A relay between two peers, in each way of driving it: what every test of relaying starts from."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, Event

from proxy.io.messages import MessageRelay
from proxy.io.pump import PumpRelay
from proxy.io.relay import Relay
from proxy.io.splice import Splice
from proxy.io.splicer import Splicer
from proxy.io.terms import Terms
from proxy.io.timers import Timers
from proxy.io.tls import TlsTransport
from proxy.io.transport import SocketTransport, hang_up
from proxy.wire.tunnel import Side, Tunnel

#: No wait of a test is longer.
LIMIT = 10.0


class Explosion(Exception):
    """A bug."""


class Peer:
    """One end of a session: wsproto over a stream, and the bytes as they came."""

    def __init__(self, stream: trio.abc.Stream, kind: ConnectionType) -> None:
        self.stream = stream
        self.raw = b""
        self.protocol = Connection(kind)
        self.events: list[Event] = []

    async def send(self, event: Event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def receive(self) -> Event:
        """Return the next event; the end of the stream is a close with 1006."""
        while not self.events:
            data = await self._receive_some()
            if not data:
                return CloseConnection(1006)
            self.raw += data
            self.protocol.receive_data(data)
            self.events = list(self.protocol.events())
        return self.events.pop(0)

    async def _receive_some(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            return b""

    async def read_to_end(self) -> bytes:
        """Return all that is still to come."""
        while data := await self._receive_some():
            self.raw += data
        return self.raw


@attrs.frozen
class Rig:
    client: Peer
    node: Peer
    tunnel: Tunnel
    relay: Relay
    timers: Timers
    #: Set when the relay has ended.
    over: trio.Event
    #: Of the relay, and of what ends the client's connection behind it.
    scope: trio.CancelScope
    nursery: trio.Nursery

    def peer(self, side: Side) -> Peer:
        return (self.client, self.node)[side]


async def half_close(stream: trio.abc.Stream) -> None:
    """Say that nothing more comes, and stay to hear."""
    if isinstance(stream, trio.SSLStream):
        # Trio's has no half-close of its own: a bare one, with no close_notify.
        stream = stream.transport_stream
    assert isinstance(stream, trio.abc.HalfCloseableStream)
    await stream.send_eof()


def socket_pair() -> tuple[SocketTransport, SocketTransport]:
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)
    return SocketTransport(pair[0]), SocketTransport(pair[1])


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def tcp_transports() -> tuple[SocketTransport, SocketTransport]:
    """Return the ends of a connection that is soon full."""
    pair = tcp_pair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    return SocketTransport(pair[0]), SocketTransport(pair[1])


async def tls_pair(
    client: ssl.SSLContext, server: ssl.SSLContext, *, exact: bool = False
) -> tuple[trio.abc.Stream, TlsTransport]:
    """Return a client's stream and the server's transport, over TCP.

    An `exact` client breaks with an end of stream without close_notify.
    """
    near, far = (end.sock for end in tcp_transports()) if exact else tcp_pair()
    stream = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(near)),
        client,
        server_hostname="localhost",
        https_compatible=not exact,
    )
    transport = TlsTransport(far, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        nursery.start_soon(transport.do_handshake)
    return stream, transport


async def _streams(
    kind: str, tls: tuple[ssl.SSLContext, ssl.SSLContext], *, tcp: bool
) -> tuple[trio.abc.Stream, trio.abc.Stream, trio.abc.Stream, trio.abc.Stream]:
    """Return the client's end, the relay's two, and the node's."""
    if kind in ("memory", "messages"):
        client, near = trio.testing.memory_stream_pair()
        far, node = trio.testing.memory_stream_pair()
        return client, near, far, node
    pair = tcp_transports if tcp else socket_pair
    if kind.endswith("tls"):
        return *await tls_pair(*tls, exact=tcp), *pair()
    return *pair(), *pair()


@asynccontextmanager
async def open_rig(
    kind: str,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    *,
    early: tuple[bytes, bytes] = (b"", b""),
    close_timeout: float = 5.0,
    reserved: int = 0,
    terms: Terms | None = None,
    stagger: float = 1.0,
    tcp: bool = False,
) -> AsyncIterator[Rig]:
    """Run a relay of a kind: `splice`, `splice-tls`, `pump`, `pump-tls`, `memory`, `messages`.

    Sockets are unix ones, or `tcp`, which know a reset.  A bug of the relay that is an `Explosion`
    ends it, and nothing else.
    """
    with trio.fail_after(LIMIT):
        client, near, far, node = await _streams(kind, tls, tcp=tcp)
        try:
            async with trio.open_nursery() as nursery:
                terms = terms or Terms(close_timeout=close_timeout)
                tunnel = terms.make_tunnel(reserved)
                timers = Timers()
                relay = _relay(kind, (near, far), tunnel, terms, timers, stagger, nursery)
                over, scope = trio.Event(), trio.CancelScope()

                async def run() -> None:
                    with scope:
                        try:
                            await relay.run(early)
                        except* Explosion:
                            pass
                        finally:
                            over.set()
                            await _hang_up(near)

                nursery.start_soon(run)
                yield Rig(
                    Peer(client, ConnectionType.CLIENT),
                    Peer(node, ConnectionType.SERVER),
                    relay.tunnel,
                    relay,
                    timers,
                    over,
                    scope,
                    nursery,
                )
                nursery.cancel_scope.cancel()
        finally:
            for stream in (client, near, far, node):
                await trio.aclose_forcefully(stream)


async def _hang_up(near: trio.abc.Stream) -> None:
    """End the client's connection as `serve.connection` does."""
    if isinstance(near, SocketTransport):
        await hang_up(near)
    else:
        await trio.aclose_forcefully(near)


def _relay(
    kind: str,
    ends: tuple[trio.abc.Stream, trio.abc.Stream],
    tunnel: Tunnel,
    terms: Terms,
    timers: Timers,
    stagger: float,
    nursery: trio.Nursery,
) -> Relay:
    near, far = ends
    nursery.start_soon(timers.run)
    if kind == "messages":
        return MessageRelay(near, far, tunnel, terms, timers)
    if not kind.startswith("splice"):
        return PumpRelay(near, far, tunnel, terms, timers, stagger=stagger)
    assert isinstance(near, SocketTransport)
    assert isinstance(far, SocketTransport)
    splicer = Splicer()
    nursery.start_soon(splicer.run)
    return Splice(splicer, near, far, tunnel, terms, timers, stagger=stagger)
