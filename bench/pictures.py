"""The figures of a run as pictures."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]

from .report import OURS, Outcome

mpl.use("Agg")
from matplotlib import pyplot as plt  # type: ignore[import-not-found, unused-ignore]
from matplotlib.ticker import NullFormatter  # type: ignore[import-not-found, unused-ignore]

if TYPE_CHECKING:
    from pathlib import Path

    from .curves import Curve

__all__ = ["draw"]

_COLUMNS = 3
_PLAIN, _OURS, _INK = "#9fb3c8", "#0b7285", "#243b53"


def _bars(axes: Any, outcome: Outcome) -> None:  # noqa: ANN401  matplotlib may be absent
    peers = list(outcome.samples)
    spreads = [outcome.spread(peer) for peer in peers]
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.low for spread in spreads]
    above = [spread.high - spread.median for spread in spreads]
    colours = [_OURS if peer == OURS else _PLAIN for peer in peers]
    axes.barh(peers, medians, xerr=[below, above], color=colours, ecolor=_INK, capsize=2)
    axes.invert_yaxis()
    axes.set_title(outcome.scenario.title, fontsize=9, loc="left", color=_INK)
    axes.set_xlabel(outcome.scenario.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _latencies(axes: Any, outcome: Outcome) -> None:  # noqa: ANN401
    names = ("p50", "p90", "p99", "p99.9")
    for peer, rounds in outcome.samples.items():
        samples = [sample.latency for sample in rounds.values()]
        middles = [statistics.median(found[name] for found in samples) for name in names]
        ours = peer == OURS
        axes.plot(names, middles, marker="o", label=peer, linewidth=2.5 if ours else 1.2)
    axes.set_yscale("log")
    axes.set_title(outcome.scenario.title, fontsize=9, loc="left", color=_INK)
    axes.set_ylabel("µs", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _growth(axes: Any, drawn: tuple[Curve, dict[int, Outcome]]) -> None:  # noqa: ANN401
    curve, outcomes = drawn
    for peer in dict.fromkeys(peer for outcome in outcomes.values() for peer in outcome.samples):
        known = {x: outcome for x, outcome in outcomes.items() if peer in outcome.samples}
        middles = [outcome.spread(peer).median for outcome in known.values()]
        ours = peer == OURS
        axes.plot(list(known), middles, marker="o", label=peer, linewidth=2.5 if ours else 1.2)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if curve.linear:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(curve.title, fontsize=9, loc="left", color=_INK)
    axes.set_xlabel(curve.axis, fontsize=8)
    axes.set_ylabel(curve.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _sheet(drawn: list[Any], paint: Any, heading: str, file: Path) -> Path:  # noqa: ANN401
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 2.6 * rows + 0.5), squeeze=False
    )
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes, one in zip(grid.flat, drawn, strict=False):
        paint(axes, one)
    figure.suptitle(heading, fontsize=11, color=_INK)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return file


def draw(
    outcomes: list[Outcome], curves: dict[Curve, dict[int, Outcome]], folder: Path
) -> list[Path]:
    """Write a sheet of costs, one of latencies and one of curves, and return their files."""
    known = [outcome for outcome in outcomes if outcome.samples]
    timed = [outcome for outcome in known if not outcome.scenario.sessions]
    heading = "Cost in the proxy: median, lowest and highest round (less is better)"
    files = []
    if known:
        files.append(_sheet(known, _bars, heading, folder / "cost.png"))
    if timed:
        heading = "Latency of one echo, push or new session: median of the rounds"
        files.append(_sheet(timed, _latencies, heading, folder / "latency.png"))
    if curves:
        heading = "How the cost grows: medians"
        files.append(_sheet(list(curves.items()), _growth, heading, folder / "growth.png"))
    return files
