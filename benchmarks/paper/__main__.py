"""``python -m benchmarks.paper TABLE [TABLE ...] --dataset NAME``: the papers' sweeps on any data set and backbone.

Each cell's training is a run folder, each result a file: a sweep that was stopped goes on where it was, and tables share
trainings. Several processes started with the same words share the work. Settings of all cells are given as
``--set NAME=VALUE`` by the names of the flags of ``fastlift train``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.paper import sweep
from benchmarks.paper.tables import NAMES, Cell, Table, table
from fastlift.errors import UserError
from fastlift.reporting.console import Terminal
from fastlift.system.files import write_json


def main(arguments: list[str] | None = None) -> int:
    """Measure the named tables, print them, and keep them under ``--folder`` as JSON and Markdown, figures as SVG too.

    Returns:
        0 done, 2 wrong use.
    """
    options = _parse(arguments)
    try:
        _measure(options)
    except UserError as error:
        print(f"benchmarks.paper: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _measure(options: argparse.Namespace) -> None:
    common, ui = _settings(options), Terminal()
    sweeps = {name: table(name) for name in (NAMES if "all" in options.tables else options.tables)}
    cells = {name: list(found.cells) for name, found in sweeps.items()}
    if "table13" in cells:
        cells["table13"] += _descriptor_cells(options.descriptors)
    for row in cells.values():
        sweep.refuse_compared(row, options.dataset, common)
    possible = set(sweep.with_a_meaning([cell for row in cells.values() for cell in row], options.dataset, common, ui))
    waiting = list(sweeps)
    for wait in (False, True):  # first everything that no other process is at
        for name in list(waiting):
            chosen = [cell for cell in cells[name] if cell in possible]
            rows = sweep.measure_all(chosen, options.dataset, common, options.folder, ui, wait=wait)
            if None not in rows:
                waiting.remove(name)
                _show(name, sweeps[name], options, [row for row in rows if row is not None], int(common.get("seed", 0)))


def _show(name: str, found: Table, options: argparse.Namespace, rows: list[sweep.Measured], seed: int) -> None:
    """Print a table and keep it."""
    text = sweep.markdown(found, options.dataset, rows, seed)
    print(f"\n{text}\n", flush=True)
    tables = options.folder / "tables"
    write_json(tables / f"{name}.json", {"dataset": options.dataset, "seed": seed, "rows": [vars(row) for row in rows]})
    (tables / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    if found.axis:
        from benchmarks.paper.plots import draw

        draw(found, options.dataset, rows, tables / f"{name}.svg")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.paper", description=__doc__)
    parser.add_argument("tables", nargs="+", choices=[*NAMES, "all"], metavar="TABLE", help=", ".join([*NAMES, "all"]))
    parser.add_argument("--dataset", default="shapes_lt")
    parser.add_argument("--folder", type=Path, help="results and runs (default: runs/paper/DATASET)")
    parser.add_argument("--descriptors", type=Path, help="JSON of class descriptions, for table13")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings", help="for all cells")
    options = parser.parse_args(arguments)
    options.folder = options.folder or Path("runs") / "paper" / options.dataset
    return options


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """``--set`` values, as JSON where they are JSON (numbers, null, lists), else as text."""
    found: dict[str, Any] = {}
    for pair in options.settings:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair}: expected NAME=VALUE")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            found[name.replace("-", "_")] = value
    return found


def _descriptor_cells(file: Path | None) -> list[Cell]:
    if file is None:
        return []
    return [Cell("descriptors", "lift", {"prompt": f"descriptor:{file}"}, {"tte": "fivecrop"})]


if __name__ == "__main__":
    raise SystemExit(main())
