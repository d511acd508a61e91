"""The demo: the main job as a story, on real sockets, in a few seconds.

Every step waits for what it tells; if something does not happen in time the story breaks off, and
the exit code is 1.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
import trustme

from proxy.config.load import parse_config
from proxy.config.model import Config
from proxy.observe.log import LOG
from proxy.observe.record import Record
from proxy.serve.server import Server, open_proxy

from .client import StandInClient
from .node import StandInNode, open_nodes
from .websocket import Closed, Rejected, WebSocket

#: How long the whole story may take.
LIMIT = 30.0

_CONFIG = """
[shutdown]
rate = 1000.0

[[listeners]]
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "cert.pem", key_file = "key.pem" }} ] }}

[[routes]]
path = "/deepstream"
websocket = true
upstream = "deepstream"

[[routes]]
prefix = "/health-check"
upstream = "deepstream"

[upstreams.deepstream]
nodes = {nodes}
probe = {{ kind = "deepstream", interval = 0.5, down_interval = 0.1 }}
hold = {{ timeout = 1.0 }}
"""


class Failed(Exception):
    """The story took a wrong turn."""


async def tell(*, stay: bool = False) -> int:
    """Tell the story and return the exit code; with `stay`, go on until interrupted."""
    with _told_by_us(), tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder:
        ca = _make_certificate(Path(folder))
        trust = ssl.create_default_context()
        ca.configure_trust(trust)
        try:
            with trio.fail_after(LIMIT) as limit:
                async with open_nodes("anna", "bert") as nodes:
                    config = _configure(Path(folder), nodes)
                    records: list[Record] = []
                    async with open_proxy(config, on_record=records.append) as server:
                        await Story(server, nodes, records, trust).run()
                        if stay:
                            limit.deadline = float("inf")
                            await _stay(server, nodes, Path(folder))
        except* (Failed, Rejected, Closed, OSError, trio.TooSlowError) as group:
            _say("!", f"This should not have happened: {_first(group)!r}")
            return_code = 1
        else:
            return_code = 0
    return return_code


@contextmanager
def _told_by_us() -> Iterator[None]:
    """Keep what the proxy logs of its nodes out of the story, which tells it."""
    before = LOG.level
    LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        LOG.setLevel(before)


def _make_certificate(folder: Path) -> trustme.CA:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for index, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=index > 0)
    return ca


def _configure(folder: Path, nodes: list[StandInNode]) -> Config:
    addresses = [node.address for node in nodes]
    return parse_config(_CONFIG.format(nodes=addresses), name="demo", folder=folder)


class Story:
    """What happens, in order."""

    def __init__(
        self,
        server: Server,
        nodes: list[StandInNode],
        records: list[Record],
        trust: ssl.SSLContext,
    ) -> None:
        self._server = server
        self._nodes = {node.address: node for node in nodes}
        self._records = records
        self._trust = trust
        self._port = server.address().port
        self._ada = StandInClient("ada", self._port, trust)
        self._bob = StandInClient("bob", self._port, trust)

    async def run(self) -> None:
        _say("*", f"The proxy listens on wss://localhost:{self._port}/deepstream")
        for node in self._nodes.values():
            _say(" ", f"and balances over node {node.name}, {node.address}")
        async with trio.open_nursery() as nursery:
            await nursery.start(self._ada.run)
            await nursery.start(self._bob.run)
            await self._two_clients()
            await self._traffic("The tide is coming in.")
            await self._a_node_dies()
            await self._traffic("Still here, and so is the subscription.")
            nursery.cancel_scope.cancel()
        await self._all_nodes_die()
        _say("*", "That was the main job. Every line above has happened on real sockets.")

    async def _two_clients(self) -> None:
        _say("1", "Two clients connect over TLS and log in.")
        sessions = {node: count for node, count in self._sessions().items() if count}
        for node, count in sessions.items():
            _say(" ", f"node {node.name} has {count} session" + "s" * (count != 1))
        _expect(list(sessions.values()) == [1, 1], "each node has one session")
        await self._ada.subscribe("tide")

    async def _traffic(self, text: str) -> None:
        _say("2" if self._ada.logins == 1 else "4", f'bob emits the event tide: "{text}"')
        await self._bob.emit("tide", text)
        event, data = await self._ada.next_event()
        _say(" ", f'ada receives {event}: "{data}"')
        _expect((event, data) == ("tide", text), "ada receives what bob sent")

    async def _a_node_dies(self) -> None:
        victim = self._node_of("ada")
        _say("3", f"Node {victim.name}, which serves ada, is killed.")
        started = trio.current_time()
        victim.kill()
        await self._ada.wait_logins(2)
        took = (trio.current_time() - started) * 1000
        _say(" ", f"ada is back through the other node after {took:.0f} ms, bob noticed nothing")
        _expect(self._bob.logins == 1, "bob stays connected")
        await self._ada.subscribe("tide")
        lost = next(record for record in self._records if record.status == 101)
        _say(" ", f"the record of the lost session: ending={lost.ending} node={lost.node}")
        _expect(lost.ending == "node_lost", "the record says that the node was lost")

    async def _all_nodes_die(self) -> None:
        _say("5", "All nodes are killed. A handshake that comes now waits, with nothing sent.")
        for node in self._nodes.values():
            node.kill()
        node = next(iter(self._nodes.values()))
        answers: list[tuple[int, str]] = []
        started = trio.current_time()
        async with trio.open_nursery() as life:
            async with trio.open_nursery() as waiting:

                async def wait() -> None:
                    answers.append(await self._handshake())

                waiting.start_soon(wait)
                await trio.sleep(0.3)
                _expect(not answers, "the handshake waits")
                await life.start(node.run)
                _say(" ", f"node {node.name} starts again")
            took = (trio.current_time() - started) * 1000
            _say(" ", f"HTTP {answers[0][0]} after {took:.0f} ms: a slow try, not a failed one")
            _expect(answers[0][0] == 101, "the handshake succeeds in the end")
            node.kill()
        _say("6", "Nobody is left, and nobody comes back. The next one is answered honestly:")
        status, proxy_status = await self._handshake()
        _say(" ", f"HTTP {status}, Proxy-Status: {proxy_status}")
        _expect(status == 500, "500: nobody to ask")

    async def _handshake(self) -> tuple[int, str]:
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", self._port, ssl_context=self._trust, https_compatible=True
        )
        async with stream:
            try:
                await WebSocket.connect(stream, "localhost", "/deepstream")
            except Rejected as exc:
                return exc.status, exc.headers.get("proxy-status", "")
            return 101, ""

    def _sessions(self) -> dict[StandInNode, int]:
        upstream = self._server.service.upstreams["deepstream"]
        return {self._nodes[node.name]: node.sessions for node in upstream.nodes}

    def _node_of(self, client: str) -> StandInNode:
        # Clients connected one after the other: ada's session is the older one.
        sessions = sorted(self._server.service.sessions, key=lambda one: one.record.id)
        return self._nodes[sessions[["ada", "bob"].index(client)].record.node]


async def _stay(server: Server, nodes: list[StandInNode], folder: Path) -> None:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        url = f"https://localhost:{server.address().port}"
        _say("*", "The nodes are back, and the proxy stays until you press Ctrl-C. Try:")
        _say(" ", f"curl --cacert {folder}/ca.pem -i {url}/health-check")
        _say(" ", f"curl --cacert {folder}/ca.pem -i {url}/deepstream")
        _say(" ", f"NODE_EXTRA_CA_CERTS={folder}/ca.pem node, and there a deepstream client to")
        _say(" ", f"wss://localhost:{server.address().port}/deepstream")
        with _until_interrupted() as interrupted:
            await interrupted.wait()
        nursery.cancel_scope.cancel()


@contextmanager
def _until_interrupted() -> Iterator[trio.Event]:
    """Give an event that Ctrl-C sets, in place of a KeyboardInterrupt somewhere."""
    import signal

    interrupted = trio.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


def _say(mark: str, text: str) -> None:
    print(f"{mark} {text}", flush=True)
