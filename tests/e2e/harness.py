"""What the end-to-end tests are made of: redis, deepstream nodes, deepstream clients, the proxy.

Each is an async context manager around a real process. The tests talk to deepstream through the
proxy only; that the nodes tell who is logged in is the check that doesn't depend on the proxy.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio
import trustme

from .nodes import HERE, Node, open_nodes, open_redis
from .program import DEADLINE, Event, Json, Program, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

__all__ = [
    "Certificate",
    "Clients",
    "Deployment",
    "Node",
    "Proxy",
    "config_for",
    "make_certificate",
    "open_clients",
    "open_deployment",
    "open_nodes",
    "open_proxy",
    "open_redis",
]


class CallError(Exception):
    """A command that the client driver refused, or that failed there."""


@attrs.frozen
class Certificate:
    """The files of a CA made for one test run, and of a certificate for this machine.

    An intermediate CA is between them: only who is shown the whole chain comes to trust it.
    """

    ca_file: str
    cert_file: str
    key_file: str


def make_certificate(folder: Path) -> Certificate:
    ca = trustme.CA()
    issued = ca.create_child_ca().issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (folder / "cert.pem").write_bytes(chain)
    return Certificate(*(str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")))


@attrs.define(eq=False)
class Clients:
    """Real deepstream clients in one process, by name."""

    program: Program
    ca_file: str
    _ids: itertools.count[int] = attrs.Factory(itertools.count)
    _answers: dict[int, Event] = attrs.Factory(dict)
    _sending: trio.Lock = attrs.Factory(trio.Lock)

    async def call(self, op: str, *, within: float = DEADLINE, **parameters: Json) -> Json:
        """Have the driver do something and return its answer."""
        number = next(self._ids)
        line = json.dumps({"id": number, "op": op, **parameters}).encode() + b"\n"
        stdin = self.program.process.stdin
        assert stdin is not None
        async with self._sending:
            await stdin.send_all(line)
        await self.program.until(
            lambda: number in self._answers, f"the answer to {op} {parameters}", within=within
        )
        answer = self._answers.pop(number)
        if "error" in answer:
            raise CallError(f"{op}: {answer['error']}")
        return answer.get("value")

    async def connect(self, url: str, count: int, prefix: str, **options: Json) -> list[str]:
        """Create clients, log each in under its name, and return the names."""
        names: list[str] = await self.call(
            "connect", url=url, count=count, prefix=prefix, ca=self.ca_file, options=options
        )
        await self.call("login", clients=names)
        return names

    async def errors(self, names: Sequence[str]) -> list[Event]:
        """All errors that the application on these clients has been told of."""
        history = await self.call("history", clients=names)
        return [error for name in names for error in history[name]["errors"]]

    async def states(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The connection states that each client went through."""
        history = await self.call("history", clients=names)
        return {name: [item["state"] for item in history[name]["states"]] for name in names}

    def take(self, event: Event) -> None:
        if "id" in event:
            self._answers[event["id"]] = event


@contextlib.asynccontextmanager
async def open_clients(certificate: Certificate) -> AsyncIterator[Clients]:
    """Run the process that holds the real clients."""
    async with open_program("clients", ["node", "client.js"], cwd=HERE) as program:
        clients = Clients(program, certificate.ca_file)
        program.observe(clients.take)
        await program.until_ready()
        yield clients


@attrs.define(eq=False)
class Proxy:
    """The proxy as an operator runs it, and its log."""

    program: Program

    @property
    def pid(self) -> int:
        return self.program.pid

    def address(self, listener: str = "public") -> str:
        """Where a listener was bound, as host:port."""
        for event in self.program.named("listening"):
            if event["listener"] == listener:
                return str(event["address"])
        raise AssertionError(f"no listener {listener} in the log")

    def url(self, path: str = "/deepstream") -> str:
        return f"wss://{self.address()}{path}"

    def records(self) -> list[Event]:
        """The access records so far."""
        return self.program.named("exchange")

    async def until_records(
        self, count: int, *, within: float = DEADLINE, **having: Json
    ) -> list[Event]:
        """Wait for so many access records with these values, and return them."""

        def found() -> list[Event]:
            return [record for record in self.records() if having.items() <= record.items()]

        what = f"{count} records with {having}"
        await self.program.until(lambda: len(found()) >= count, what, within=within)
        return found()

    def memory(self) -> int:
        """Resident bytes, and those of its worker processes if it has any."""
        return sum(_resident(pid) for pid in _family(self.pid))

    async def stop(self) -> None:
        """Ask it to end, and insist on a clean exit."""
        if self.program.alive:
            self.program.process.terminate()
        exit_code = await self.program.ended()
        assert exit_code == 0, f"the proxy exited with {exit_code}"


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *itertools.chain.from_iterable(_family(int(child)) for child in children)]


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.asynccontextmanager
async def open_proxy(config_toml: str) -> AsyncIterator[Proxy]:
    """Run the proxy on this configuration; it must end well when the block does."""
    with tempfile.TemporaryDirectory() as folder:
        config = trio.Path(folder, "tidegate.toml")
        await config.write_text(config_toml)
        command = [sys.executable, "-m", "proxy", "run", "-c", str(config)]
        async with open_program("proxy", command, cwd=folder) as program:
            await program.until_ready()
            proxy = Proxy(program)
            yield proxy
            await proxy.stop()


CONFIG = """
[log]
format = "json"

[shutdown]
rate = 1000.0

[[listeners]]
name = "public"
bind = "127.0.0.1:0"
tls = {{ certificates = [ {{ cert_file = "{cert_file}", key_file = "{key_file}" }} ] }}

[[routes]]
path = "/deepstream"
websocket = true
upstream = "deepstream"

[[routes]]
prefix = "/api"
upstream = "deepstream"

[[routes]]
prefix = "/health-check"
upstream = "deepstream"

[upstreams.deepstream]
nodes = {nodes}
{upstream}
"""


def config_for(certificate: Certificate, nodes: Iterable[Node], upstream: str = "") -> str:
    """The configuration of a deepstream deployment, with more keys for its upstream if given."""
    return CONFIG.format(
        cert_file=certificate.cert_file,
        key_file=certificate.key_file,
        nodes=json.dumps([node.address for node in nodes]),
        upstream=upstream,
    )


@attrs.frozen
class Deployment:
    """Nodes, the proxy before them, and clients that know the proxy only."""

    nodes: list[Node]
    proxy: Proxy
    clients: Clients

    async def connect(self, count: int, prefix: str, **options: Json) -> list[str]:
        return await self.clients.connect(self.proxy.url(), count, prefix, **options)


@contextlib.asynccontextmanager
async def open_deployment(
    certificate: Certificate, *, nodes: int = 2, redis: bool = False, upstream: str = ""
) -> AsyncIterator[Deployment]:
    """Run all of it: nodes, proxy, and the process for the clients."""
    async with (
        open_nodes(nodes, redis=redis) as running,
        open_proxy(config_for(certificate, running, upstream)) as proxy,
        open_clients(certificate) as clients,
    ):
        yield Deployment(running, proxy, clients)
