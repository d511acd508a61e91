"""Binding and accepting."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from proxy.config.address import Address
from proxy.config.model import Listener
from proxy.io.handshakes import Turnstile
from proxy.io.listen import open_listeners
from proxy.io.server_tls import ServerTls
from proxy.io.transport import SocketTransport

from .rig import LIMIT


async def test_settings_change_and_what_waits_stays() -> None:
    config = Listener(bind=Address.parse("127.0.0.1:0"), name="a", backlog=8)
    (listener,) = await open_listeners(config)
    async with listener:
        target = (listener.address.host, listener.address.port)
        with socket.create_connection(target) as first, socket.create_connection(target) as second:
            tls = ServerTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            listener.reconfigure(attrs.evolve(config, name="b", backlog=1), tls)
            peers = set()
            for _ in range(2):
                transport = await listener.accept()
                peers.add(transport.sock.getpeername())
                transport.close()

            assert peers == {first.getsockname(), second.getsockname()}
            assert (listener.config.name, listener.tls) == ("b", tls)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
async def test_accepts_over_tcp(bind: str) -> None:
    (listener,) = await open_listeners(Listener(bind=Address.parse(bind)))
    async with listener:
        with socket.create_connection((listener.address.host, listener.address.port)) as client:
            transport = await listener.accept()
            client.send(b"hello")

            assert await transport.receive_some() == b"hello"
            assert transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            transport.close()


async def test_accepts_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (listener,) = await open_listeners(Listener(bind=Address(path=str(path))))
    async with listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            (await listener.accept()).close()

    assert not path.exists()


async def test_dead_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    config = Listener(bind=Address(path=str(tmp_path / "s")))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(config.bind.path)
    (listener,) = await open_listeners(config)
    async with listener:
        with pytest.raises(OSError) as caught:
            await open_listeners(config)

        assert caught.value.errno == errno.EADDRINUSE


async def test_ordinary_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError):
        await open_listeners(Listener(bind=Address(path=str(path))))

    assert path.read_text() == "precious"


@pytest.mark.parametrize("secure", [True, False])
async def test_who_accepts_waits_behind_handshakes(secure: bool) -> None:
    """With TLS there would be yet another one; without, nobody has to wait for those of others."""
    (listener,) = await open_listeners(Listener(bind=Address.parse("127.0.0.1:0")))
    if secure:
        listener.tls = ServerTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    target = (listener.address.host, listener.address.port)
    turnstile, log = Turnstile(1), list[str]()

    def accepted(transport: SocketTransport) -> None:
        log.append("accepted")
        transport.close()

    async def shake_hands() -> None:
        async with turnstile:
            log.append("handshake")

    with (
        trio.fail_after(LIMIT),
        socket.create_connection(target),
        socket.create_connection(target),
    ):
        async with trio.open_nursery() as nursery:
            async with turnstile:
                for _ in range(3):
                    nursery.start_soon(shake_hands)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(listener.serve, accepted, turnstile)
                await trio.testing.wait_all_tasks_blocked()
                while not secure and len(log) < 2:
                    await trio.testing.wait_all_tasks_blocked()
                waiting = [*log]
            while len(log) < 5:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    assert waiting == ([] if secure else ["accepted"] * 2)
    assert sorted(log) == ["accepted"] * 2 + ["handshake"] * 3
    assert not secure or log[:3] == ["handshake"] * 3


@pytest.fixture
def few_files() -> Iterator[None]:
    """Leave room for a handful of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_recovers_from_running_out_of_descriptors(
    few_files: None, caplog: pytest.LogCaptureFixture
) -> None:
    (listener,) = await open_listeners(Listener(bind=Address.parse("127.0.0.1:0")))
    target = (listener.address.host, listener.address.port)
    served: list[SocketTransport] = []
    ran_out, all_served = trio.Event(), trio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ran_out.set()

    def serve(transport: SocketTransport) -> None:
        served.append(transport)
        transport.close()
        if len(served) == len(clients):
            all_served.set()

    clients: list[socket.socket] = []
    logging.getLogger("tidegate.listen").addHandler(watch := Watch())
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            # The clients take the last descriptors, so that accept finds none.
            while True:
                try:
                    clients.append(socket.create_connection(target))
                except OSError:
                    break
            nursery.start_soon(listener.serve, serve, Turnstile(1))
            await ran_out.wait()
            assert not all_served.is_set()
            for client in clients[: len(clients) // 2]:
                client.close()
            await all_served.wait()
            nursery.cancel_scope.cancel()

    logging.getLogger("tidegate.listen").removeHandler(watch)
    assert caplog.text.count("cannot accept") == 1
    for client in clients:
        client.close()
