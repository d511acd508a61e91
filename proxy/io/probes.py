"""Ask a node how it is, once, in one of several ways.

Theory.  A probe is worth what it shares with the requests that it speaks for: it dials as they do,
reads HTTP as they do, and refuses a 101 that a session would refuse.  A deepstream node is silent
until it is spoken to, so it is asked what its clients ask first, a challenge.

Each kind is an *exchange* over a connection that is there.  It raises what is wrong, or returns the
last words to say when all is well; what they take is no part of the time that the node took.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import h11
import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import generate_nonce

from proxy.config.address import Address
from proxy.config.upstream import Probe
from proxy.errors import (
    BadResponse,
    BadUpgrade,
    ClosedEarly,
    NodeError,
    NodeUnwilling,
    ResponseTimeout,
)
from proxy.wire.handshake import check_answer, check_upgrade
from proxy.wire.head import Response
from proxy.wire.rules import Opcode

from .dial import Header, dial
from .node_http import NodeHttp
from .node_security import NodeSecurity
from .transport import SocketTransport, hang_up

#: How much is read for what is expected: of a body, or of all that comes after a 101.
MOST: Final = 64 * 1024
#: How long a node that has proved well may take over its goodbye.
GOODBYE: Final = 0.5
_PING: Final = b"tidegate"
_UPGRADE: Final = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
)
#: deepstream's messages CONNECTION/CHALLENGE and CONNECTION/ACCEPT.
_CHALLENGE: Final = bytes.fromhex("06 10 02 1a 02 08 05")
_ACCEPT: Final = bytes.fromhex("06 10 02 1a 02 08 04")
#: MQTT 3.1.1 section 3.1: clean session, keep alive 60, the client's name and nothing else.
_CONNECT: Final = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08tidegate"
_CONNACK: Final = b"\x20\x02"
_DISCONNECT: Final = b"\xe0\x00"
#: Accepted; bad user name or password; not authorised: only a broker that works knows the latter.
_ALIVE: Final = (0, 4, 5)


async def probe(
    config: Probe, address: Address, security: NodeSecurity | None, *, header: Header = b""
) -> float:
    """Ask a node, all within `config.timeout`; return the seconds until it had proved well.

    `header` goes out before all else, see `dial`.

    Raises:
        NodeError: it did not; the detail says what was wrong.
        Full: this machine has no descriptor left, which says nothing about the node.
    """
    if (exchange := _EXCHANGES.get(config.kind)) is None:
        raise ValueError(f"there is no probe of kind {config.kind!r}")
    node, started = str(address), trio.current_time()
    deadline = started + config.timeout
    transport = await dial(address, security, limit=config.timeout, header=header)
    try:
        with trio.fail_at(deadline):
            last_words = await exchange(config, address, transport)
        took = trio.current_time() - started
        if last_words:
            # So that the node hears them, whatever it may still be sending itself.
            with trio.move_on_at(deadline), trio.move_on_after(GOODBYE), suppress(OSError):
                transport.send(last_words)
                await hang_up(transport)
        return took
    except trio.TooSlowError as exc:
        raise ResponseTimeout(node) from exc
    except trio.BrokenResourceError as exc:
        raise NodeError(node, "The node broke the connection.") from exc
    except (h11.LocalProtocolError, BadUpgrade) as exc:
        # What they say may quote a header, which may hold secrets.
        raise NodeError(node, "The probe's host, origin or headers cannot be sent.") from exc
    finally:
        transport.close()


async def _tcp(_: Probe, __: Address, ___: SocketTransport) -> bytes:
    """Do nothing: that there is a connection, with TLS on it, is all this kind asks for."""
    return b""


async def _http(config: Probe, address: Address, transport: SocketTransport) -> bytes:
    node = NodeHttp(transport, str(address))
    response = await _ask(node, _request(config, address, (b"Connection", b"close")))
    if response.status_code not in (config.status or range(200, 400)):
        raise BadResponse(node.node, f"The node answered with {response.status_code}.")
    if config.expect:
        await _find(node, config.expect.encode())
    return b""


async def _find(node: NodeHttp, expected: bytes) -> None:
    """Read a body until something occurs in it."""
    body = bytearray()
    while len(body) < MOST and (piece := await node.read_body()):
        start = max(0, len(body) - len(expected) + 1)
        body += piece
        if body.find(expected, start, MOST) >= 0:
            return
    raise BadResponse(node.node, "The node's answer does not contain what is expected.")


def _request(config: Probe, address: Address, *own: tuple[bytes, bytes]) -> h11.Request:
    headers = [(b"Host", (config.host or address.authority).encode())]
    if config.origin:
        headers.append((b"Origin", config.origin.encode()))
    headers += [(name.encode(), value.encode()) for name, value in config.headers.items()]
    return h11.Request(method=b"GET", target=config.target, headers=[*headers, *own])


async def _ask(node: NodeHttp, request: h11.Request) -> Response:
    await node.ask(request.method, request.target, request.headers.raw_items())
    return await node.read_response()


async def _websocket(config: Probe, address: Address, transport: SocketTransport) -> bytes:
    session = await _upgrade(config, address, transport)
    if config.send:
        await session.send(TextMessage(config.send))
    if config.expect:
        while config.expect.encode() not in (await session.receive())[1]:
            pass
    await session.send(Ping(_PING))
    while await session.next_event() != Pong(_PING):
        pass
    return session.goodbye()


async def _deepstream(config: Probe, address: Address, transport: SocketTransport) -> bytes:
    session = await _upgrade(config, address, transport)
    await session.send(BytesMessage(_CHALLENGE))
    if await session.receive() != (Opcode.BINARY, _ACCEPT):
        raise BadResponse(str(address), "The node did not accept deepstream's challenge.")
    return session.goodbye()


async def _upgrade(config: Probe, address: Address, transport: SocketTransport) -> _Session:
    node = NodeHttp(transport, str(address))
    request = _request(config, address, *_UPGRADE, (b"Sec-WebSocket-Key", generate_nonce()))
    upgrade = check_upgrade(b"GET", request.target, b"1.1", request.headers.raw_items(), None)
    response = await _ask(node, request)
    if response.status_code != 101:
        raise NodeUnwilling(node.node, f"The node answered with {response.status_code}, not 101.")
    check_answer(upgrade, response.headers, node.node)
    return _Session(transport, node.node, node.early_data())


class _Session:
    """The client's end of a WebSocket that receives `MOST` bytes and no more."""

    def __init__(self, transport: SocketTransport, node: str, early: bytes) -> None:
        self._transport = transport
        self._node = node
        self._protocol = Connection(ConnectionType.CLIENT, trailing_data=early[:MOST])
        self._room = MOST - len(early[:MOST])

    async def send(self, event: Event) -> None:
        await self._transport.send_all(self._protocol.send(event))

    async def receive(self) -> tuple[Opcode, bytes]:
        """Return the kind and the payload of the next message, whole."""
        payload = bytearray()
        while True:
            event = await self.next_event()
            if isinstance(event, TextMessage | BytesMessage):
                data = event.data
                payload += data.encode() if isinstance(data, str) else data
                if event.message_finished:
                    kind = Opcode.TEXT if isinstance(data, str) else Opcode.BINARY
                    return kind, bytes(payload)

    async def next_event(self) -> Event:
        """Return the next pong or piece of a message, answering pings meanwhile."""
        while True:
            # One at a time: the protocol's state is that of the last event which was taken.
            event = next(self._protocol.events(), None)
            if event is None:
                await self._receive_some()
            elif isinstance(event, Ping):
                await self.send(event.response())
            elif not isinstance(event, CloseConnection):
                return event
            elif self._protocol.state is ConnectionState.REMOTE_CLOSING:
                raise NodeError(self._node, f"The node closed the WebSocket with {event.code:d}.")
            else:
                raise BadResponse(self._node, f"The node's frames are malformed: {event.reason}.")

    async def _receive_some(self) -> None:
        if not self._room:
            raise BadResponse(self._node, "The node sends too much without what is expected.")
        data = await self._transport.receive_some(self._room)
        if not data:
            raise NodeError(self._node, "The node hung up without a Close.")
        self._room -= len(data)
        self._protocol.receive_data(data)

    def goodbye(self) -> bytes:
        """Return the frame to send last."""
        return self._protocol.send(CloseConnection(1000))


async def _mqtt(_: Probe, address: Address, transport: SocketTransport) -> bytes:
    await transport.send_all(_CONNECT)
    answer = b""
    while len(answer) < 4:
        data = await transport.receive_some(4 - len(answer))
        if not data:
            raise ClosedEarly(str(address))
        answer += data
        if not answer.startswith(_CONNACK[: len(answer)]):
            raise BadResponse(str(address), "The node's answer is not an MQTT CONNACK.")
    if answer[3] not in _ALIVE:
        raise BadResponse(str(address), f"The node refused MQTT with return code {answer[3]}.")
    return _DISCONNECT


_EXCHANGES: Final = {
    "tcp": _tcp,
    "http": _http,
    "websocket": _websocket,
    "deepstream": _deepstream,
    "mqtt": _mqtt,
}
