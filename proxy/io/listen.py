"""Bind addresses and accept connections.

Accepting is as in Trio's `serve_listeners`, but over the bare socket: its wrappers, and its closing
of streams that are closed already, were a twentieth of what a session's beginning and end cost.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import trio

from proxy.config.address import Address
from proxy.config.model import Listener

from .handshakes import Turnstile
from .server_tls import ServerTls
from .transport import SocketTransport, set_options, take

LOG: Final = logging.getLogger("tidegate.listen")
#: What `accept` says when this machine has no room for another connection.
_NO_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
#: How long to leave connections in the backlog then.
_PAUSE: Final = 0.1
#: What it says of its own socket; all else is one connection's trouble, before it was ours.
_BROKEN: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK))


class TransportListener(trio.abc.Listener[SocketTransport]):
    """A bound address that hands out transports; `address` is where it really listens."""

    def __init__(self, sock: socket.socket, config: Listener) -> None:
        self._sock = sock
        self.config = config
        #: What its connections shake hands with.
        self.tls: ServerTls | None = None
        self.address = _bound_address(sock)

    def reconfigure(self, config: Listener, tls: ServerTls | None) -> None:
        """Serve what is accepted from now on in another way; what waits in the backlog stays."""
        if config.backlog != self.config.backlog:
            self._sock.listen(config.backlog)
        self.config, self.tls = config, tls

    async def accept(self) -> SocketTransport:
        """Wait for a connection.

        It waits even if there is one already: a flood of them has to leave turns to the others.

        Raises:
            OSError: no descriptor or memory is left for it.
            trio.ClosedResourceError: the listener was closed.
        """
        while True:
            if self._sock.fileno() < 0:
                raise trio.ClosedResourceError("this listener was closed")
            await trio.lowlevel.wait_readable(self._sock)
            try:
                sock, _ = self._sock.accept()
            except OSError as exc:
                if exc.errno in _NO_ROOM or exc.errno in _BROKEN:
                    raise
            else:
                sock.setblocking(False)
                set_options(sock)
                return SocketTransport(sock)

    async def serve(
        self, start: Callable[[SocketTransport], object], turnstile: Turnstile
    ) -> NoReturn:
        """Give every connection to `start` until cancelled, then close.

        As long as handshakes wait at the `turnstile`, it waits there too before it brings another.
        """
        full = False
        async with self:
            while True:
                if self.tls is not None and turnstile.crowded:
                    async with turnstile:
                        pass
                try:
                    transport = await self.accept()
                except OSError as exc:
                    if exc.errno not in _NO_ROOM:
                        raise
                    if not full:
                        LOG.error("cannot accept", extra={"reason": exc.strerror})
                    full = True
                    await trio.sleep(_PAUSE)
                else:
                    full = False
                    start(transport)

    def close(self) -> None:
        """Close at once; the file of a unix socket goes with it."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            if self.address.path:
                with suppress(OSError):
                    os.unlink(self.address.path)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


async def open_listeners(config: Listener) -> list[TransportListener]:
    """Bind and listen: one socket for each address that the configured host stands for.

    Raises:
        OSError: the address is in use, not allowed or not this machine's.
    """
    if config.bind.path:
        found = [_open_unix(config.bind.path, config.backlog)]
    else:
        bound = await trio.open_tcp_listeners(
            config.bind.port, host=config.bind.host, backlog=config.backlog
        )
        found = [take(listener.socket) for listener in bound]
    return [TransportListener(sock, config) for sock in found]


def _open_unix(path: str, backlog: int) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


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


def _bound_address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address(path=name)
    return Address(host=name[0], port=name[1])
