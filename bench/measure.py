"""One turn: start a node and a proxy, drive them, and look at the proxy's CPU or memory."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .flood import flooding
from .peers import Peer, Place
from .procs import Cpu, cpu_of, pss_of, running, tree
from .wakeup import wakeup_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenarios import Scenario

__all__ = ["Bench", "Sample", "TurnFailed", "run_alone", "run_turn"]

# Allocators and kernels give back, and proxies tidy up, within this time after a burst of openings.
_SETTLE = 2.0
_START_PATIENCE = 15.0


class TurnFailed(Exception):
    """No figure: the proxy didn't start, or didn't relay everything as it was."""


@attrs.frozen(kw_only=True)
class Bench:
    """What all turns have in common."""

    load: Path
    cert: Path
    key: Path
    pem: Path
    seconds: float
    warmup: float
    load_cpus: frozenset[int] | None
    proxy_cpus: frozenset[int] | None


@attrs.frozen(kw_only=True)
class Sample:
    """What one turn gave; times in seconds, memory in bytes, latencies in µs."""

    cost: float  # in the scenario's unit
    user: float = 0.0  # the share of `cost` that is the proxy's own code
    rate: float = 0.0  # relayed messages or sessions per second
    busy: float = 0.0  # how much of one CPU the proxy took
    load: float = 0.0  # how much of one CPU the generator and the node took
    latency: dict[str, float] = attrs.Factory(dict)


@attrs.frozen
class Service:
    """A running node or proxy."""

    pid: int
    port: int


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _expect(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise TurnFailed(f"the generator ended with {process.wait(10)}")
    event: dict[str, Any] = json.loads(line)
    if event["event"] != name:
        raise TurnFailed(f"the generator said {event['event']} in place of {name}")
    return event


def _drive_command(bench: Bench, port: int, drive: str, *more: str) -> list[str]:
    times = ["--warmup", str(bench.warmup), "--seconds", str(bench.seconds)]
    return [str(bench.load), "drive", *drive.split(), "--port", str(port), *times, *more]


@contextlib.contextmanager
def _driving(bench: Bench, port: int, drive: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = _drive_command(bench, port, drive, *more)
    with (
        tempfile.TemporaryFile("w+") as complaints,
        running(
            command, cpus=bench.load_cpus, stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        try:
            yield process
        except TurnFailed as exc:
            complaints.seek(0)
            raise TurnFailed(complaints.read().strip() or str(exc)) from None


@contextlib.contextmanager
def _node(bench: Bench) -> Iterator[Service]:
    with running([bench.load, "node"], cpus=bench.load_cpus, stdout=subprocess.PIPE) as process:
        yield Service(process.pid, _expect(process, "ready")["port"])


def _works(bench: Bench, port: int) -> bool:
    """Whether one echo comes back through the proxy."""
    command = _drive_command(bench, port, "echo", "--seconds", "0", "--warmup", "0")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def _proxy(bench: Bench, peer: Peer, found: list[str], node_port: int) -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        place = Place(
            folder=folder,
            port=_free_port(),
            node_port=node_port,
            cert=bench.cert,
            key=bench.key,
            pem=bench.pem,
        )
        log = folder / "log"
        with (
            log.open("w") as output,
            running(
                peer.command(found, place),
                cpus=bench.proxy_cpus,
                stdout=output,
                stderr=output,
                cwd=folder,
            ) as process,
        ):
            _wait_until_it_works(bench, process, place.port, log)
            yield Service(process.pid, place.port)


def _wait_until_it_works(
    bench: Bench, process: subprocess.Popen[str], port: int, log: Path
) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while not _works(bench, port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise TurnFailed(f"it doesn't relay: {log.read_text()[-500:].strip() or 'no log'}")
        time.sleep(0.1)


def run_turn(bench: Bench, scenario: Scenario, peer: Peer, found: list[str]) -> Sample:
    """Measure one proxy in one scenario.

    Raises:
        TurnFailed: if there is no figure.
    """
    if scenario.ready_legs:
        return Sample(cost=wakeup_time(scenario.ready_legs) * 1e6 / scenario.ready_legs)
    with _node(bench) as node, _proxy(bench, peer, found, node.port) as proxy:
        if scenario.sessions:
            return _measure_memory(bench, scenario, proxy)
        if scenario.flood:
            return _measure_flood(bench, scenario, node, proxy)
        return _measure_cpu(bench, scenario, node, proxy)


def run_alone(bench: Bench, scenario: Scenario) -> Sample:
    """Measure the generator and the node without a proxy, over plain TCP.

    Raises:
        TurnFailed: if the generator or the node is broken.
    """
    with _node(bench) as node:
        return _measure_cpu(bench, scenario, node, None)


def _measure_cpu(bench: Bench, scenario: Scenario, node: Service, proxy: Service | None) -> Sample:
    port, more = (proxy.port, ()) if proxy else (node.port, ("--plain",))
    with _driving(bench, port, scenario.drive, *more) as generator:
        _expect(generator, "begin")
        ours = tree(proxy.pid) if proxy else []
        load = [generator.pid, node.pid]
        before, load_before = cpu_of(ours), cpu_of(load)
        _expect(generator, "end")
        used, load_used = cpu_of(ours) - before, cpu_of(load) - load_before
        result = _expect(generator, "result")
    if proxy and "--resume" in scenario.drive and result["full_handshakes"]:
        raise TurnFailed(f"{result['full_handshakes']} sessions were not resumed")
    return _sample(scenario, result, used, load_used)


def _sample(scenario: Scenario, result: dict[str, Any], used: Cpu, load: Cpu) -> Sample:
    seconds = result["seconds"]
    # Where sessions or requests are counted, one of them is the unit.
    units = result["messages"] * (scenario.relayed or 1)
    if not units:
        raise TurnFailed("nothing came through in time")
    scale = 1e3 if scenario.unit == "ms/session" else 1e6
    return Sample(
        cost=used.total * scale / units,
        user=used.user * scale / units,
        rate=units / seconds,
        busy=used.total / seconds,
        load=load.total / seconds,
        latency=result["latency_us"],
    )


def _measure_flood(bench: Bench, scenario: Scenario, node: Service, proxy: Service) -> Sample:
    """Compare the sessions' latency beside a flood with that without; `rate` is the flood's."""
    quiet = _measure_cpu(bench, scenario, node, proxy)
    # From before the sessions are opened until after they are closed.
    seconds = bench.warmup + bench.seconds + 1
    with flooding(bench, proxy.port, scenario.flood, seconds) as flood:
        flooded = _measure_cpu(bench, scenario, node, proxy)
        rate = flood.rate()
    cost = flooded.latency["p99"] / quiet.latency["p99"]
    return attrs.evolve(flooded, cost=cost, user=0.0, rate=rate)


def _measure_memory(bench: Bench, scenario: Scenario, proxy: Service) -> Sample:
    time.sleep(_SETTLE / 2)
    before = pss_of(tree(proxy.pid))
    with _driving(bench, proxy.port, scenario.drive) as generator:
        _expect(generator, "ready")
        time.sleep(_SETTLE)
        grown = pss_of(tree(proxy.pid)) - before
        assert generator.stdin is not None
        generator.stdin.close()
        _expect(generator, "result")
    return Sample(cost=grown / 1024 / scenario.sessions)
