"""The figures of a run as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]

from .report import Result
from .scenarios import Scenario
from .tally import EVEN

mpl.use("Agg")
from matplotlib import pyplot as plt  # type: ignore[import-not-found, unused-ignore]

__all__ = ["draw"]

_COLOURS = {"nginx": "#c2410c", "haproxy": "#7c8da5", "tidegate": "#0b7285"}
_OTHERS, _INK = ("#9c36b5", "#2f9e44"), "#243b53"
_BARS = (
    ("lost", "clients lost for good"),
    ("failed_handshakes", "failed handshakes"),
    ("on_zombie", "sessions on a zombie"),
    ("peak_connects", "peak connects/s at one node"),
    ("unused_node_seconds", "well but unused, node seconds"),
)


def _colour(name: str) -> str:
    return _COLOURS.get(name) or _OTHERS[sum(name.encode()) % len(_OTHERS)]


def _dress(axes: Any, title: str) -> None:  # noqa: ANN401  matplotlib may be absent
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Any, results: list[Result], name: str, title: str) -> None:  # noqa: ANN401
    for result in results:
        values = getattr(result.series, name)
        axes.plot(values, label=result.balancer, color=_colour(result.balancer), linewidth=1.2)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    _dress(axes, title)


def _bands(axes: Any, results: list[Result]) -> None:  # noqa: ANN401
    for result in results:
        series, colour = result.series, _colour(result.balancer)
        low, high = (
            [math.nan if value is None else value for value in values]
            for values in (series.emptiest, series.fullest)
        )
        axes.plot(high, color=colour, linewidth=1.2)
        axes.fill_between(range(len(low)), low, high, color=colour, alpha=0.15)
    axes.axhline(EVEN, color=_INK, linewidth=0.6, linestyle=":")
    axes.set_ylim(0, 4)
    axes.set_xlabel("seconds", fontsize=8)
    _dress(axes, "sessions of the emptiest and the fullest node, in means (cut at 4)")


def _course(scenario: Scenario, results: list[Result], file: Path) -> Path:
    """Draw how one scenario went, second by second."""
    figure, grid = plt.subplots(4, 1, figsize=(9, 9.5), sharex=True)
    _lines(grid[0], results, "out", "clients without a session that works, and not lost")
    _lines(grid[1], results, "lost", "clients lost for good")
    _lines(grid[2], results, "peak_connects", "connects/s at the node that had most")
    _bands(grid[3], results)
    for axes in grid:
        axes.axvline(results[0].calm, color=_INK, linewidth=0.6, linestyle="--")
    grid[0].legend(fontsize=8, frameon=False)
    title = f"{scenario.title[0].upper()}{scenario.title[1:]} (dashed: the last fault is over)"
    figure.suptitle(title, fontsize=11, color=_INK)
    return _save(figure, file)


def _overview(scenarios: list[Scenario], results: list[Result], file: Path) -> Path:
    """Draw the figures that are counts, all scenarios beside each other."""
    figure, grid = plt.subplots(
        len(_BARS), len(scenarios), figsize=(2.9 * len(scenarios), 1.5 * len(_BARS)), squeeze=False
    )
    for column, scenario in enumerate(scenarios):
        ours = [result for result in results if result.scenario is scenario]
        names = [result.balancer for result in ours]
        for row, (name, title) in enumerate(_BARS):
            axes = grid[row][column]
            values = [getattr(result.figures, name) for result in ours]
            bars = axes.barh(names, values, color=[_colour(one) for one in names])
            axes.bar_label(bars, [f" {value:,}" for value in values], fontsize=7, color=_INK)
            axes.set_xlim(0, max(*values, 1) * 1.45)
            axes.set_xticks([])
            axes.invert_yaxis()
            _dress(axes, f"({scenario.letter}) {scenario.name}" if not row else "")
            axes.set_xlabel(title, fontsize=7)
            if column:
                axes.set_yticks([])
    figure.suptitle("What became of the clients (less is better)", fontsize=11, color=_INK)
    return _save(figure, file)


def _save(figure: Any, file: Path) -> Path:  # noqa: ANN401
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return file


def draw(results: list[Result], folder: Path) -> list[Path]:
    """Write a sheet of all scenarios and the course of each, and return the files."""
    scenarios = list(dict.fromkeys(result.scenario for result in results))
    files = [_overview(scenarios, results, folder / "overview.png")]
    for scenario in scenarios:
        ours = [result for result in results if result.scenario is scenario]
        files.append(_course(scenario, ours, folder / f"{scenario.letter}-{scenario.name}.png"))
    return files
