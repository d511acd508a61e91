"""Tidegate and other proxies, side by side on this machine.

Peers take turns (A B C A B C), because a shared machine makes the same work now cheap, now dear:
only figures of one run are compared, and each ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .build import build_load, make_certificate
from .curves import CURVES, Curve, verdict
from .machine import machine
from .measure import Bench, Sample, TurnFailed, run_alone, run_turn
from .peers import HERE, PEERS, Peer
from .report import Outcome, document, print_curve, print_outcome, write_results
from .scenarios import SCENARIOS, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]


#: What curves are drawn of; more would take longer than anybody waits.
_CURVE_PEERS = ("nginx", "haproxy", "tidegate")
_CURVE_ROUNDS = 2


def _names() -> list[str]:
    return [one.name for one in (*SCENARIOS, *CURVES)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = ", ".join(_names())
    parser.add_argument("--only", metavar="A,B", help=f"these scenarios: {names}")
    parser.add_argument("--peers", metavar="A,B", help="these proxies; default: all that are here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each turn")
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument(
        "--no-pin", action="store_true", help="let the system place proxy and load on CPUs"
    )
    return parser.parse_args()


def _chosen(names: str | None, known: list[str], what: str) -> list[str]:
    wanted = known if names is None else [name for name in names.split(",") if name]
    for name in wanted:
        if name not in known:
            raise SystemExit(f"bench: no {what} {name}; there are {', '.join(known)}")
    return wanted


def _find_peers(names: str | None) -> list[tuple[Peer, list[str]]]:
    wanted = _chosen(names, [peer.name for peer in PEERS], "peer")
    found = []
    for peer in PEERS:
        if peer.name in wanted:
            if command := peer.find():
                found.append((peer, command))
            else:
                print(f"bench: no {peer.name} here, left out ({peer.install})", file=sys.stderr)
    return found


@attrs.define
class Progress:
    """A line that says how far we are; not on a terminal, only failures are told."""

    total: int
    done: int = 0
    began: float = attrs.Factory(time.monotonic)

    def show(self, what: str) -> None:
        if sys.stderr.isatty():
            share = self.done / self.total
            bar = "#" * round(share * 30)
            left = (time.monotonic() - self.began) * (1 / share - 1) if self.done else 0.0
            ahead = f"{left // 60:.0f}:{left % 60:02.0f} left" if self.done else ""
            line = f"[{bar:30}] {self.done}/{self.total} {what} {ahead}"
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def tell(self, line: str) -> None:
        self.clear()
        print(line, file=sys.stderr)


def _pinning(arguments: argparse.Namespace) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """The load's CPUs and the proxy's: the last one is the proxy's alone."""
    cpus = sorted(os.sched_getaffinity(0))
    if arguments.no_pin or len(cpus) < 2:
        return None, None
    return frozenset(cpus[:-1]), frozenset(cpus[-1:])


@contextlib.contextmanager
def _bench(arguments: argparse.Namespace) -> Iterator[Bench]:
    load = build_load()
    load_cpus, proxy_cpus = _pinning(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cert, key, pem = make_certificate(Path(folder))
        yield Bench(
            load=load,
            cert=cert,
            key=key,
            pem=pem,
            seconds=arguments.seconds,
            warmup=arguments.warmup,
            load_cpus=load_cpus,
            proxy_cpus=proxy_cpus,
        )


def _alone(bench: Bench, scenario: Scenario) -> Sample | None:
    if scenario.sessions or scenario.of_curve or scenario.flood:
        return None
    return run_alone(bench, scenario)


def _run_scenario(
    bench: Bench,
    scenario: Scenario,
    peers: list[tuple[Peer, list[str]]],
    rounds: int,
    progress: Progress,
) -> Outcome:
    outcome = Outcome(scenario, alone=_alone(bench, scenario))
    for turn in range(rounds):
        for peer, found in peers:
            if not scenario.wants(peer.name, variant=peer.variant):
                continue
            progress.show(f"{scenario.name}: {peer.name}, round {turn + 1}")
            progress.done += 1
            try:
                sample = run_turn(bench, scenario, peer, found)
            except TurnFailed as exc:
                progress.tell(f"bench: {scenario.name}: {peer.name}: {exc}")
                outcome.failures.append(f"{peer.name}, round {turn + 1}: {exc}")
            else:
                outcome.samples.setdefault(peer.name, {})[turn] = sample
    progress.clear()
    return outcome


def _run_curve(
    bench: Bench, curve: Curve, peers: list[tuple[Peer, list[str]]], rounds: int, progress: Progress
) -> dict[int, Outcome]:
    outcomes = {
        x: _run_scenario(bench, scenario, peers, rounds, progress)
        for x, scenario in curve.points.items()
    }
    print_curve(curve.title, curve.axis, outcomes)
    print(f"  {verdict(curve, outcomes)}")
    return outcomes


def _draw(outcomes: list[Outcome], curves: dict[Curve, dict[int, Outcome]], folder: Path) -> None:
    try:
        from .pictures import draw
    except ImportError:
        print("bench: no pictures without matplotlib (dependency group `bench`)", file=sys.stderr)
    else:
        for file in draw(outcomes, curves, folder):
            print(f"bench: {file}", file=sys.stderr)


def _turns(scenarios: list[Scenario], curves: list[Curve], peers: list[Peer], rounds: int) -> int:
    """Return how many turns a run has."""
    of_curves = sum(peer.name in _CURVE_PEERS for peer in peers)
    points = sum(len(curve.points) for curve in curves)
    turns = sum(
        scenario.wants(peer.name, variant=peer.variant) for scenario in scenarios for peer in peers
    )
    return rounds * turns + min(rounds, _CURVE_ROUNDS) * of_curves * points


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the benchmark; exit code 1 if a proxy lost or changed something."""
    arguments = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    peers = _find_peers(arguments.peers)
    wanted = _chosen(arguments.only, _names(), "scenario")
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    wanted_curves = [curve for curve in CURVES if curve.name in wanted]
    versions = {peer.name: peer.version(found) for peer, found in peers}
    rounds = arguments.rounds
    progress = Progress(_turns(scenarios, wanted_curves, [peer for peer, _ in peers], rounds))
    outcomes: list[Outcome] = []
    curves: dict[Curve, dict[int, Outcome]] = {}
    try:
        with _bench(arguments) as bench:
            for scenario in scenarios:
                outcomes.append(_run_scenario(bench, scenario, peers, rounds, progress))
                print_outcome(outcomes[-1])
            drawn = [(peer, found) for peer, found in peers if peer.name in _CURVE_PEERS]
            for curve in wanted_curves:
                curves[curve] = _run_curve(
                    bench, curve, drawn, min(rounds, _CURVE_ROUNDS), progress
                )
    except KeyboardInterrupt:
        progress.tell("bench: interrupted")
        raise SystemExit(130) from None
    every = [*outcomes, *(one for points in curves.values() for one in points.values())]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_results(document(every, machine(), versions, vars(arguments)), arguments.out)
    _draw(outcomes, curves, arguments.out)
    if any(outcome.failures for outcome in every):
        raise SystemExit(1)
