"""Probes of every kind, over real sockets, of nodes that are well and of nodes that are not.

Every test is also one of what stays behind: `connections` checks that the probe has closed its own,
and a block of `listening` ends only when the node has seen that.
"""

from __future__ import annotations

import functools
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
import trio.testing
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
from proxy.io.dial import Header, dial
from proxy.io.node_security import NodeSecurity
from proxy.io.probes import MOST, probe
from proxy.io.transport import SocketTransport
from proxy.testing.node import open_nodes

from .rig import LIMIT

#: A time-out that is waited for, and one that `clock` jumps over.
SOON = 0.05
LATER = LIMIT / 4
CHALLENGE = bytes.fromhex("06 10 02 1a 02 08 05")
ACCEPT = bytes.fromhex("06 10 02 1a 02 08 04")
REJECT = bytes.fromhex("06 10 02 1a 02 08 06")
CONNECT = bytes.fromhex("10 14 00 04 4d 51 54 54 04 02 00 3c 00 08") + b"tidegate"
CONNACK = b"\x20\x02\x00\x00"
DISCONNECT = b"\xe0\x00"
OK = b"HTTP/1.1 200 OK\r\n"
READY = OK + b"Content-Length: 5\r\n\r\nready"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
#: `Scripted` fills in what the key asks for.
UPGRADED = SWITCHING + b"Sec-WebSocket-Accept: <accept>\r\n\r\n"


def frames(*events: Event) -> bytes:
    """Return what a node sends for these."""
    node = Connection(ConnectionType.SERVER)
    return b"".join(node.send(event) for event in events)


TEXT = functools.partial(TextMessage, message_finished=False)
BINARY = functools.partial(BytesMessage, message_finished=False)
PONG = frames(Pong(b"tidegate"))
ACCEPTED = frames(BytesMessage(ACCEPT))

#: What each kind is content with.
CONTENT = {
    "tcp": b"",
    "http": READY,
    "websocket": UPGRADED + PONG,
    "deepstream": UPGRADED + ACCEPTED,
    "mqtt": CONNACK,
}
ASKING = [kind for kind in CONTENT if kind != "tcp"]


@attrs.define
class Scripted:
    """A node with one answer, which it gives in pieces of `size` when it has been asked."""

    answer: bytes
    size: int = 1 << 20
    #: What it does then: nothing until the probe leaves, or one of these.
    hangs_up: bool = False
    resets: bool = False
    #: Whether it keeps its end open though the probe has left.
    clings: bool = False
    received: bytes = b""
    answered: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)
    released: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            while not self.received.endswith((b"\r\n\r\n", CONNECT)):
                if not await self._receive(stream):
                    break
            answer = self.answer.replace(b"<accept>", self._accept())
            for start in range(0, len(answer), self.size):
                await stream.send_all(answer[start : start + self.size])
            self.answered.set()
            if self.resets:
                assert isinstance(stream, trio.SocketStream)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if self.hangs_up:
                assert isinstance(stream, trio.SocketStream)
                await stream.send_eof()
            while await self._receive(stream):
                pass
        self.left.set()
        if self.clings:
            await self.released.wait()

    async def _receive(self, stream: trio.abc.Stream) -> bool:
        data = bytes(await stream.receive_some())
        self.received += data
        return bool(data)

    def _accept(self) -> bytes:
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", self.received)
        return generate_accept_token(key[1]) if key else b""

    @property
    def head(self) -> list[str]:
        """The lines of the request, without the key, which is random."""
        lines = self.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        return [line for line in lines if not line.startswith("Sec-WebSocket-Key")]

    @property
    def events(self) -> list[Event]:
        """What came in frames after the request."""
        protocol = Connection(ConnectionType.SERVER)
        protocol.receive_data(self.received.partition(b"\r\n\r\n")[2])
        return list(protocol.events())


@asynccontextmanager
async def listening(
    node: Scripted, *, path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Address]:
    """Run a node; at the end wait until it has seen that the probe is gone."""
    if path:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        address = Address(path=path)
    else:
        sock = socket.create_server(("127.0.0.1", 0))
        address = Address(host="127.0.0.1", port=sock.getsockname()[1])
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def serve(stream: trio.SocketStream) -> None:
        if tls is None:
            await node.serve(stream)
        else:
            await node.serve(trio.SSLStream(stream, tls, server_side=True, https_compatible=True))

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as serving, trio.open_nursery() as accepting:
            accept = functools.partial(trio.serve_listeners, handler_nursery=serving)
            accepting.start_soon(accept, serve, [listener])
            yield address
            node.released.set()
            accepting.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SocketTransport]]:
    """Collect the probe's ends of its connections; check in the end that all are closed."""
    opened: list[SocketTransport] = []

    async def note(
        address: Address, security: NodeSecurity | None, *, limit: float, header: Header
    ) -> SocketTransport:
        opened.append(await dial(address, security, limit=limit, header=header))
        return opened[-1]

    monkeypatch.setattr(module, "dial", note)
    yield opened
    assert [transport.sock.fileno() for transport in opened] == [-1] * len(opened)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Time that passes, and jumps when it is told to."""
    return trio.testing.MockClock(rate=1.0)


async def jump(clock: trio.testing.MockClock, event: trio.Event) -> None:
    """Let `LATER` go by when something has happened and all that follows from it."""
    await event.wait()
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(LATER)


def settings(kind: str, timeout: float = LIMIT, **others: Any) -> Probe:
    return Probe(kind=kind, timeout=timeout, **others)  # type: ignore[arg-type]


def refusing() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Address(host="127.0.0.1", port=listener.getsockname()[1])


WELL: list[tuple[str, dict[str, Any], bytes]] = [
    *((kind, {}, answer) for kind, answer in CONTENT.items()),
    # http: the status
    ("http", {}, b"HTTP/1.0 302 Found\r\n\r\n"),
    ("http", {"status": (404, 410)}, NOT_FOUND),
    ("http", {}, b"HTTP/1.1 103 Early Hints\r\n\r\n" + READY),
    # http: the body, with a length, in chunks and without an end
    ("http", {"expect": "ready"}, READY),
    ("http", {"expect": "ready"}, CHUNKED + b"4\r\nwe r\r\n3\r\nead\r\n1\r\ny\r\n"),
    ("http", {"expect": "grüß"}, OK + "\r\nso grüß dich".encode()),
    # websocket
    ("websocket", {"send": "hi", "expect": "lo!"}, UPGRADED + frames(TextMessage("hello!")) + PONG),
    (
        "websocket",
        {"expect": "wörld"},
        UPGRADED
        + frames(TextMessage("wör"), BytesMessage(b"ld"), Pong(b"wxyz"), Ping(b"p"))
        + frames(TEXT("hello w"), Ping(b"q"), TEXT("ör"), TextMessage("ld"))
        + frames(TextMessage("more"), Pong(b"other"), Pong(b"tidegate")),
    ),
    ("websocket", {"expect": "ld"}, UPGRADED + frames(BytesMessage(b"\xff world \x00")) + PONG),
    (
        "websocket",
        {"headers": {"Sec-WebSocket-Protocol": "a, b"}},
        SWITCHING + b"Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Accept: <accept>\r\n\r\n" + PONG,
    ),
    # It may say goodbye first, if it has proved well before.
    ("websocket", {}, UPGRADED + PONG + frames(CloseConnection(1001))),
    # deepstream
    ("deepstream", {}, UPGRADED + frames(BINARY(ACCEPT[:3]), Ping(), BytesMessage(ACCEPT[3:]))),
    ("deepstream", {}, UPGRADED + ACCEPTED + frames(TextMessage("more"), CloseConnection(1005))),
    # mqtt: not authorised, but a broker
    ("mqtt", {}, b"\x20\x02\x00\x04"),
    ("mqtt", {}, b"\x20\x02\x00\x05"),
]


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["bytewise", "whole"])
@pytest.mark.parametrize(("kind", "others", "answer"), WELL)
async def test_well(kind: str, others: dict[str, Any], answer: bytes, size: int) -> None:
    async with listening(Scripted(answer, size=size)) as address:
        took = await probe(settings(kind, **others), address, None)

        assert 0 < took < LIMIT


async def test_header_goes_out_first() -> None:
    async with listening(node := Scripted(READY)) as address:
        await probe(settings("http"), address, None, header=b"PROXY UNKNOWN\r\n")

    assert bytes(node.received).startswith(b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n")


@pytest.mark.parametrize("kind", CONTENT)
async def test_through_a_unix_socket(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "node")
    async with listening(node := Scripted(CONTENT[kind]), path=path) as address:
        await probe(settings(kind), address, None)

    assert (b"\r\nHost: localhost\r\n" in node.received) == (kind not in ("tcp", "mqtt"))


@pytest.mark.parametrize("kind", CONTENT)
async def test_over_tls(kind: str, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    async with listening(Scripted(CONTENT[kind]), tls=server_tls) as address:
        await probe(settings(kind), address, NodeSecurity(client_tls, "localhost"))
        with pytest.raises(NodeTlsError, match="not accepted: Hostname mismatch"):
            await probe(settings(kind), address, NodeSecurity(client_tls, "other.example"))


async def test_stand_in_node(connections: list[SocketTransport]) -> None:
    async with open_nodes("a") as (node,):
        address = Address.parse(node.address)
        await probe(settings("tcp"), address, None)
        await probe(settings("http", path="/health-check"), address, None)
        await probe(settings("websocket", path="/deepstream"), address, None)
        await probe(settings("deepstream"), address, None)
        with pytest.raises(BadResponse, match="404"):
            await probe(settings("http"), address, None)
        with pytest.raises(ClosedEarly):
            await probe(settings("deepstream", path="/elsewhere"), address, None)
        node.kill()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DialRefused):
            await probe(settings("deepstream"), address, None)

    assert len(connections) == 6


ILL: list[tuple[str, dict[str, Any], bytes, type[NodeError], str]] = [
    # http
    ("http", {}, NOT_FOUND, BadResponse, "answered with 404"),
    ("http", {"status": (204,)}, READY, BadResponse, "answered with 200"),
    ("http", {}, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", BadResponse, "not HTTP/1.1"),
    ("http", {}, UPGRADED, BadResponse, "answered with 101"),
    ("http", {"expect": "steady"}, READY, BadResponse, "does not contain"),
    ("http", {"expect": "ready"}, CHUNKED + b"zz\r\n", BadResponse, "cut short"),
    # the upgrade, for both kinds alike
    *(
        (kind, {}, answer, error, text)
        for kind in ("websocket", "deepstream")
        for answer, error, text in (
            (NOT_FOUND, NodeUnwilling, "404, not 101"),
            (READY, NodeUnwilling, "200, not 101"),
            (b"\x00garbage\r\n\r\n", BadResponse, "not HTTP/1.1"),
            (
                UPGRADED.replace(b"<accept>", b"wrong"),
                BadUpgradeResponse,
                "wrong Sec-WebSocket-Accept",
            ),
            (SWITCHING + b"\r\n", BadUpgradeResponse, "wrong Sec-WebSocket-Accept"),
            (UPGRADED.replace(b": websocket", b": h2c"), BadUpgradeResponse, "not switch"),
            (
                UPGRADED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a\r\n\r\n"),
                BadUpgradeResponse,
                "subprotocol",
            ),
            (
                UPGRADED.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
                BadUpgradeResponse,
                "extension",
            ),
            # Reserved bits, a mask, a control frame too long, text that is none.
            (UPGRADED + b"\xf2\x00", BadResponse, "malformed: Reserved bit"),
            (UPGRADED + b"\x82\x80abcd", BadResponse, "malformed: .*masked"),
            (UPGRADED + b"\x8a\x7e\x00\x7e", BadResponse, "malformed: Control frame"),
            (UPGRADED + b"\x81\x01\xff", BadResponse, "malformed: 'utf-8'"),
            (UPGRADED + frames(CloseConnection(1013)), NodeError, "closed the WebSocket with 1013"),
            (UPGRADED + b"\x88\x00", NodeError, "closed the WebSocket with 1005"),
        )
    ),
    # deepstream: REJECT, another kind of message, more than it, a part of it
    ("deepstream", {}, UPGRADED + frames(BytesMessage(REJECT)), BadResponse, "not accept"),
    ("deepstream", {}, UPGRADED + frames(TextMessage(ACCEPT.decode())), BadResponse, "not accept"),
    ("deepstream", {}, UPGRADED + frames(BytesMessage(ACCEPT * 2)), BadResponse, "not accept"),
    ("deepstream", {}, UPGRADED + frames(BytesMessage(ACCEPT[:6])), BadResponse, "not accept"),
    # mqtt
    ("mqtt", {}, b"\x20\x02\x00\x01", BadResponse, "return code 1"),
    ("mqtt", {}, b"\x20\x02\x00\x03", BadResponse, "return code 3"),
    ("mqtt", {}, b"\x20\x02\x00\x06", BadResponse, "return code 6"),
    ("mqtt", {}, b"\x20\x03", BadResponse, "not an MQTT CONNACK"),
    ("mqtt", {}, b"H", BadResponse, "not an MQTT CONNACK"),
]


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["bytewise", "whole"])
@pytest.mark.parametrize(("kind", "others", "answer", "error", "text"), ILL)
async def test_ill(
    kind: str, others: dict[str, Any], answer: bytes, error: type[NodeError], text: str, size: int
) -> None:
    """What is wrong is found at once, though the node keeps the connection."""
    async with listening(Scripted(answer, size=size)) as address:
        with pytest.raises(error, match=text) as caught:
            await probe(settings(kind, **others), address, None)

        assert (type(caught.value), caught.value.node) == (error, str(address))
        assert caught.value.detail.endswith(".")


@pytest.mark.parametrize(
    ("kind", "others", "answer", "error", "text"),
    [
        *((kind, {}, b"", ClosedEarly, "before it answered") for kind in ASKING),
        ("http", {}, OK, BadResponse, "not HTTP/1.1"),
        ("http", {}, b"Invalid SSH identification string.", BadResponse, "not HTTP/1.1"),
        ("http", {"expect": "ready"}, READY[:-2], BadResponse, "cut short"),
        ("http", {"expect": "ready"}, OK + b"\r\nread", BadResponse, "does not contain"),
        ("websocket", {}, UPGRADED[:50], BadResponse, "not HTTP/1.1"),
        ("websocket", {}, UPGRADED, NodeError, "without a Close"),
        ("websocket", {"expect": "a"}, UPGRADED + PONG, NodeError, "without a Close"),
        ("deepstream", {}, UPGRADED, NodeError, "without a Close"),
        ("deepstream", {}, UPGRADED + ACCEPTED[:-1], NodeError, "without a Close"),
        ("mqtt", {}, CONNACK[:3], ClosedEarly, "before it answered"),
    ],
)
async def test_hangs_up(
    kind: str, others: dict[str, Any], answer: bytes, error: type[NodeError], text: str
) -> None:
    async with listening(Scripted(answer, hangs_up=True)) as address:
        with pytest.raises(error, match=text) as caught:
            await probe(settings(kind, **others), address, None)

        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("kind", "error"),
    [("http", ClosedEarly), ("deepstream", ClosedEarly), ("mqtt", NodeError)],
)
async def test_breaks_the_connection(kind: str, error: type[NodeError]) -> None:
    async with listening(Scripted(b"", resets=True)) as address:
        with pytest.raises(error) as caught:
            await probe(settings(kind), address, None)

        assert type(caught.value) is error


@pytest.mark.parametrize(
    ("kind", "others", "answer"),
    [
        *((kind, {}, b"") for kind in ASKING),
        ("http", {}, OK),
        ("http", {"expect": "ready"}, READY[:-2]),
        ("websocket", {}, UPGRADED[:50]),
        ("websocket", {}, UPGRADED),
        ("websocket", {}, UPGRADED + frames(Pong(b"other"), TextMessage("tidegate"))),
        ("websocket", {"expect": "ab"}, UPGRADED + frames(Pong(b"ab"), TEXT("ab")) + PONG),
        ("deepstream", {}, UPGRADED),
        ("deepstream", {}, UPGRADED + ACCEPTED[:-1]),
        ("mqtt", {}, CONNACK[:3]),
    ],
)
async def test_falls_silent(
    kind: str, others: dict[str, Any], answer: bytes, clock: trio.testing.MockClock
) -> None:
    async with listening(node := Scripted(answer)) as address, trio.open_nursery() as nursery:
        nursery.start_soon(jump, clock, node.answered)
        with pytest.raises(ResponseTimeout):
            await probe(settings(kind, LATER, **others), address, None)


async def test_is_silent_in_the_tls_handshake(client_tls: ssl.SSLContext) -> None:
    async with listening(Scripted(b"")) as address:
        with pytest.raises(DialTimeout):
            await probe(settings("tcp", SOON), address, NodeSecurity(client_tls, "localhost"))


async def test_is_frozen() -> None:
    """The kernel still takes connections for a process that does nothing any more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        await probe(settings("tcp"), address, None)
        with pytest.raises(ResponseTimeout):
            await probe(settings("deepstream", SOON), address, None)


@pytest.mark.parametrize("kind", CONTENT)
async def test_cannot_be_reached(kind: str, connections: list[SocketTransport]) -> None:
    with pytest.raises(DialRefused):
        await probe(settings(kind), refusing(), None)
    with pytest.raises(DialError):
        await probe(settings(kind), Address(path="/nowhere/node"), None)

    assert not connections


async def test_no_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure of the node."""

    async def fail(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise Full

    monkeypatch.setattr(module, "dial", fail)
    with pytest.raises(Full):
        await probe(settings("tcp"), refusing(), None)


async def test_none_is_no_probe() -> None:
    with pytest.raises(ValueError, match="no probe of kind 'none'"):
        await probe(Probe(), refusing(), None)


@pytest.mark.parametrize(
    ("kind", "target", "own"),
    [
        ("http", "/", ["Connection: close"]),
        (
            "websocket",
            "/",
            ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
        ),
        (
            "deepstream",
            "/deepstream",
            ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
        ),
    ],
)
async def test_request(kind: str, target: str, own: list[str]) -> None:
    async with listening(node := Scripted(CONTENT[kind])) as address:
        await probe(settings(kind), address, None)

    assert node.head == [f"GET {target} HTTP/1.1", f"Host: {address}", *own]

    more: dict[str, Any] = {"path": "/p", "host": "rt.example", "origin": "https://o.example"}
    more["headers"] = {"X-Token": "a: b", "Cookie": "c=d"}
    async with listening(node := Scripted(CONTENT[kind])) as address:
        await probe(settings(kind, **more), address, None)

    assert node.head == [
        "GET /p HTTP/1.1",
        "Host: rt.example",
        "Origin: https://o.example",
        "X-Token: a: b",
        "Cookie: c=d",
        *own,
    ]


async def test_zone_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(node := Scripted(READY)) as address:

        async def elsewhere(
            _: Address, __: None, *, limit: float, header: Header
        ) -> SocketTransport:
            return await dial(address, None, limit=limit)

        monkeypatch.setattr(module, "dial", elsewhere)
        await probe(settings("http"), Address(host="fe80::1%eth0", port=6020), None)

    assert "Host: [fe80::1]:6020" in node.head


async def test_what_is_said_in_frames() -> None:
    answer = UPGRADED + frames(Ping(b"p"), TextMessage("b")) + PONG
    async with listening(node := Scripted(answer)) as address:
        await probe(settings("websocket", send="ä", expect="b"), address, None)

    bye = CloseConnection(1000, "")
    assert node.events == [TextMessage("ä"), Pong(b"p"), Ping(b"tidegate"), bye]

    async with listening(node := Scripted(CONTENT["deepstream"])) as address:
        await probe(settings("deepstream"), address, None)

    assert node.events == [BytesMessage(CHALLENGE), bye]


async def test_what_is_said_to_a_broker() -> None:
    async with listening(node := Scripted(CONNACK)) as address:
        await probe(settings("mqtt"), address, None)

    assert node.received == CONNECT + DISCONNECT


@pytest.mark.parametrize("kind", ["http", "websocket", "deepstream"])
async def test_headers_that_cannot_be_sent(kind: str) -> None:
    async with listening(Scripted(CONTENT[kind])) as address:
        with pytest.raises(NodeError, match="cannot be sent") as caught:
            await probe(settings(kind, headers={"Authorization": " s3cret"}), address, None)

        assert "s3cret" not in caught.value.detail


@pytest.mark.parametrize(("start", "found"), [(MOST - 5, True), (MOST - 4, False)])
async def test_of_a_body_so_much_is_read(start: int, found: bool) -> None:
    body = b"." * start + b"ready" + b"." * MOST
    node = Scripted(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    async with listening(node) as address:
        if found:
            await probe(settings("http", expect="ready"), address, None)
        else:
            with pytest.raises(BadResponse, match="does not contain"):
                await probe(settings("http", expect="ready"), address, None)


@pytest.mark.parametrize(("start", "found"), [(MOST // 2, True), (MOST, False)])
@pytest.mark.parametrize("pieces", [1, 64])
async def test_of_frames_so_much_is_read(pieces: int, start: int, found: bool) -> None:
    chatter = frames(*[BytesMessage(b"." * (start // pieces))] * pieces)
    async with listening(
        Scripted(UPGRADED + chatter + frames(TextMessage("ready")) + PONG)
    ) as address:
        if found:
            await probe(settings("websocket", expect="ready"), address, None)
        else:
            with pytest.raises(BadResponse, match="too much"):
                await probe(settings("websocket", expect="ready"), address, None)


@pytest.mark.parametrize("kind", CONTENT)
async def test_dialling_is_part_of_the_time(
    kind: str, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slowly(address: Address, _: None, *, limit: float, header: Header) -> SocketTransport:
        transport = await dial(address, None, limit=limit)
        clock.jump(LATER)
        return transport

    monkeypatch.setattr(module, "dial", slowly)
    async with listening(Scripted(CONTENT[kind])) as address:
        assert LATER <= await probe(settings(kind), address, None) < LIMIT
        if kind in ASKING:
            with pytest.raises(ResponseTimeout):
                await probe(settings(kind, LATER), address, None)


@pytest.mark.parametrize(("goodbye", "limit"), [(LATER, LIMIT), (LIMIT, LATER)])
@pytest.mark.parametrize("kind", ["websocket", "deepstream", "mqtt"])
async def test_goodbye_is_short_and_no_part_of_the_time(
    kind: str,
    goodbye: float,
    limit: float,
    clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GOODBYE", goodbye)
    node = Scripted(CONTENT[kind], clings=True)
    async with listening(node) as address, trio.open_nursery() as nursery:
        nursery.start_soon(jump, clock, node.left)
        started = trio.current_time()
        took = await probe(settings(kind, limit), address, None)

        assert took < LATER <= trio.current_time() - started


async def test_goodbye_that_cannot_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    send = SocketTransport.send

    def fail(self: SocketTransport, data: bytes) -> bool:
        if data == DISCONNECT:
            raise BrokenPipeError
        return send(self, data)

    monkeypatch.setattr(SocketTransport, "send", fail)
    async with listening(Scripted(CONNACK)) as address:
        assert await probe(settings("mqtt"), address, None) < LIMIT


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        *((kind, b"") for kind in ASKING),
        ("http", OK),
        ("websocket", UPGRADED),
        ("deepstream", UPGRADED),
        ("deepstream", UPGRADED + ACCEPTED),
        ("mqtt", CONNACK),
    ],
)
async def test_cancelled(kind: str, answer: bytes, connections: list[SocketTransport]) -> None:
    """While it waits for an answer, and while it says goodbye."""
    parting = answer == CONTENT[kind]
    async with listening(node := Scripted(answer, clings=parting)) as address:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe, settings(kind), address, None)
            await (node.left if parting else node.answered).wait()
            nursery.cancel_scope.cancel()

        assert [transport.sock.fileno() for transport in connections] == [-1]
