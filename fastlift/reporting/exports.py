"""Exported files in the terminal: how each compares with the run, and how fast it is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

OWN = "run (eager)"


def export_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for the run itself and one for each file.

    Args:
        rows: ``format``, ``bytes``, ``difference`` and ``measured`` of each file, as ``fastlift export --json`` prints them.
    """
    measured = [row["measured"] for row in rows if row["measured"]]
    first = measured[0]
    batches = list(first.get("latency_ms", {}))
    with_images = "accuracy" in first
    table = Table(box=SIMPLE_HEAD, title="Exported files", title_justify="left", caption_justify="left")
    table.add_column("format", no_wrap=True)
    headings = ["MiB", "differs by", *(["same class", "accuracy"] if with_images else [])]
    for heading in [*headings, *(f"batch {batch}" for batch in batches)]:
        table.add_column(heading, justify="right")
    own = ["", "", *(["", f"{first['run_accuracy']:.1%}"] if with_images else [])]
    table.add_row(OWN, *own, *(_time(first["run_latency_ms"][batch]) for batch in batches))
    for row in rows:
        found = row["measured"] or {}
        difference = max(row["difference"], found.get("largest_difference", 0.0))
        cells = [f"{row['bytes'] / 2**20:.1f}", f"{difference:.1e}"]
        if with_images:
            cells += [f"{found[name]:.1%}" if name in found else "" for name in ("same_class", "accuracy")]
        times = found.get("latency_ms", {})
        table.add_row(row["format"], *cells, *(_time(times[batch]) if batch in times else "" for batch in batches))
    table.caption = Text(_caption(first, with_images, bool(batches)), style="dim")
    return table


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def _caption(measured: Mapping[str, Any], with_images: bool, with_times: bool) -> str:
    parts = [f"on {measured['images']:,} test images"] if with_images else []
    if with_times:
        parts.append(f"medians of calls in turn on {measured['processor']}, {_threads(measured['threads'])}")
    return "; ".join(parts)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
