"""Results in the terminal: rich tables for one evaluation or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fastlift.reporting.figures import COMPARED, FIGURES, SELECTIVE, best
from fastlift.reporting.seeds import SeedFigure


def metrics_table(metrics: Mapping[str, Any], title: str = "Results", split: str = "test") -> Table:
    """All figures of one evaluation, one a row.

    Args:
        metrics: `Metrics.to_dict()` or `Metrics.summary()`; figures that it lacks show as a dash.
        title: shown above.
        split: whose images they are, as people call it: training, validation, test.
    """
    table = Table(title=Text(title), box=SIMPLE_HEAD, show_header=False, title_justify="left", caption_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", style="dim")
    sizes = metrics.get("group_sizes") or {}
    for figure in (*FIGURES, *(SELECTIVE if "coverage" in metrics else ())):
        classes = sizes.get(figure.name)
        unit = figure.unit if classes is None else f"{figure.unit}  ({_counted(classes, 'class', 'classes')})"
        emphasis = "bold" if figure.name == "accuracy" else None
        table.add_row(Text(figure.title(metrics)), Text(figure.text(metrics), style=emphasis or ""), unit)
    table.caption = Text(_caption(metrics, split), style="dim")
    return table


def comparison_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several evaluations or runs, one a row; the best value of each column is bold. All figures in percent.

    Args:
        rows: metrics by the name to show.
    """
    table = Table(title=Text("Results (%)"), box=None, title_justify="left", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for figure in COMPARED:
        table.add_column(figure.short, justify="right", no_wrap=True)
    leaders = {figure.name: best(figure, rows) for figure in COMPARED}
    for name, metrics in rows.items():
        cells = [
            Text(figure.text(metrics), style="bold" if name in leaders[figure.name] else "") for figure in COMPARED
        ]
        table.add_row(Text(name), *cells)
    return table


def over_seeds_table(figures: Mapping[str, SeedFigure], title: str) -> Table:
    """Each figure over runs that differ in the seed alone, one a row."""
    table = Table(title=Text(title), box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for heading in SeedFigure.HEADINGS:
        is_words = heading in ("figure", "unit")
        table.add_column(heading, justify="left" if is_words else "right", no_wrap=not is_words)
    for name, figure in figures.items():
        table.add_row(*(Text(text) for text in figure.texts()), style="bold" if name == "accuracy" else None)
    table.caption = Text("Student's t counts seeds alone, not the choice of the test images", style="dim")
    return table


def _caption(metrics: Mapping[str, Any], split: str) -> str:
    caption = _counted(metrics["samples"], f"{split} image", f"{split} images") if metrics.get("samples") else ""
    if metrics.get("non_finite"):
        caption += f"; for {metrics['non_finite']} of them the model gave NaN or infinity, counted as wrong"
    return caption


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
