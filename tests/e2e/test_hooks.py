"""Real clients and nodes with hooks between them: the proxy in a program of one's own."""

from __future__ import annotations

from collections import Counter

import trio

from proxy import Allow, Handshake, Hooks, Message, Record, SessionView, parse_config
from proxy import open_proxy as embed

from .harness import Certificate, config_for, open_clients, open_nodes


class Watcher:
    """Hooks that let all pass and count."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.nodes: list[str] = []

    async def on_handshake(self, handshake: Handshake) -> Allow:
        self.calls["handshake"] += 1
        return Allow(node=self.nodes[-1])

    async def on_open(self, session: SessionView) -> None:
        self.calls[f"open {session.node}"] += 1

    async def on_message(self, session: SessionView, message: Message) -> Message:
        await trio.lowlevel.checkpoint()
        # deepstream's protocol is a binary one.
        self.calls[f"{type(message.data).__name__} {message.from_client}"] += 1
        return message

    async def on_close(self, record: Record) -> None:
        self.calls[f"close {record.ending}"] += 1


async def test_deepstream_goes_through_hooks(certificate: Certificate) -> None:
    watcher = Watcher()
    hooks = Hooks(
        on_handshake=watcher.on_handshake,
        on_open=watcher.on_open,
        on_close=watcher.on_close,
        on_message=watcher.on_message,
    )
    async with open_nodes(2) as nodes, open_clients(certificate) as clients:
        watcher.nodes = [node.address for node in nodes]
        config = parse_config(config_for(certificate, nodes))
        async with embed(config, hooks={"/deepstream": hooks}) as server:
            url = f"wss://{server.address()}/deepstream"
            names = await clients.connect(url, 4, "client")
            await nodes[1].until_users(4)
            await clients.call("event.subscribe", clients=[names[0]], event="news")
            text = "x" * 500_000
            await clients.call("event.emit", client=names[1], event="news", data=text)
            news = await clients.call("received", client=names[0], inbox="news", count=1)

            assert news == [text]
            assert await clients.errors(names) == []
            assert watcher.calls["handshake"] == watcher.calls[f"open {nodes[1].address}"] == 4
            assert watcher.calls["bytes True"] >= 8
            assert watcher.calls["bytes False"] >= 8
            server.shut_down()
            await server.stopped.wait()
        assert watcher.calls["close shutdown"] == 4
