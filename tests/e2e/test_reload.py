"""Reloads, one after the other, under sessions that never stop talking."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from .harness import Certificate, make_certificate
from .nodes import HERE
from .program import Event, Program, open_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RELOADS = 200
#: After so many all that is there once is there.
WARM_UP = 20
OVER_TCP, OVER_TLS = 450, 50
#: Threads that read files: one for reloads, one that looks whether certificates have changed.
READERS = 2
#: What a step may take on a machine with much else to do, in seconds.
PATIENCE = 30.0
#: What the process may hold more after the reloads than after the first of them.
ALLOWED_GROWTH = 2 * 2**20

COMMON = """
[log]
format = "json"
access = false
[shutdown]
rate = 100000.0
[[listeners]]
name = "plain"
bind = "127.0.0.1:0"
[[listeners]]
name = "secure"
bind = "127.0.0.1:0"
tls = { certificates = [ { cert_file = "cert.pem", key_file = "key.pem" } ] }
"""
EXTRA_LISTENER = """
[[listeners]]
name = "extra"
bind = "127.0.0.1:0"
"""
ROUTE = """
[[routes]]
path = "{path}"
websocket = true
on_removed = "keep"
upstream = "{upstream}"
"""
UPSTREAM = """
[upstreams.{name}]
nodes = {nodes}
probe = {{ kind = "{probe}", interval = {interval} }}
"""


def node(address: str, weight: int = 1) -> str:
    return f'{{ address = "{address}", weight = {weight} }}'


def route(path: str, upstream: str) -> str:
    return ROUTE.format(path=path, upstream=upstream)


def upstream(name: str, *nodes: str, probe: str = "deepstream", interval: int = 30) -> str:
    listed = f"[{', '.join(nodes)}]"
    return UPSTREAM.format(name=name, nodes=listed, probe=probe, interval=interval)


def variants(anna: str, bert: str, carl: str) -> list[str]:
    """Return configurations to go through; sessions are those of anna and bert in the first."""
    deepstream = route("/deepstream", "deepstream")
    other = route("/other", "other") + upstream("other", node(carl), probe="tcp")
    return [
        COMMON + deepstream + upstream("deepstream", node(anna), node(bert)),
        "limits.connections = 2000\n"
        + COMMON.replace('"127.0.0.1:0"', '"127.0.0.1:0"\nbacklog = 2048')
        + deepstream
        + upstream("deepstream", node(anna, 5), node(bert))
        + other,
        COMMON
        + EXTRA_LISTENER
        + deepstream
        + upstream("deepstream", node(anna), node(bert), node(carl), interval=60),
        # Nobody could begin the sessions that are there.
        COMMON + other,
        "timeouts.handshake = 5.0\n" + COMMON + route("/deepstream", "other") + other,
    ]


@attrs.frozen
class Rig:
    """The proxy, the crowd that talks through it, and the files that the proxy goes by."""

    folder: Path
    proxy: Program
    crowd: Program
    variants: list[str]
    certificates: list[Certificate]

    def write(self, number: int) -> None:
        """Put the configuration of that reload in its place, and another certificate."""
        put_in_place(self.folder, self.certificates[number % len(self.certificates)])
        (self.folder / "tidegate.toml").write_text(self.variants[number % len(self.variants)])

    async def reload(self, number: int) -> Event:
        """Have the proxy go by the configuration of that number, and return what it says."""
        self.write(number)
        before = len(self.proxy.named("reloaded"))
        self.proxy.process.send_signal(signal.SIGHUP)
        await self.proxy.until(
            lambda: len(self.proxy.named("reloaded")) > before, f"reload {number}", within=PATIENCE
        )
        return self.proxy.named("reloaded")[-1]

    async def tell_crowd(self, **order: str | int) -> None:
        assert self.crowd.process.stdin is not None
        await self.crowd.process.stdin.send_all(json.dumps(order).encode() + b"\n")

    async def heard(self, event: str) -> Event:
        await self.crowd.until(lambda: self.crowd.named(event), event, within=PATIENCE)
        return self.crowd.named(event)[0]

    def memory(self) -> int:
        """Bytes of memory that are the proxy's own, not of files that it shares with others."""
        text = Path(f"/proc/{self.proxy.pid}/smaps_rollup").read_text()
        return int(text.partition("Anonymous:")[2].split()[0]) * 1024

    async def held(self) -> tuple[int, int]:
        """How many files are open, and how many threads there are, when nothing is under way."""
        folder, seen = Path(f"/proc/{self.proxy.pid}"), []
        for _ in range(20):
            seen.append([len(list((folder / kind).iterdir())) for kind in ("fd", "task")])
            await trio.sleep(0.02)
        files, threads = map(min, zip(*seen, strict=True))
        return files, threads


def put_in_place(folder: Path, certificate: Certificate) -> None:
    (folder / "cert.pem").write_bytes(Path(certificate.cert_file).read_bytes())
    (folder / "key.pem").write_bytes(Path(certificate.key_file).read_bytes())


@contextlib.asynccontextmanager
async def open_rig(folder: Path, certificate: Certificate) -> AsyncIterator[Rig]:
    crowd_command = [sys.executable, str(Path(HERE, "crowd.py"))]
    command = [sys.executable, "-m", "proxy", "run", "-c", str(folder / "tidegate.toml")]
    certificates = [certificate, renewed(folder, certificate)]
    async with open_program("crowd", crowd_command) as crowd:
        await crowd.until_ready()
        configs = variants(*crowd.named("ready")[0]["nodes"])
        put_in_place(folder, certificate)
        (folder / "tidegate.toml").write_text(configs[0])
        async with open_program("proxy", command) as proxy:
            await proxy.until_ready()
            yield Rig(folder, proxy, crowd, configs, certificates)
            assert proxy.alive


def renewed(folder: Path, certificate: Certificate) -> Certificate:
    other = folder / "other"
    other.mkdir()
    return attrs.evolve(make_certificate(other), ca_file=certificate.ca_file)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_sessions_notice_nothing_of_reloads(certificate: Certificate, tmp_path: Path) -> None:
    async with open_rig(tmp_path, certificate) as rig:
        addresses = {event["listener"]: event["address"] for event in rig.proxy.named("listening")}
        await rig.tell_crowd(
            **addresses, ca_file=certificate.ca_file, over_tcp=OVER_TCP, over_tls=OVER_TLS
        )
        assert (await rig.heard("connected"))["sessions"] == OVER_TCP + OVER_TLS
        for number in range(WARM_UP + 1):
            await rig.reload(number)
        memory, (files, threads) = rig.memory(), await rig.held()
        affected = [await rig.reload(number) for number in range(WARM_UP + 1, RELOADS + 1)]
        grown = rig.memory() - memory
        files_then, threads_then = await rig.held()
        await rig.tell_crowd()
        done = await rig.heard("done")

    assert done["faults"] == []
    assert done["least"] > 0
    assert grown < ALLOWED_GROWTH
    assert files_then == files
    # Those that read files, for a reload and for renewals, may rest just now.
    assert threads_then <= max(threads, READERS + 1)
    # Each time that their route and their nodes went, all were there, and they did not go.
    assert [event["sessions"] for event in affected].count(OVER_TCP + OVER_TLS) == len(
        affected
    ) // 5
