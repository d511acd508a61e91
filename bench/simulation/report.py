"""The figures as a table and as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import attrs

from .scenarios import Scenario
from .tally import Figures, Series

__all__ = ["Result", "print_results", "write_json"]


@attrs.frozen(kw_only=True)
class Result:
    """One balancer in one scenario."""

    scenario: Scenario
    balancer: str
    calm: float
    figures: Figures
    series: Series
    #: What it took here.
    events: int
    seconds: float


_HEAD = (
    "",
    "lost for good",
    "failed handshakes",
    "cut",
    "on a zombie",
    "even after",
    "peak connects/s",
    "without p99",
    "longest",
    "well, unused",
    "took",
)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _row(result: Result) -> list[str]:
    figures = result.figures
    return [
        result.balancer,
        f"{figures.lost:,}",
        f"{figures.failed_handshakes:,}",
        f"{figures.sessions_cut:,}",
        f"{figures.on_zombie:,}",
        _seconds(figures.even_after),
        f"{figures.peak_connects:,}",
        _seconds(figures.without_p99),
        _seconds(figures.without_longest) + ("*" if figures.out_at_end else ""),
        f"{figures.unused_node_seconds:,}",
        f"{result.seconds:.0f} s",
    ]


def print_results(scenario: Scenario, results: list[Result]) -> None:
    """Print one scenario's table."""
    rows = [list(_HEAD), *map(_row, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    print(f"\n({scenario.letter}) {scenario.title}  [{scenario.name}]")
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print(f"  {row[0].ljust(widths[0])}  {'  '.join(cells)}")
    for result in results:
        if out := result.figures.out_at_end:
            print(f"  * {result.balancer}: {out:,} clients had no session at the end")


def _plain(result: Result) -> dict[str, Any]:
    return {
        "scenario": result.scenario.name,
        "balancer": result.balancer,
        "faults_over_at": result.calm,
        "figures": attrs.asdict(result.figures),
        "series": attrs.asdict(result.series),
        "events": result.events,
        "seconds": round(result.seconds, 1),
    }


def write_json(results: list[Result], settings: dict[str, Any], file: Path) -> None:
    """Write everything, a value of each series for each second."""
    document = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": settings,
        "results": [_plain(result) for result in results],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
