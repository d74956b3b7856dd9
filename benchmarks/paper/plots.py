"""A figure of a paper as lines: accuracy of all classes and of the rare ones over what the sweep changes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.sweep import Measured, rarest
from benchmarks.paper.tables import Table
from fastlift.reporting.svg import SERIES


def draw(table: Table, dataset: str, rows: list[Measured], file: Path) -> None:
    """Write ``file`` (SVG): two panels, a line for each value of the second setting where two vary.

    Cells without a place on the axis are dashed levels.
    """
    with matplotlib.rc_context({"font.size": 9.0, "svg.hashsalt": table.title, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        panels = figure.subplots(1, 2)
        rare = rarest(rows)
        titles = {"accuracy": "all classes", rare: f"{rare}-shot classes"}
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            _panel(axes, table, rows, name)
            axes.set_title(f"{title}, {dataset}", fontsize=9.0)
        panels[1].legend(frameon=False, fontsize=8.0, loc="center left", bbox_to_anchor=(1.0, 0.5))
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _panel(axes: Axes, table: Table, rows: list[Measured], name: str) -> None:
    for index, line in enumerate(dict.fromkeys(row.at[1] for row in rows if row.at)):
        points = [(row.at[0], row.figures[name]) for row in rows if row.at and row.at[1] == line]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=SERIES[index], label=line or table.source)
    for row in rows:
        if row.at is None and row.figures[name] is not None:
            axes.axhline(row.figures[name], color="#777777", linestyle="--", linewidth=1, label=row.title)
    values = [row.at[0] for row in rows if row.at]
    if max(values) > 20 * min(values):
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))], rotation=45)
        axes.minorticks_off()
    axes.set_xlabel(table.axis)
    axes.set_ylabel("accuracy in %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
