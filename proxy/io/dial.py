"""Connect to a node."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from proxy.config.address import Address
from proxy.errors import (
    DialError,
    DialRefused,
    DialTimeout,
    Full,
    NodeError,
    NodeTlsError,
)

from .node_security import NodeSecurity, why_failed
from .tls import TlsTransport
from .transport import SocketTransport, set_options

#: Failures of this machine, not of the node: no descriptors, memory, ports or, of a unix socket, no
#: place in its backlog.
_OURS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN)
)


#: What a connection to a node begins with, or how that is made of its two ends, our own first.
Header = bytes | Callable[[tuple[Address, Address]], bytes]


async def dial(
    address: Address, security: NodeSecurity | None, *, limit: float, header: Header = b""
) -> SocketTransport:
    """Connect to a node, an IP address or a unix socket, TLS included, within `limit` seconds.

    `header` is what it is sent before all else, TLS too, or makes that of the connection's ends.

    Raises:
        DialError: the node can't be reached; its class says how.
        Full: this machine has no descriptor or port left, or the node's backlog is full.
    """
    with _dial_errors(str(address)), trio.fail_after(limit):
        sock = await _connect(address)
        set_options(sock)
        try:
            if header:
                await _send(sock, header(_ends(sock)) if callable(header) else header)
            if security is None:
                return SocketTransport(sock)
            return await _shake_hands(sock, security)
        except trio.BrokenResourceError as exc:
            sock.close()
            raise NodeTlsError(str(address), why_failed(exc.__cause__)) from exc
        except BaseException:
            sock.close()
            raise


async def _shake_hands(sock: socket.socket, security: NodeSecurity) -> TlsTransport:
    session = security.session(trio.current_time())
    name = security.server_name
    transport = TlsTransport(sock, security.context, name, session=session)
    try:
        await transport.do_handshake()
    except trio.BrokenResourceError:
        security.failed()
        raise
    security.shaken(transport.tls, trio.current_time())
    return transport


async def _connect(address: Address) -> socket.socket:
    if address.path:
        return await _connect_one(socket.AF_UNIX, address.path)
    return await _connect_one(_family(address.host), (address.host, address.port))


@functools.lru_cache(maxsize=256)
def _family(host: str) -> socket.AddressFamily:
    """Return the family of an IP address; a name here would be looked up with all else waiting."""
    version = ipaddress.ip_address(host.partition("%")[0]).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET


async def _connect_one(family: int, target: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        number = sock.connect_ex(target)
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock


def _ends(sock: socket.socket) -> tuple[Address, Address]:
    """Return our end of a connection, and the node's; of unix sockets nothing is known."""
    if sock.family == socket.AF_UNIX:
        return Address(), Address()
    here, there = (
        Address(name[0].partition("%")[0], name[1])
        for name in (sock.getsockname(), sock.getpeername())
    )
    return here, there


async def _send(sock: socket.socket, data: bytes) -> None:
    # A new connection's buffer takes more than a header at once, nearly always.
    while data := data[sock.send(data) :]:
        await trio.lowlevel.wait_writable(sock)


@contextmanager
def _dial_errors(node: str) -> Iterator[None]:
    try:
        yield
    except NodeError:
        raise
    except trio.TooSlowError as exc:
        raise DialTimeout(node) from exc
    except ConnectionRefusedError as exc:
        raise DialRefused(node) from exc
    except TimeoutError as exc:
        raise DialTimeout(node) from exc
    except OSError as exc:
        if exc.errno in _OURS:
            raise Full from exc
        raise DialError(node, f"The node cannot be reached: {exc.strerror}.") from exc
