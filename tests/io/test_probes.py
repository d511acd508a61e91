"""Probes of every kind, over real sockets, of nodes that are well and of nodes that are not.

Every test is also one of what stays behind: `connections` finds whether the probe closed its own,
and a `Scripted` node ends only when the probe has hung up.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import attrs
import pytest
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import generate_accept_token

from proxy.config.address import Address
from proxy.config.upstream import Probe
from proxy.errors import (
    BadResponse,
    BadUpgradeResponse,
    ClosedEarly,
    DialError,
    DialRefused,
    DialTimeout,
    Full,
    NodeError,
    NodeTlsError,
    NodeUnwilling,
    ResponseTimeout,
)
from proxy.io import probes as module
from proxy.io.dial import NodeSecurity, dial
from proxy.io.probes import MOST, probe
from proxy.io.transport import SocketTransport
from proxy.testing.node import open_nodes

from .rig import LIMIT

#: A time-out that is waited for.
SOON = 0.1
CHALLENGE = bytes.fromhex("06 10 02 1a 02 08 05")
ACCEPT = bytes.fromhex("06 10 02 1a 02 08 04")
CONNECT = bytes.fromhex("10 14 00 04 4d 51 54 54 04 02 00 3c 00 08") + b"tidegate"
DISCONNECT = b"\xe0\x00"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: <accept>\r\n\r\n"
)
KINDS = ["tcp", "http", "websocket", "deepstream", "mqtt"]
#: The kinds that ask for something.
ASKING = KINDS[1:]


def frames(*events: Event) -> bytes:
    """Return what a node sends for these."""
    node = Connection(ConnectionType.SERVER)
    return b"".join(node.send(event) for event in events)


PONG = frames(Pong(b"tidegate"))
ACCEPTED = frames(BytesMessage(ACCEPT))
GOOD_ANSWERS = {
    "tcp": b"",
    "http": OK,
    "websocket": UPGRADED + PONG,
    "deepstream": UPGRADED + ACCEPTED,
    "mqtt": b"\x20\x02\x00\x00",
}


@attrs.define
class Scripted:
    """A node that has one answer, in pieces of `size`, once it has been asked something."""

    answer: bytes
    size: int = 1 << 20
    hangs_up: bool = False
    #: Whether it keeps the connection open when the probe has hung up.
    clings: bool = False
    received: bytes = b""
    #: Of the probe, by this node: it has got the whole answer, it hung up, it may go.
    answered: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)
    released: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        with suppress(trio.BrokenResourceError):
            while not self.received.endswith((b"\r\n\r\n", CONNECT)):
                if not await self._receive(stream):
                    break
            answer = self.answer.replace(b"<accept>", self._accept())
            for start in range(0, len(answer), self.size):
                await stream.send_all(answer[start : start + self.size])
            self.answered.set()
            if self.hangs_up:
                await stream.send_eof()
            while await self._receive(stream):
                pass
        self.left.set()
        if self.clings:
            await self.released.wait()

    async def serve_tls(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            await self.serve(trio.StapledStream(stream, stream))  # type: ignore[arg-type]

    async def _receive(self, stream: trio.abc.ReceiveStream) -> bool:
        data = await stream.receive_some()
        self.received += data
        return bool(data)

    def _accept(self) -> bytes:
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", self.received)
        return generate_accept_token(key[1]) if key else b""

    @property
    def head(self) -> list[str]:
        return self.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")

    @property
    def events(self) -> list[Event]:
        """What came in frames, after the head."""
        protocol = Connection(ConnectionType.SERVER)
        protocol.receive_data(self.received.partition(b"\r\n\r\n")[2])
        return list(protocol.events())
