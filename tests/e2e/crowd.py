"""Busy sessions by the hundred and the stand-in nodes that echo to them, in a process of its own.

It says `ready` with its nodes' addresses.  Then it reads one line: where to connect, how many over
TCP and how many over TLS; it says `connected`, and all of them talk without a pause.  With the next
line they stop, and it says `done`: what was echoed, and whoever ended before or heard anything else
than the echo of what it said, in that order.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import attrs
import trio

from proxy.testing.deepstream import CORRELATION, NAMES, Event, Message, Topic
from proxy.testing.node import open_nodes
from proxy.testing.websocket import Closed, WebSocket

NODES = ("anna", "bert", "carl")
#: How many messages of a session are under way at a time.
WINDOW = 2
#: Handshakes at a time.
ARRIVING = 20


@attrs.define(eq=False)
class Talker:
    """One session: it numbers what it says, and the node's acknowledgement has the number."""

    client: WebSocket
    said: int = 0
    heard: int = 0
    fault: str = ""

    async def talk(self, stop: trio.Event) -> None:
        try:
            while not stop.is_set() or self.heard < self.said:
                while self.said < self.heard + WINDOW and not stop.is_set():
                    self.said += 1
                    fields: dict[int, int | str] = {CORRELATION: str(self.said), NAMES: "numbers"}
                    await self.client.send(Message(Topic.EVENT, Event.SUBSCRIBE, fields).encode())
                answer = await self.client.receive()
                assert isinstance(answer, bytes)
                self.heard += 1
                if (number := Message.decode(answer).text(CORRELATION)) != str(self.heard):
                    self.fault = f"heard {number}, not {self.heard}"
                    return
            await self.client.close()
        except Closed as closed:
            self.fault = str(closed)


async def arrive(address: str, count: int, tls: ssl.SSLContext | None) -> list[Talker]:
    talkers: list[Talker] = []
    limit = trio.CapacityLimiter(ARRIVING)
    host, _, port = address.rpartition(":")

    async def one() -> None:
        async with limit:
            stream: trio.abc.Stream = await trio.open_tcp_stream(host, int(port))
            if tls is not None:
                stream = trio.SSLStream(
                    stream, tls, server_hostname="localhost", https_compatible=True
                )
            talkers.append(Talker(await WebSocket.connect(stream, "localhost", "/deepstream")))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return talkers


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


async def lines() -> AsyncIterator[dict[str, Any]]:
    async with trio.wrap_file(open(0, closefd=False)) as stdin:  # noqa: ASYNC230
        async for line in stdin:
            yield json.loads(line)


async def main() -> None:
    orders = lines()
    async with open_nodes(*NODES) as nodes:
        say("ready", nodes=[node.address for node in nodes])
        order = await anext(orders)
        trust = ssl.create_default_context(cafile=order["ca_file"])
        talkers = await arrive(order["plain"], order["over_tcp"], None)
        talkers += await arrive(order["secure"], order["over_tls"], trust)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for talker in talkers:
                nursery.start_soon(talker.talk, stop)
            say("connected", sessions=len(talkers))
            await anext(orders)
            stop.set()
        heard = [talker.heard for talker in talkers]
        faults = [talker.fault for talker in talkers if talker.fault]
        say("done", least=min(heard), echoed=sum(heard), faults=faults)


if __name__ == "__main__":
    trio.run(main)
