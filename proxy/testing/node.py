"""A stand-in deepstream node: it challenges, logs in, answers pings and carries events.

It behaves as the real one where a proxy can tell: silent after the 101, an exact WebSocket path and
a closed connection for any other, `GET /health-check`.  Nodes that share a `Bus` are a cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import h11
import trio
from wsproto.utilities import RemoteProtocolError

from .deepstream import (
    CORRELATION,
    DATA,
    IS_ACK,
    NAME,
    NAMES,
    Auth,
    Connection,
    Event,
    Message,
    Topic,
)
from .websocket import Closed, WebSocket

PATH = b"/deepstream"


@attrs.define
class Bus:
    """Who has subscribed to which event, in a whole cluster."""

    subscribers: dict[str, set[WebSocket]] = attrs.field(factory=dict)

    def forget(self, client: WebSocket) -> None:
        for clients in self.subscribers.values():
            clients.discard(client)


class StandInNode:
    """A node that listens on a port of its own, between `start` and `kill`."""

    def __init__(self, name: str, bus: Bus) -> None:
        self.name = name
        self.port = 0
        self._bus = bus
        self._life = trio.CancelScope()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[StandInNode]) -> None:
        """Listen, on the same port as before if there was one, until killed."""
        with trio.CancelScope() as self._life:
            listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            async with trio.open_nursery() as clients:
                clients.start_soon(trio.serve_listeners, self._serve, listeners)
                task_status.started(self)

    def kill(self) -> None:
        """Die as of SIGKILL: every connection ends without a word."""
        self._life.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            http = h11.Connection(h11.SERVER)
            while (request := http.next_event()) is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some()))
            if not isinstance(request, h11.Request):
                return
            if any(name == b"upgrade" for name, _ in request.headers):
                await self._upgrade(stream, request, early=http.trailing_data[0])
            else:
                await _answer(stream, http, request)
        except (trio.BrokenResourceError, h11.RemoteProtocolError, RemoteProtocolError, Closed):
            return

    async def _upgrade(
        self, stream: trio.abc.Stream, request: h11.Request, *, early: bytes
    ) -> None:
        if request.target != PATH:
            return
        client = await WebSocket.accept(stream, list(request.headers), request.target, early)
        try:
            while True:
                data = await client.receive()
                if isinstance(data, str):
                    return
                await self._obey(client, Message.decode(data))
        except ValueError:
            return
        finally:
            self._bus.forget(client)

    async def _obey(self, client: WebSocket, message: Message) -> None:
        match message.topic, message.action:
            case Topic.CONNECTION, Connection.CHALLENGE:
                await client.send(Message(Topic.CONNECTION, Connection.ACCEPT).encode())
            case Topic.CONNECTION, Connection.PING:
                await client.send(Message(Topic.CONNECTION, Connection.PONG).encode())
            case Topic.AUTH, Auth.REQUEST:
                await client.send(Message(Topic.AUTH, Auth.SUCCESSFUL).encode())
            case Topic.EVENT, Event.SUBSCRIBE:
                self._bus.subscribers.setdefault(message.text(NAMES), set()).add(client)
                ack: dict[int, int | str] = {CORRELATION: message.text(CORRELATION), IS_ACK: 1}
                await client.send(Message(Topic.EVENT, Event.SUBSCRIBE, ack).encode())
            case Topic.EVENT, Event.EMIT:
                await self._emit(client, message)

    async def _emit(self, sender: WebSocket, message: Message) -> None:
        event = {DATA: message.text(DATA), NAME: message.text(NAME)}
        data = Message(Topic.EVENT, Event.EMIT, event).encode()
        for client in list(self._bus.subscribers.get(message.text(NAME), ())):
            if client is not sender:
                try:
                    await client.send(data)
                except Closed:
                    self._bus.forget(client)


async def _answer(stream: trio.abc.Stream, http: h11.Connection, request: h11.Request) -> None:
    status = 200 if request.target == b"/health-check" else 404
    headers = [("Content-Length", "0"), ("Connection", "close")]
    head = http.send(h11.Response(status_code=status, headers=headers)) or b""
    await stream.send_all(head + (http.send(h11.EndOfMessage()) or b""))


@asynccontextmanager
async def open_nodes(*names: str) -> AsyncIterator[list[StandInNode]]:
    """Run a cluster of stand-in nodes for the length of a block."""
    bus = Bus()
    async with trio.open_nursery() as nursery:
        nodes = [StandInNode(name, bus) for name in names]
        for node in nodes:
            await nursery.start(node.run)
        yield nodes
        nursery.cancel_scope.cancel()
