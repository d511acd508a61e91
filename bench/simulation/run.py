"""Tidegate's pool and the defaults of nginx and HAProxy through the same bad days of 20 nodes.

A discrete-event simulation, seeded: the same numbers come out each time.  It is about decisions
only; what a proxy costs is what `python -m bench` measures.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path
from typing import get_args

import attrs

from .balancer import BALANCERS, DEFAULT
from .nodes import Overflow
from .report import Result, print_results, write_json
from .scenarios import SCENARIOS, Scenario
from .world import World, WorldConfig

__all__ = ["main", "run"]

_OUT = Path(__file__).parents[1] / "results" / "simulation"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.simulation", description=__doc__)
    known = WorldConfig()
    scenarios = ", ".join(f"{one.letter} or {one.name}" for one in SCENARIOS)
    parser.add_argument("--only", metavar="A,B", help=f"these scenarios: {scenarios}")
    parser.add_argument(
        "--balancers", metavar="X,Y", default=",".join(DEFAULT), help=f"of {', '.join(BALANCERS)}"
    )
    parser.add_argument("--seed", type=int, default=known.seed)
    parser.add_argument("--nodes", type=int, default=known.nodes)
    parser.add_argument("--sessions", type=int, default=known.sessions)
    parser.add_argument("--rate", type=float, default=known.rate, help="a node's handshakes/s")
    parser.add_argument(
        "--pace", type=float, default=known.pace, help="sessions/s that a node which goes ends"
    )
    parser.add_argument(
        "--overflow",
        choices=get_args(Overflow),
        default=known.overflow,
        help="what a node's kernel does when its backlog is full; Linux's default is drop",
    )
    parser.add_argument("--quick", action="store_true", help="2,000 sessions on 4 nodes")
    parser.add_argument("--out", type=Path, default=_OUT)
    return parser.parse_args()


def _scenarios(names: str | None) -> list[Scenario]:
    wanted = None if names is None else set(names.split(",")) - {""}
    known = {name for one in SCENARIOS for name in (one.letter, one.name)}
    if wanted is not None and (unknown := wanted - known):
        raise SystemExit(f"bench.simulation: no scenario {', '.join(sorted(unknown))}")
    return [one for one in SCENARIOS if wanted is None or wanted & {one.letter, one.name}]


def _balancers(names: str) -> list[str]:
    wanted = [name for name in names.split(",") if name]
    if unknown := set(wanted) - set(BALANCERS):
        raise SystemExit(f"bench.simulation: no balancer {', '.join(sorted(unknown))}")
    return wanted


def run(config: WorldConfig, scenario: Scenario, balancer: str) -> Result:
    """Run one scenario with one balancer."""
    began = time.monotonic()
    # A run makes little garbage that is cyclic, and the collector would walk a million objects.
    gc.collect()
    gc.disable()
    try:
        world = World(config, scenario.name, BALANCERS[balancer])
        calm = scenario.script(world)
        events = world.run(scenario.until(calm))
    finally:
        gc.enable()
    return Result(
        scenario=scenario,
        balancer=balancer,
        calm=calm,
        figures=world.tally.figures(calm),
        series=world.tally.series,
        events=events,
        seconds=time.monotonic() - began,
    )


def _draw(results: list[Result], folder: Path) -> None:
    try:
        from .pictures import draw
    except ImportError:
        note = "no pictures without matplotlib (dependency group `bench`)"
        print(f"bench.simulation: {note}", file=sys.stderr)
    else:
        for file in draw(results, folder):
            print(f"bench.simulation: {file}", file=sys.stderr)


def main() -> None:
    """Run the simulation."""
    arguments = _arguments()
    if arguments.quick:
        arguments.nodes, arguments.sessions = 4, 2_000
    config = WorldConfig(
        seed=arguments.seed,
        nodes=arguments.nodes,
        sessions=arguments.sessions,
        rate=arguments.rate,
        pace=arguments.pace,
        overflow=arguments.overflow,
    )
    scenarios, balancers = _scenarios(arguments.only), _balancers(arguments.balancers)
    print(
        f"{config.sessions:,} sessions on {config.nodes} nodes, seed {config.seed}; a node answers "
        f"{config.rate:g} handshakes/s; overflow of its backlog: {config.overflow}"
    )
    results: list[Result] = []
    try:
        for scenario in scenarios:
            ours = []
            for balancer in balancers:
                if sys.stderr.isatty():
                    line = f"{scenario.name}: {balancer}"
                    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
                ours.append(run(config, scenario, balancer))
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            print_results(scenario, ours)
            results += ours
    except KeyboardInterrupt:
        print("\nbench.simulation: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = attrs.asdict(config, filter=attrs.filters.exclude("adjust"))
    write_json(results, settings, arguments.out / "results.json")
    _draw(results, arguments.out)
