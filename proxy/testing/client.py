"""A stand-in deepstream client: it logs in, subscribes, emits, and comes back when cut off."""

from __future__ import annotations

import ssl

import trio

from .deepstream import CORRELATION, DATA, NAME, NAMES, Auth, Connection, Event, Message, Topic
from .websocket import Closed, WebSocket

#: Events that nobody has asked for yet; then the connection is not read any more.
INBOX = 100


class StandInClient:
    """A client that stays logged in for as long as `run` does."""

    def __init__(self, name: str, port: int, trust: ssl.SSLContext) -> None:
        self.name = name
        #: How often it has logged in.
        self.logins = 0
        self._port = port
        self._trust = trust
        self._socket: WebSocket | None = None
        self._acknowledged: dict[str, trio.Event] = {}
        self._received, self._inbox = trio.open_memory_channel[tuple[str, str]](INBOX)
        #: Replaced at every login.
        self._login = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Log in, and do so again at once whenever the connection is lost.

        Raises:
            Rejected: the handshake was refused.
            OSError: nobody listens.
            Closed: the connection was lost before the login was done.
        """
        while True:
            stream = await trio.open_ssl_over_tcp_stream(
                "localhost", self._port, ssl_context=self._trust, https_compatible=True
            )
            async with stream:
                socket = await self._log_in(stream)
                self._logged_in(socket)
                if self.logins == 1:
                    task_status.started()
                try:
                    while True:
                        await self._take(_decode(await socket.receive()))
                except Closed:
                    self._socket = None

    def _logged_in(self, socket: WebSocket) -> None:
        self._socket = socket
        self.logins += 1
        self._login.set()
        self._login = trio.Event()

    async def _log_in(self, stream: trio.abc.Stream) -> WebSocket:
        socket = await WebSocket.connect(stream, f"localhost:{self._port}", "/deepstream")
        url = f"wss://localhost:{self._port}/deepstream"
        user = f'{{"username":"{self.name}"}}'
        for message in (
            Message(Topic.CONNECTION, Connection.CHALLENGE, {5: url}),
            Message(Topic.AUTH, Auth.REQUEST, {DATA: user}),
        ):
            await socket.send(message.encode())
            _decode(await socket.receive())
        for event in self._acknowledged:
            await socket.send(_subscription(event))
        return socket

    async def _take(self, message: Message) -> None:
        match message.topic, message.action:
            case Topic.EVENT, Event.EMIT:
                await self._received.send((message.text(NAME), message.text(DATA)))
            case Topic.EVENT, Event.SUBSCRIBE:
                for acknowledged in self._acknowledged.values():
                    acknowledged.set()

    async def subscribe(self, event: str) -> None:
        """Ask for an event, now and after every login; wait until the node has agreed."""
        self._acknowledged[event] = trio.Event()
        await self._send(_subscription(event))
        await self._acknowledged[event].wait()

    async def emit(self, event: str, data: str) -> None:
        """Send an event."""
        await self._send(Message(Topic.EVENT, Event.EMIT, {DATA: data, NAME: event}).encode())

    async def _send(self, data: bytes) -> None:
        while self._socket is None:
            await self._login.wait()
        await self._socket.send(data)

    async def next_event(self) -> tuple[str, str]:
        """Return the next event's name and data."""
        return await self._inbox.receive()

    async def wait_logins(self, count: int) -> None:
        """Wait until it has logged in that often."""
        while self.logins < count:
            await self._login.wait()


def _subscription(event: str) -> bytes:
    return Message(Topic.EVENT, Event.SUBSCRIBE, {CORRELATION: "0", NAMES: event}).encode()


def _decode(data: bytes | str) -> Message:
    if isinstance(data, str):
        raise ValueError("a node of deepstream's binary protocol sends no text")
    return Message.decode(data)
