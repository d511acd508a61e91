"""Real deepstream nodes, and the redis server that makes a cluster of them."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from .program import Event, Program, open_background, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

HERE = str(Path(__file__).parent)
START_TRIES = 4


@contextlib.asynccontextmanager
async def open_redis() -> AsyncIterator[str]:
    """Run a redis server and yield the path of its socket: there is no port to collide on."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""]
        async with open_program("redis", command, cwd=folder) as program:
            await program.until(
                lambda: program.said("eady to accept connections") or not program.alive,
                "its word that it accepts connections",
            )
            assert program.alive, "redis ended at start-up"
            yield path
            program.process.terminate()
            await program.ended()


@attrs.define(eq=False)
class Node:
    """A deepstream server that can die and come back at the same address."""

    port: int
    redis: str | None
    _nursery: trio.Nursery
    #: The port of its MQTT endpoint, if it has one.
    mqtt: int | None = None
    program: Program = attrs.field(init=False)
    users: set[str] = attrs.field(init=False, factory=set)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.program.pid

    async def start(self) -> None:
        """Start the server and wait until it takes sessions."""
        self.users.clear()
        await self._nursery.start(self._run)
        await self.program.until_ready()

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        await self.program.signal(signal.SIGKILL)
        self.users.clear()

    async def interrupt(self) -> int:
        """End it the way deepstream understands, with Close frames to its clients."""
        return await self.program.signal(signal.SIGINT)

    async def until_users(self, wanted: Iterable[str] | int) -> None:
        """Wait until exactly these users, or this many, are logged in."""
        if isinstance(wanted, int):
            await self.program.until(lambda: len(self.users) == wanted, f"{wanted} users")
        else:
            names = set(wanted)
            await self.program.until(lambda: self.users == names, f"the users {sorted(names)}")

    async def until_clustered(self, size: int) -> None:
        """Wait until it knows of so many nodes, itself among them."""
        latest = [{"event": "cluster", "size": size}]
        await self.program.until(
            lambda: self.program.named("cluster")[-1:] == latest, f"a cluster of {size}"
        )

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        options: Event = {"port": self.port, "redis": self.redis, "mqtt": self.mqtt}
        options = {key: value for key, value in options.items() if value is not None}
        command = ["node", "node.js", json.dumps(options)]
        async with open_program(f"node {self.address}", command, cwd=HERE) as self.program:
            self.program.observe(self._note)
            task_status.started()
            await self.program.process.wait()

    def _note(self, event: Event) -> None:
        match event:
            case {"event": "login", "user": str(user)}:
                self.users.add(user)
            case {"event": "logout", "user": str(user)}:
                self.users.discard(user)
            case _:
                pass


def free_port() -> int:
    """A port that is free now, from below the range that outgoing connections are given.

    In that range a dial to a dead node can be given the node's own port and connect to itself.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def open_nodes(
    count: int, *, redis: bool = False, mqtt: bool = False
) -> AsyncIterator[list[Node]]:
    """Run deepstream nodes, as one cluster if there is to be a redis between them."""
    async with contextlib.AsyncExitStack() as stack:
        path = await stack.enter_async_context(open_redis()) if redis else None
        async with open_background() as nursery:
            nodes: list[Node] = []
            async with trio.open_nursery() as starting:
                for _ in range(count):
                    starting.start_soon(_start_node, path, nursery, nodes, mqtt)
            try:
                if redis:
                    await _until_clustered(nodes)
                yield nodes
            finally:
                nursery.cancel_scope.cancel()


async def _start_node(
    redis: str | None, nursery: trio.Nursery, nodes: list[Node], mqtt: bool
) -> None:
    for tries_left in reversed(range(START_TRIES)):
        node = Node(free_port(), redis, nursery, free_port() if mqtt else None)
        try:
            await node.start()
        except AssertionError:
            # The port may have been taken since it was looked up.
            if not tries_left:
                raise
        else:
            nodes.append(node)
            return


async def _until_clustered(nodes: Sequence[Node]) -> None:
    for node in nodes:
        await node.until_clustered(len(nodes))
