"""A proxy's connections over memory streams, to nodes that do what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import h11
import trio
import trio.testing

from proxy.config.load import parse_config
from proxy.config.model import Listener
from proxy.errors import DialRefused
from proxy.io.relay import Relay
from proxy.observe.record import Record
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream
from proxy.serve.connection import Connection
from proxy.serve.hooks import Hooks
from proxy.serve.service import Service
from proxy.serve.session import Session

CONFIG = """
[[listeners]]
bind = "127.0.0.1:0"

[[routes]]
path = "/deepstream"
websocket = true
upstream = "nodes"
origins = [ "https://good.example" ]

[[routes]]
prefix = "/api"
upstream = "nodes"

[upstreams.nodes]
nodes = [ "node-a:1", "node-b:1" ]
balance = "round_robin"
rest = { first = 10.0, longest = 60.0, failures = 1 }
hold = { timeout = 0.0 }
panic = "refuse"
slow_start = 0.0
"""
UPGRADE = (
    b"GET /deepstream HTTP/1.1\r\nHost: rt.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

Peer = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
Serve = Callable[[trio.abc.Stream], Awaitable[object]]


@attrs.frozen
class Door:
    """Where a test's clients come in."""

    config: Listener


class World:
    """A service whose dials end at functions of the test; a node without one refuses."""

    def __init__(
        self,
        nursery: trio.Nursery,
        config: str = CONFIG,
        *,
        resolve: bool = True,
        hooks: dict[str, Hooks] | None = None,
    ) -> None:
        self.records: list[Record] = []
        self.dialled: list[str] = []
        self.dial_times: list[float] = []
        self.nodes: dict[str, Serve] = {}
        #: The proxy's ends of the connections to nodes.
        self.streams: list[Peer] = []
        self.nursery = nursery
        self.service = Service(parse_config(config), on_record=self.records.append, hooks=hooks)
        self.service.dial = self._dial  # type: ignore[method-assign]  # what a test is about
        for upstream in self.service.upstreams.values() if resolve else ():
            for node in upstream.config.nodes:
                upstream.resolved(node, [node.address], 0.0)

    async def _dial(self, upstream: Upstream, node: Node, limit: float) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append(node.address.host)
        self.dial_times.append(trio.current_time())
        serve = self.nodes.get(node.address.host)
        if serve is None:
            raise DialRefused(node.name)
        near, far = trio.testing.memory_stream_pair()
        self.streams.append(near)

        async def run() -> None:
            try:
                await serve(far)
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                # The proxy has hung up, perhaps within a body.
                pass
            finally:
                await trio.aclose_forcefully(far)

        self.nursery.start_soon(run)
        return near

    def connect(self, *, surplus: bool = False) -> Peer:
        """Return a client's end of a new connection."""
        peer, stream = trio.testing.memory_stream_pair()
        listener = self.service.config.listeners[0]
        connection = Connection(
            self.service, stream, Door(listener), client="192.0.2.7:555", port=8080, surplus=surplus
        )
        self.nursery.start_soon(connection.run)
        return peer

    def live(self, relay: Relay) -> Session:
        """Return a session of the first node."""
        upstream = self.service.upstreams["nodes"]
        record = Record(id="1", client="c")
        route = self.service.config.routes[0]
        return self.service.live(relay, record, route, upstream, upstream.nodes[0])

    async def ask(self, request: bytes, *, surplus: bool = False) -> bytes:
        """Send a request on a new connection, hang up once it is answered; return all of that."""
        client = self.connect(surplus=surplus)
        await client.send_all(request)
        answer = bytes(await client.receive_some())
        await client.send_stream.aclose()
        return answer + await read_all(client)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what comes up to the end of a head, and what came with that."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.receive_some()
        if not data:
            break
        received += data
    return received


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def token(answer: bytes) -> str:
    head = answer.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        if line.startswith(b"Proxy-Status: "):
            return line.partition(b"error=")[2].decode()
    return ""


def answering(*pieces: bytes) -> Serve:
    """A node that reads a head, sends these bytes, and hangs up."""

    async def serve(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        for piece in pieces:
            await stream.send_all(piece)

    return serve


async def silent(stream: trio.abc.Stream) -> None:
    """A node that reads and never answers."""
    await read_all(stream)


class Recorder:
    """A node that keeps the requests it was sent, whole, and answers each with a status."""

    def __init__(self, status: int = 200, body: bytes = b"from the node") -> None:
        self.requests: list[tuple[h11.Request, bytes]] = []
        self._status = status
        self._body = body

    async def __call__(self, stream: trio.abc.Stream) -> None:
        conn = h11.Connection(h11.SERVER)
        request, body = None, b""
        while True:
            event = conn.next_event()
            if event is h11.NEED_DATA:
                conn.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        assert request is not None
        self.requests.append((request, body))
        await stream.send_all(
            b"HTTP/1.1 %d Fine\r\nContent-Length: %d\r\nX-Node: yes\r\n\r\n%s"
            % (self._status, len(self._body), self._body)
        )


@asynccontextmanager
async def open_world(
    config: str = CONFIG, *, resolve: bool = True, hooks: dict[str, Hooks] | None = None
) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery, config, resolve=resolve, hooks=hooks)
        nursery.cancel_scope.cancel()
