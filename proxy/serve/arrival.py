"""How a connection begins, before anything is asked of us: whom it is for, and TLS."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Final

import trio

from proxy.config.address import Address
from proxy.config.model import ListenerProxyProtocol
from proxy.errors import BadClientHello, BadProxyHeader, PlainHttp
from proxy.io.client_tls import has_expired, tls_facts, why_failed
from proxy.io.handshakes import Handshakes, Turnstile
from proxy.io.server_tls import ServerTls
from proxy.io.tls import TlsTransport
from proxy.io.transport import SocketTransport
from proxy.observe.record import Record
from proxy.wire.alert import Alert, alert_record
from proxy.wire.client_hello import ClientHello
from proxy.wire.plaintext import begins_as_http, name_protocol
from proxy.wire.proxy_protocol import MAX_HEADER, Source, own_tlvs, read

#: The client of a connection that was reset before it could be asked for its address.
GONE = "gone:0"
_TOO_MANY: Final = "The TLS handshake was given up: too many others were unfinished."


async def read_source(
    stream: SocketTransport,
    config: ListenerProxyProtocol,
    peer: str,
    record: Record,
    deadline: float,
) -> Source | None:
    """Read the PROXY header, and nothing behind it; `peer` is who has connected.

    None: it may not send one, there is none, or it was not complete by `deadline`.  The record is
    told why; it is told nothing if somebody just looks whether we are there, and hangs up.
    """
    if peer == GONE:
        return None
    if not config.trusts(host_of(peer)):
        record.detail = "This address is not trusted to send a PROXY header."
        return None
    try:
        with trio.move_on_at(deadline):
            return await _receive_header(stream.sock)
    except BadProxyHeader as exc:
        record.detail = str(exc)
    except OSError:
        # Some look with a reset.
        return None
    else:
        record.detail = "The PROXY header was not complete in time."
    return None


async def _receive_header(sock: socket.socket) -> Source | None:
    """Take the header from a socket, whatever pieces it comes in; None: it hung up instead.

    As long as it is not whole, all that lies there belongs to it.
    """
    taken = b""
    while more := await _peek(sock, MAX_HEADER - len(taken)):
        data = taken + more
        if (found := read(data)) is not None:
            sock.recv(found[1] - len(taken))
            return found[0]
        sock.recv(len(more))
        taken = data
    if taken:
        raise BadProxyHeader("It hung up within the PROXY header.")
    return None


async def hangs_up(stream: SocketTransport, deadline: float) -> bool:
    """Wait for the first byte; return whether the stream ended instead, before `deadline`."""
    try:
        with trio.move_on_at(deadline):
            return not await _peek(stream.sock, 1)
    except OSError:
        return True
    return False


async def _peek(sock: socket.socket, most: int) -> bytes:
    """Wait for bytes, and leave them where they are; there are none at the end of the stream."""
    while True:
        try:
            data = sock.recv(most, socket.MSG_PEEK)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        else:
            await trio.lowlevel.checkpoint()
            return data


def describe(
    stream: trio.abc.Stream, source: Source | None, client: str, request_id: str
) -> Source:
    """Return what the PROXY header to a node says of a client's connection.

    `source` is what its own one has said, None where there was none.
    """
    if source is None or source.ends is None:
        source = Source(_ends(stream, client))
    tls = tls_facts(stream.tls, stream.asked_name) if isinstance(stream, TlsTransport) else None
    return source.passed_on(own_tlvs(request_id, tls))


def _ends(stream: trio.abc.Stream, client: str) -> tuple[Address, Address] | None:
    """Return those of the connection itself, None for one that has been reset."""
    if not isinstance(stream, SocketTransport) or client == GONE:
        return None
    name = stream.sock.getsockname()
    if isinstance(name, tuple):
        here = Address(host=name[0].partition("%")[0], port=name[1])
        return Address.parse(client), here
    return Address(), Address(path=name)


async def shake_hands(
    stream: SocketTransport,
    tls: ServerTls,
    record: Record,
    deadline: float,
    handshakes: Handshakes,
) -> TlsTransport | None:
    """Shake hands as TLS's server; None: it failed, or was not complete in time.

    That is `deadline`, and what the listener allows TLS at most.

    The record is told how long it took, or why it failed.

    Raises:
        PlainHttp: the client speaks HTTP in the clear; nothing was sent to it.
    """
    started = trio.current_time()
    deadline = min(deadline, started + tls.handshake_timeout)
    scope = trio.CancelScope(deadline=deadline)
    try:
        with handshakes.counted(scope), scope:
            transport = await _shake_hands(stream, tls, handshakes.turnstile)
            record.tls_time = trio.current_time() - started
            return transport
    except BadClientHello as exc:
        record.token, record.detail = exc.token, why_failed(exc)
        with suppress(OSError):
            stream.send(alert_record(exc.alert))
    except trio.BrokenResourceError as exc:
        record.detail = why_failed(exc.__cause__ or exc)
    else:
        in_time = trio.current_time() < deadline
        record.detail = _TOO_MANY if in_time else "The TLS handshake was not complete in time."
        # Who has had its time, or holds a place that others need, is not waited for.
        stream.part()
    return None


async def _shake_hands(
    stream: SocketTransport, tls: ServerTls, turnstile: Turnstile
) -> TlsTransport:
    """Choose what a client is shown by the name that it asks for, and shake hands.

    The name is read here, not by OpenSSL: of one that is not ASCII, Python's `sni_callback` prints
    a traceback, which nobody should be able to fill a log with.
    """
    hello = await read_hello(stream)
    turnstile.between()
    if not hello.tls:
        raise _not_tls(hello.received)
    context = tls.choose(hello.name)
    if context is None:
        named = f"{hello.name!r}, which it asks for" if hello.name else "those who ask for no name"
        reason = f"No certificate is for {named}."
        raise BadClientHello(reason, alert=Alert.UNRECOGNIZED_NAME)
    transport = TlsTransport(stream.sock, context, received=hello.received)
    transport.asked_name = hello.name
    await transport.do_handshake(turnstile)
    if has_expired(transport.tls, time.time()):
        raise trio.BrokenResourceError("the client's certificate has expired since it was shown")
    return transport


def _not_tls(received: bytearray) -> PlainHttp | BadClientHello:
    if begins_as_http(received):
        return PlainHttp(bytes(received))
    reason = f"It begins with {name_protocol(received)}."
    return BadClientHello(reason, alert=Alert.PROTOCOL_VERSION)


async def read_hello(stream: trio.abc.Stream) -> ClientHello:
    """Read what a client asks for, and nothing behind it.

    Raises:
        BadClientHello: it is malformed.
        trio.BrokenResourceError: the client has hung up.
    """
    hello = ClientHello()
    while not hello.done:
        data = bytes(await stream.receive_some(hello.room))
        if not data:
            raise trio.BrokenResourceError("It hung up before its ClientHello was complete.")
        hello.receive(data)
    return hello


def host_of(client: str) -> str:
    """Return the host of a client's `host:port`; "unix" for one on a unix socket."""
    return client.rpartition(":")[0].strip("[]") or client
