"""Results in the terminal: rich tables for one evaluation or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fastlift.reporting.figures import COMPARED, FIGURES, SELECTIVE, Figure, best
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
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("unit", style="dim")
    sizes = metrics.get("group_sizes") or {}
    for figure in (*FIGURES, *(SELECTIVE if "coverage" in metrics else ())):
        classes = sizes.get(figure.name)
        unit = figure.unit if classes is None else f"{figure.unit}  ({_counted(classes, 'class', 'classes')})"
        emphasis = "bold" if figure.name == "accuracy" else None
        value, interval = (
            Text(figure.text(metrics), style=emphasis or ""),
            Text(figure.range_text(metrics), style="dim"),
        )
        table.add_row(Text(figure.title(metrics)), value, interval, unit)
    table.caption = Text(_caption(metrics, split), style="dim")
    return table


def comparison_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Several evaluations or runs, one a row; the best value of each column is bold. All figures in percent.

    Args:
        rows: metrics by the name to show.
    """
    leaders = {figure.name: best(figure, rows) for figure in COMPARED}
    lines = {
        name: [Text(figure.text(metrics), style="bold" if name in leaders[figure.name] else "") for figure in COMPARED]
        for name, metrics in rows.items()
    }
    return _beside("Results (%)", COMPARED, lines)


def intervals_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """The 95 % intervals of the figures of ``comparison_table``, of those that have one."""
    shown = [figure for figure in COMPARED if any(figure.interval(metrics) for metrics in rows.values())]
    lines = {name: [Text(figure.range_text(one).strip("()")) for figure in shown] for name, one in rows.items()}
    return _beside("95 % intervals (%)", shown, lines)


def _beside(title: str, figures: Sequence[Figure], lines: Mapping[str, Sequence[Text]]) -> Table:
    table = Table(title=Text(title), box=None, title_justify="left", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for figure in figures:
        table.add_column(figure.short, justify="right", no_wrap=True)
    for name, cells in lines.items():
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
    if metrics.get("intervals"):
        caption += "; in brackets 95 % intervals, which chance in their choice leaves open"
    return caption


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
