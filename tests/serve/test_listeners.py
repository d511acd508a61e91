"""Which listeners are bound, and what becomes of them with another configuration."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from proxy.config.address import Address
from proxy.config.model import Listener
from proxy.io.handshakes import Turnstile
from proxy.io.listen import TransportListener
from proxy.io.server_tls import ServerTls
from proxy.io.transport import SocketTransport
from proxy.serve.listeners import Listeners, keyed

from .world import read_all

LIMIT = 10.0


def listener(bind: str = "127.0.0.1:0", name: str = "", backlog: int = 100) -> Listener:
    return Listener(bind=Address.parse(bind), name=name, backlog=backlog)


class Rig:
    """Listeners that tell each connection which of them it has come to."""

    def __init__(self) -> None:
        self.listeners = Listeners(Turnstile(1))

    async def reload(self, *configs: Listener, tls: ServerTls | None = None) -> None:
        opened = await self.listeners.bind(configs)
        self.listeners.switch(configs, [tls] * len(configs), opened)

    def take(self, listener: TransportListener, transport: SocketTransport) -> None:
        secure = "" if listener.tls is None else "s"
        transport.send(f"{listener.config.name}{secure}".encode())
        transport.close()

    def connect(self, index: int = 0) -> socket.socket:
        """Connect, which the backlog is enough for."""
        address = self.listeners.bound[index].address
        if address.path:
            client = socket.socket(socket.AF_UNIX)
            client.connect(address.path)
            return client
        return socket.create_connection((address.host, address.port))

    @property
    def bound(self) -> list[Address]:
        return [bound.address for bound in self.listeners.bound]


async def heard(client: socket.socket) -> str:
    """Return which listener it has come to, as that was when it was accepted."""
    client.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
        return (await read_all(stream)).decode()


@asynccontextmanager
async def open_rig(*configs: Listener, accept: bool = True) -> AsyncIterator[Rig]:
    rig = Rig()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await rig.reload(*configs)
            try:
                if accept:
                    rig.listeners.accept(nursery, rig.take)
                    await trio.testing.wait_all_tasks_blocked()
                yield rig
            finally:
                nursery.cancel_scope.cancel()
                rig.listeners.close()


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        # By address, whatever else is said.
        (["1.1.1.1:1 a"], ["1.1.1.1:1 b"], {(0, 0)}),
        (["1.1.1.1:1 a", "unix:/s b"], ["unix:/s b", "1.1.1.1:1 a"], {(0, 1), (1, 0)}),
        (["1.1.1.1:1 a"], ["1.1.1.1:2 a"], set()),
        # Where the port is the kernel's, by name.
        (["1.1.1.1:0 a", "1.1.1.1:0 b"], ["1.1.1.1:0 b"], {(1, 0)}),
        (["1.1.1.1:0 a"], ["1.1.1.2:0 a"], set()),
        # Without one, in their order.
        (["1.1.1.1:0", "1.1.1.1:0"], ["1.1.1.1:0"], {(0, 0)}),
        (["1.1.1.1:0", "1.1.1.1:0 a"], ["1.1.1.1:0", "1.1.1.1:0"], {(0, 0)}),
    ],
)
def test_what_a_listener_is_known_by(
    before: list[str], after: list[str], kept: set[tuple[int, int]]
) -> None:
    one, other = (
        [*keyed([listener(bind, name) for bind, _, name in (text.partition(" ") for text in all_)])]
        for all_ in (before, after)
    )

    assert len(one) == len(before)
    assert {(one.index(key), other.index(key)) for key in one if key in other} == kept


async def test_unchanged_address_keeps_its_socket_and_what_waits_there() -> None:
    async with open_rig(listener(name="a"), accept=False) as rig:
        first = rig.connect()
        fixed = listener(str(rig.bound[0]), name="b", backlog=200)
        # By an address with a port it is another one.
        with pytest.raises(OSError, match="in use"):
            await rig.reload(fixed)
        await rig.reload(listener(name="a", backlog=200), listener(name="b"))
        assert rig.bound[0].port == first.getpeername()[1]
        async with trio.open_nursery() as nursery:
            rig.listeners.accept(nursery, rig.take)

            assert await heard(first) == "a"
            assert await heard(rig.connect(1)) == "b"
            nursery.cancel_scope.cancel()


async def test_what_else_is_said_is_for_those_who_come_then() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{probe.getsockname()[1]}"
    async with open_rig(listener(bind, name="a")) as rig:
        assert await heard(rig.connect()) == "a"
        tls = ServerTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        await rig.reload(listener(bind, name="b"), tls=tls)
        assert await heard(rig.connect()) == "bs"
        assert [bound.tls for bound in rig.listeners.bound] == [True]
        await rig.reload(listener(bind, name="b", backlog=1))
        assert await heard(rig.connect()) == "b"


async def test_new_ones_accept_and_removed_ones_do_not() -> None:
    async with open_rig(listener(name="a"), listener(name="b")) as rig:
        gone, stays = rig.bound
        await rig.reload(listener(name="b"), listener(name="c"))
        # At once: there is no moment in which a client would wait in vain.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((gone.host, gone.port))
        assert rig.bound[0] == stays
        assert [await heard(rig.connect(index)) for index in (0, 1)] == ["b", "c"]


async def test_unix_socket_goes_with_its_file_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s"
    unix = listener(f"unix:{path}", name="u")
    async with open_rig(listener(name="a"), unix) as rig:
        inode = path.stat().st_ino
        await rig.reload(listener(name="a"), attrs.evolve(unix, name="v"))
        assert path.stat().st_ino == inode
        assert await heard(rig.connect(1)) == "v"
        await rig.reload(listener(name="a"))
        assert not path.exists()
        await rig.reload(listener(name="a"), unix)
        assert await heard(rig.connect(1)) == "u"


async def test_nothing_is_bound_if_one_cannot_be(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_rig(listener(name="a")) as rig:
            with pytest.raises(OSError, match=f"^.*cannot bind {address}: ") as caught:
                await rig.reload(listener(f"unix:{tmp_path}/s", name="u"), listener(address))

            assert caught.value.errno == errno.EADDRINUSE
            assert "reload" not in str(caught.value)
            assert not (tmp_path / "s").exists()
            assert await heard(rig.connect()) == "a"


@pytest.mark.parametrize("one", ["0.0.0.0", "127.0.0.1"])
async def test_address_within_one_that_goes(one: str) -> None:
    other = "127.0.0.1" if one == "0.0.0.0" else "0.0.0.0"
    async with open_rig(listener(f"{one}:0", name="a"), accept=False) as rig:
        port = rig.bound[0].port
        await rig.reload()
        await rig.reload(listener(f"{one}:{port}"))
        what = (
            f"cannot bind {other}:{port}: Address already in use by {one}:{port}, which is closed"
        )
        with pytest.raises(OSError, match=re.escape(what)):
            await rig.reload(listener(f"{other}:{port}"))
        # As it says.
        await rig.reload()
        await rig.reload(listener(f"{other}:{port}"))
