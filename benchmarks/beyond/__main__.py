"""What LIFT's successors change on a data set, over seeds; and where light and full fine-tuning change places.

``python -m benchmarks.beyond`` trains every way with each seed and fills its table in ``docs/results.md``.
``python -m benchmarks.beyond --study`` is the controlled study of LT-Soups in small, on the drawn set: the head-to-tail ratio
against the imbalance ratio. The same command, started again, goes on where it was; started several times with other ``--seeds``
and the same ``--folder`` the processes share the work, and a last call with all seeds writes the table.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.beyond.table import COLUMNS, markdown, summary
from benchmarks.beyond.ways import WAYS, Measured, Sweep, study_ways
from benchmarks.documents import RESULTS, ROOT, fill, table
from fastlift.reporting.console import Terminal
from fastlift.system.device import describe_machine, resolve_device, versions
from fastlift.system.files import write_json

RATIOS, SHARES = (20.0, 100.0), (0.9, 0.5, 0.1)


def compare(sweep: Sweep, seeds: list[int], keys: list[str] | None, name: str) -> None:
    """All ways on one data set."""
    ways = [way for way in WAYS if keys is None or way.key in keys]
    # Seed by seed, so that a sweep that is stopped has whole seeds.
    found: dict[str, list[Measured]] = {way.title: [] for way in ways}
    for seed in seeds:
        for way in ways:
            found[way.title].append(way.of(sweep, seed))
    first = found[ways[0].title]
    rows = {title: summary(measured, first) for title, measured in found.items()}
    text = markdown(rows, seeds)
    print(text)
    if keys is None:
        write_json(RESULTS / f"beyond_{name}.json", facts(seeds, sweep.common) | {"rows": rows})
        fill(ROOT / "docs" / "results.md", f"beyond_{name}", text)


def study(folder: Path, seeds: list[int], ui: Terminal, common: dict[str, Any]) -> None:
    """The drawn set at each imbalance ratio and head share, trained in each way."""
    found: dict[str, Any] = {}
    for seed in seeds:
        for ratio in RATIOS:
            for share in SHARES:
                cell = f"ratio {ratio:g}, {100 * share:g} % head"
                sweep = Sweep(
                    folder / f"ratio{ratio:g}-head{share:g}",
                    common | {"dataset": "shapes_lt", "imbalance_ratio": ratio, "head_share": share},
                    ui,
                )
                for way in study_ways():
                    metrics = way.of(sweep, seed).metrics
                    kept = found.setdefault(cell, {}).setdefault(way.title, [])
                    kept.append({name: metrics[name] for name in COLUMNS})
    head = ["", *(way.title for way in study_ways()), f"{study_ways()[1].title} − {study_ways()[0].title}"]
    lines = []
    for cell, by_way in found.items():
        means = [statistics.fmean(one["accuracy"] for one in by_way[way.title]) for way in study_ways()]
        cells = [_of_groups(by_way[way.title]) for way in study_ways()]
        lines.append([cell, *cells, f"{means[1] - means[0]:+.1f}"])
    text = table(head, lines)
    print(text)
    write_json(RESULTS / "beyond_study.json", facts(seeds, common) | {"cells": found})
    fill(ROOT / "docs" / "results.md", "beyond_study", text)


def _of_groups(runs: list[dict[str, float | None]]) -> str:
    """All (many / medium / few), means over the seeds; a dash for a group without classes."""
    shown = []
    for name in COLUMNS:
        values = [value for run in runs if (value := run[name]) is not None]
        shown.append(f"{statistics.fmean(values):.1f}" if values else "–")
    return f"{shown[0]} ({' / '.join(shown[1:])})"


def facts(seeds: list[int], common: dict[str, Any]) -> dict[str, Any]:
    """Where and with what a table was measured."""
    machine = describe_machine(resolve_device("auto"))
    kept = {name: value for name, value in common.items() if name != "data_root"}
    return {"machine": machine, "versions": versions(), "seeds": seeds, "settings": kept}


def main() -> None:
    """Measure, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", action="store_true", help="the head-to-tail ratio against the imbalance ratio")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--ways", nargs="+", choices=[way.key for way in WAYS], help="some of them, without keeping a table"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs") / "beyond", help="where the runs are kept")
    parser.add_argument("--dataset", default="shapes_lt")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", help="default: as the recipes choose for the data set")
    parser.add_argument("--epochs", type=int, help="of all ways (default: the recipes')")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    given = ("data_root", "model", "epochs", "threads")
    common = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    if options.study:
        study(options.folder / "study", options.seeds, Terminal(), common)
        return
    folder = options.folder / options.dataset
    sweep = Sweep(folder, common | {"dataset": options.dataset}, Terminal())
    compare(sweep, options.seeds, options.ways, options.dataset)


if __name__ == "__main__":
    main()
