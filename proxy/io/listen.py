"""Bind addresses and accept connections.

Trio's `serve_listeners` does the accepting: it sleeps on EMFILE and its like, and ignores what goes
wrong with a single connection before it is ours.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import trio

from proxy.config.address import Address
from proxy.config.model import Listener

from .transport import SocketTransport, adopt


class TransportListener(trio.abc.Listener[SocketTransport]):
    """A bound address that hands out transports; `address` is where it really listens."""

    def __init__(self, sockets: trio.SocketListener, config: Listener) -> None:
        self._sockets = sockets
        self.config = config
        self.address = _bound_address(sockets.socket)

    async def accept(self) -> SocketTransport:
        return SocketTransport(adopt(await self._sockets.accept()))

    async def aclose(self) -> None:
        try:
            await self._sockets.aclose()
        finally:
            if self.address.path:
                with suppress(OSError):
                    os.unlink(self.address.path)


async def open_listeners(config: Listener) -> list[TransportListener]:
    """Bind and listen: one socket for each address that the configured host stands for.

    Raises:
        OSError: the address is in use, not allowed or not this machine's.
    """
    if config.bind.path:
        found = [_open_unix(config.bind.path, config.backlog)]
    else:
        found = await trio.open_tcp_listeners(
            config.bind.port, host=config.bind.host, backlog=config.backlog
        )
    return [TransportListener(sockets, config) for sockets in found]


def _open_unix(path: str, backlog: int) -> trio.SocketListener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale(path: str) -> None:
    """Remove a socket file that a dead process left; one that somebody answers on stays."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except OSError:
                return


def _bound_address(sock: trio.socket.SocketType) -> Address:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address(path=name)
    return Address(host=name[0], port=name[1])
