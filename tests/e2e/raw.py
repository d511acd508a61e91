"""A bare TLS client: what a stranger, or a client that misbehaves, can do to the proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import attrs
import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection
from wsproto.events import Event as WebSocketEvent
from wsproto.events import Request as UpgradeRequest

from .program import deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .harness import Certificate

PATIENCE = 15.0
UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)

# Deepstream messages, length first, then topic, then the topic's own message with its action.
CHALLENGE = bytes.fromhex("06 1002 1a02 0805")
LOGIN = bytes.fromhex("0a 1003 1a06 0802 1202") + b"{}"


def subscription(event: str) -> bytes:
    """The message by which a client subscribes to an event."""
    name = event.encode()
    inner = bytes.fromhex("0803 1a01 30 3a") + bytes([len(name)]) + name
    outer = bytes.fromhex("1004 1a") + bytes([len(inner)]) + inner
    assert len(outer) < 128, "a longer message has a longer length prefix"
    return bytes([len(outer)]) + outer


@attrs.frozen
class Response:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@contextlib.asynccontextmanager
async def open_tls(
    address: str, certificate: Certificate, *, receive_buffer: int | None = None
) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """Connect to host:port, trusting the test's CA only."""
    host, port = address.rsplit(":", 1)
    with trio.socket.socket() as plain:
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        with deadline(PATIENCE, f"a TLS connection to {address}"):
            await plain.connect((host, int(port)))
            context = ssl.create_default_context(cafile=certificate.ca_file)
            stream = trio.SSLStream(
                trio.SocketStream(plain), context, server_hostname=host, https_compatible=True
            )
            await stream.do_handshake()
        yield stream


async def request(
    address: str,
    certificate: Certificate,
    method: str,
    target: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> Response:
    """Make one HTTP request on a connection of its own."""
    machine = h11.Connection(h11.CLIENT)
    length = (("Content-Length", str(len(body))),) if body else ()
    head = h11.Request(
        method=method, target=target, headers=[("Host", "localhost"), *headers, *length]
    )
    async with open_tls(address, certificate) as stream:
        data = machine.send(head) or b""
        data += machine.send(h11.Data(data=body)) or b""
        data += machine.send(h11.EndOfMessage()) or b""
        with deadline(PATIENCE, f"an answer to {method} {target}"):
            await stream.send_all(data)
            return await _response(stream, machine)


async def upgrade(address: str, certificate: Certificate, target: str) -> Response:
    """Ask for a WebSocket that is expected to be refused, and return the answer."""
    return await request(address, certificate, "GET", target, headers=UPGRADE)


async def _response(stream: trio.SSLStream[trio.SocketStream], machine: h11.Connection) -> Response:
    status, headers, body = 0, dict[str, str](), b""
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.Response | h11.InformationalResponse):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
            if status == 101:
                return Response(status, headers, body)
        else:
            return Response(status, headers, body)


@attrs.define(eq=False)
class RawSession:
    """A WebSocket that reads only when it is told to."""

    stream: trio.SSLStream[trio.SocketStream]
    _machine: WSConnection = attrs.Factory(lambda: WSConnection(ConnectionType.CLIENT))
    _events: list[WebSocketEvent] = attrs.Factory(list)

    async def handshake(self, target: str) -> None:
        await self._send(UpgradeRequest(host="localhost", target=target))
        event = await self._next()
        if isinstance(event, RejectConnection):
            raise AssertionError(f"the upgrade of {target} was answered {event.status_code}")
        assert isinstance(event, AcceptConnection), event

    async def login(self) -> None:
        """Say what a deepstream client says first, and read the answers."""
        await self.send(CHALLENGE)
        await self.receive()
        await self.send(LOGIN)
        await self.receive()

    async def send(self, message: bytes) -> None:
        await self._send(BytesMessage(data=message))

    async def receive(self) -> bytes:
        """Read one whole message."""
        message = b""
        while True:
            event = await self._next()
            assert isinstance(event, BytesMessage), event
            message += event.data
            if event.message_finished:
                return message

    async def closed(self) -> int:
        """Read until the end, answer a Close, and return its code: 1006 if there was none."""
        while True:
            event = await self._next()
            if isinstance(event, CloseConnection):
                if self._machine.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
                return event.code

    async def _send(self, event: WebSocketEvent) -> None:
        with deadline(PATIENCE, "the proxy to take what is sent"):
            await self.stream.send_all(self._machine.send(event))

    async def _next(self) -> WebSocketEvent:
        with deadline(PATIENCE, "a WebSocket event"):
            while True:
                while not self._events:
                    self._machine.receive_data(bytes(await self.stream.receive_some()) or None)
                    self._events.extend(self._machine.events())
                event = self._events.pop(0)
                if not isinstance(event, Ping):
                    return event
                await self._send(event.response())


@contextlib.asynccontextmanager
async def open_raw_session(
    address: str,
    certificate: Certificate,
    target: str = "/deepstream",
    *,
    receive_buffer: int | None = None,
) -> AsyncIterator[RawSession]:
    """Open a WebSocket by hand and log it in to deepstream."""
    async with open_tls(address, certificate, receive_buffer=receive_buffer) as stream:
        session = RawSession(stream)
        await session.handshake(target)
        await session.login()
        yield session
