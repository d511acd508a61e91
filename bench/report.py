"""From samples to medians, ratios, a table and JSON."""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .measure import Sample
    from .scenarios import Figure, Goal, Scenario

__all__ = [
    "BASE",
    "OURS",
    "Outcome",
    "Spread",
    "document",
    "print_curve",
    "print_outcome",
    "write_results",
]

BASE = "nginx"
OURS = "tidegate"


@attrs.frozen
class Spread:
    """A median with the lowest and the highest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))


def _figure(sample: Sample, figure: Figure) -> float:
    return sample.latency["p99"] if figure == "p99" else sample.cost


@attrs.define
class Outcome:
    """All samples of one scenario: by peer, then by round."""

    scenario: Scenario
    alone: Sample | None = None
    samples: dict[str, dict[int, Sample]] = attrs.Factory(dict)
    failures: list[str] = attrs.Factory(list)

    def spread(self, peer: str, figure: Figure = "cost") -> Spread:
        return Spread.of(_figure(sample, figure) for sample in self.samples[peer].values())

    def best(self, name: str) -> str | None:
        """Return the cheaper of a peer's variants, `nginx` or `nginx-64k`."""
        variants = [peer for peer in self.samples if peer == name or peer.startswith(f"{name}-")]
        return min(variants, key=lambda peer: self.spread(peer).median, default=None)

    def ratio(self, peer: str, base: str, figure: Figure = "cost") -> Spread | None:
        """Compare round by round: what slows one turn often slows its neighbours too."""
        ours, theirs = self.samples.get(peer, {}), self.samples.get(self.best(base) or "", {})
        rounds = sorted(ours.keys() & theirs.keys())
        pairs = [(_figure(ours[n], figure), _figure(theirs[n], figure)) for n in rounds]
        ratios = [mine / other for mine, other in pairs if other > 0]
        return Spread.of(ratios) if ratios else None


def _latency(samples: Iterable[Sample], name: str) -> str:
    known = [sample.latency[name] for sample in samples if name in sample.latency]
    return f"{statistics.median(known):.0f}" if known else "-"


def _row(outcome: Outcome, peer: str) -> list[str]:
    samples = outcome.samples[peer].values()
    cost = outcome.spread(peer)
    ratio = outcome.ratio(peer, outcome.scenario.base)
    timed = not outcome.scenario.sessions
    return [
        peer,
        f"{cost.median:.2f}",
        f"{cost.low:.2f}-{cost.high:.2f}",
        f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else "-",
        f"{statistics.median(sample.user for sample in samples):.2f}" if timed else "-",
        f"{statistics.median(sample.rate for sample in samples):.0f}" if timed else "-",
        f"{statistics.median(sample.busy for sample in samples):.0%}" if timed else "-",
        f"{statistics.median(sample.load for sample in samples):.0%}" if timed else "-",
        *(_latency(samples, name) for name in ("p50", "p99", "p99.9")),
    ]


def _goal_line(outcome: Outcome, goal: Goal) -> str | None:
    if not goal.peer:
        return _absolute_goal_line(outcome, goal)
    ratio = outcome.ratio(goal.ours, goal.peer, goal.figure)
    if ratio is None:
        return None
    verdict = "met" if ratio.median <= goal.ratio else "missed"
    what = "p99 latency" if goal.figure == "p99" else "cost"
    return f"  goal {verdict}: {what} {ratio.median:.2f} x {goal.peer}, wanted {goal.ratio:.2f}"


def _absolute_goal_line(outcome: Outcome, goal: Goal) -> str | None:
    if goal.ours not in outcome.samples:
        return None
    figure = outcome.spread(goal.ours, goal.figure)
    verdict = "met" if figure.median <= goal.ratio else "missed"
    unit = outcome.scenario.unit
    return f"  goal {verdict}: {figure.median:.2f} {unit}, wanted {goal.ratio:.2f}"


def _alone_line(outcome: Outcome) -> str:
    alone = outcome.alone
    if alone is None:
        return ""
    units = {"ms/session": "sessions", "µs/request": "requests"}
    unit = units.get(outcome.scenario.unit, "relayed messages")
    return f"  without a proxy, over plain TCP, the load would make {alone.rate:.0f} {unit}/s"


def print_outcome(outcome: Outcome) -> None:
    """Print one scenario's table."""
    unit = outcome.scenario.unit
    head = [
        "",
        unit,
        "spread",
        f"x {outcome.scenario.base}",
        "user",
        "per s",
        "busy",
        "load",
        "p50 µs",
    ]
    head += ["p99 µs", "p99.9 µs"]
    rows = [head, *(_row(outcome, peer) for peer in outcome.samples)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    print(f"\n{outcome.scenario.title}  [{outcome.scenario.name}]")
    for row in rows if outcome.samples else []:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print(f"  {row[0].ljust(widths[0])}  {'  '.join(cells)}".rstrip())
    goals = [_goal_line(outcome, goal) for goal in outcome.scenario.goals]
    for line in [_alone_line(outcome), *goals]:
        if line:
            print(line)


def print_curve(title: str, axis: str, outcomes: dict[int, Outcome]) -> None:
    """Print what a curve is drawn from: a line for each proxy, a column for each point."""
    unit = next(iter(outcomes.values())).scenario.unit
    print(f"\nHow the cost grows: {title}, in {unit}")
    peers = {peer: None for outcome in outcomes.values() for peer in outcome.samples}
    print(f"  {axis:>12}" + "".join(f"{x:>10}" for x in outcomes))
    for peer in peers:
        medians = [
            f"{outcome.spread(peer).median:.2f}" if peer in outcome.samples else "-"
            for outcome in outcomes.values()
        ]
        print(f"  {peer:>12}" + "".join(f"{median:>10}" for median in medians))


def _summary(outcome: Outcome) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for peer in outcome.samples:
        ratio = outcome.ratio(peer, outcome.scenario.base)
        summary[peer] = {
            "cost": attrs.asdict(outcome.spread(peer)),
            "ratio": attrs.asdict(ratio) if ratio else None,
        }
    return summary


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "scenario": attrs.asdict(outcome.scenario),
        "alone": attrs.asdict(outcome.alone) if outcome.alone else None,
        "summary": _summary(outcome),
        "samples": {
            peer: [attrs.asdict(sample) | {"round": n + 1} for n, sample in rounds.items()]
            for peer, rounds in outcome.samples.items()
        },
        "failures": outcome.failures,
    }


def document(
    outcomes: list[Outcome],
    machine: dict[str, str | int],
    versions: dict[str, str],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return everything that was measured, as JSON has it."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "versions": versions,
        "settings": {name: settings[name] for name in ("rounds", "seconds", "warmup", "no_pin")},
        "scenarios": [_plain(outcome) for outcome in outcomes],
    }


def write_results(results: dict[str, Any], folder: Path) -> None:
    """Write results.json, and the table that README shows, table.md."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n")
    (folder / "table.md").write_text(_table(results))


def _table(results: dict[str, Any]) -> str:
    """Return a line for each scenario, a column for each proxy; of nginx's variants the best."""
    peers = list(dict.fromkeys(name.partition("-")[0] for name in results["versions"]))
    lines = ["| median | unit | " + " | ".join(peers) + f" | {OURS} / {BASE} |"]
    lines.append("|---|---|" + "--:|" * (len(peers) + 1))
    for one in results["scenarios"]:
        scenario, summary = one["scenario"], one["summary"]
        ours = next((name for name in summary if name.partition("-")[0] == OURS), None)
        if scenario["of_curve"] or scenario["base"].partition("-")[0] != BASE or ours is None:
            continue
        cells = [_best_cost(summary, peer) for peer in peers]
        ratio = summary[ours]["ratio"]
        spread = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
        lines.append(
            f"| {scenario['title']} | {scenario['unit']} | {' | '.join(cells)} | {spread} |"
        )
    return "\n".join(lines) + "\n"


def _best_cost(summary: dict[str, Any], peer: str) -> str:
    costs = [
        found["cost"]["median"]
        for name, found in summary.items()
        if name == peer or name.startswith(f"{peer}-")
    ]
    if not costs:
        return "-"
    return f"{min(costs):.0f}" if min(costs) >= 100 else f"{min(costs):.2f}"
