"""A peer that is cut off, with nothing to say so: its packets are lost in a network namespace."""

from __future__ import annotations

import shutil
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import h11
import pytest
import trio

from proxy.testing.websocket import Closed, WebSocket
from proxy.wire.tunnel import Side

from .conftest import require
from .namespaces import Machine, open_machines, possible
from .program import DEADLINE, Program, open_background, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

INTERVAL, TIMEOUT = 0.4, 0.6
#: Beyond the deadline: what this machine may be busy with.
SLACK = 0.5

CONFIG = f"""
log.format = "json"
timeouts.close = 0.3
[[listeners]]
bind = "0.0.0.0:8080"
[[routes]]
path = "/deepstream"
websocket = true
upstream = "node"
ping = {{ client = {INTERVAL}, node = {INTERVAL}, timeout = {TIMEOUT} }}
[upstreams.node]
nodes = ["10.99.1.2:6020"]
"""


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """A machine for the client and one for the node; the proxy is on the hub."""
    require(shutil.which("ip"), "iproute2 is not installed")
    if not possible():
        # Unlike a program that is missing, this cannot be had by installing something.
        pytest.skip("network namespaces cannot be made by this user here")
    with open_machines(2) as made:
        yield made


async def accept(listener: trio.SocketListener) -> WebSocket:
    """Take one session, as a node does."""
    stream = await listener.accept()
    http = h11.Connection(h11.SERVER)
    while (request := http.next_event()) is h11.NEED_DATA:
        http.receive_data(bytes(await stream.receive_some()))
    assert isinstance(request, h11.Request)
    return await WebSocket.accept(stream, list(request.headers), request.target)


async def connect(machine: Machine) -> WebSocket:
    sock = trio.socket.from_stdlib_socket(machine.socket())
    await sock.connect((machine.hub_address, 8080))
    return await WebSocket.connect(trio.SocketStream(sock), machine.hub_address, "/deepstream")


@asynccontextmanager
async def open_proxy(hub: str, folder: Path) -> AsyncIterator[Program]:
    file = folder / "tidegate.toml"
    file.write_text(CONFIG)
    run = [sys.executable, "-m", "proxy", "run", "-c", str(file)]
    async with open_program("tidegate", ["ip", "netns", "exec", hub, *run]) as program:
        await program.until_ready()
        yield program


@pytest.mark.parametrize("side", Side)
async def test_dead_peer_is_found(side: Side, machines: list[Machine], tmp_path: Path) -> None:
    server = machines[Side.NODE].socket()
    server.bind(("", 6020))
    server.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server))
    async with listener, open_proxy(machines[0].hub, tmp_path) as proxy, open_background() as tasks:
        sockets: list[WebSocket] = []

        async def serve() -> None:
            sockets.append(await accept(listener))

        tasks.start_soon(serve)
        client = await connect(machines[Side.CLIENT])
        while not sockets:
            await trio.lowlevel.checkpoint()
        machines[side].cut()
        cut = trio.current_time()
        survivor = sockets[0] if side is Side.CLIENT else client
        async with client.stream, sockets[0].stream:
            with trio.fail_after(DEADLINE), pytest.raises(Closed) as caught:
                await survivor.receive()
        took = trio.current_time() - cut

        assert TIMEOUT * 0.9 < took < INTERVAL + TIMEOUT + SLACK
        reason = "" if side is Side.CLIENT else "node is silent"
        assert (caught.value.code, caught.value.reason) == (1001, reason)
        await proxy.until(lambda: proxy.named("exchange"), "the session's record")
        [record] = proxy.named("exchange")
        assert record["ending"] == f"{side.name.lower()}_silent"
        assert record["detail"] == f"no answer to a ping for {TIMEOUT:g} s"
        tasks.cancel_scope.cancel()
