"""The paper's findings on the embedded data set: ``make results``, or ``python -m benchmarks.findings --help``.

Every row is trained with each seed by the public recipes, evaluated on the same balanced test split, and reported as it came
out: mean and spread of the accuracy by many, medium and few. Runs that are there already are not repeated. The table goes
to stdout, to ``benchmarks/results/findings.json`` and into ``docs/results.md``, between its two markers.

``--table progressive`` compares accuracy and cost of progressive image sizes with those of ``lift``, on any data set
(``benchmarks/cost.py``): seed by seed, so that the compared runs alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cost
from benchmarks.documents import RESULTS, ROOT, fill
from fastlift import recipes
from fastlift.config import Config
from fastlift.engine.evaluate import evaluate_run
from fastlift.engine.train import train
from fastlift.reporting.console import Terminal
from fastlift.system.device import describe_machine, resolve_device, versions
from fastlift.system.files import write_json
from fastlift.system.progress import Ui

COLUMNS = ("accuracy", "many", "medium", "few")


@dataclass(frozen=True)
class Row:
    """One line of the table: a recipe with changes, and how it is evaluated."""

    title: str
    key: str
    recipe: str
    settings: dict[str, Any]
    ensembling: str = "none"


ROWS = (
    Row("zero-shot", "zero_shot", "zero_shot", {}),
    Row("linear probe (LA, text init)", "linear_probe", "linear_probe", {}),
    Row("full fine-tuning, lr 0.01", "full", "full_finetune", {}),
    Row("full fine-tuning, lr 0.001", "full_low", "full_finetune", {"lr": 0.001}),
    Row("LIFT with CE", "lift_ce", "lift", {"loss": "CE"}),
    Row("LIFT with LA, random init", "lift_random", "lift", {"init": "random"}),
    Row("LIFT", "lift", "lift", {}),
    Row("LIFT with five crops", "lift", "lift", {}, ensembling="fivecrop"),
    Row("LIFT+", "lift_plus", "lift_plus", {}),
)


# Thirds of the epochs at each size, a milder growth, and what ``lift`` reaches in fewer epochs.
PROGRESSIVE = (
    Row("`lift`", "lift", "lift", {}),
    Row("`--progressive-sizes 0.7 0.85 1`", "thirds", "lift", {"progressive_sizes": (0.7, 0.85, 1.0)}),
    Row("`--progressive-sizes 0.85 1`", "halves", "lift", {"progressive_sizes": (0.85, 1.0)}),
    Row("`--epochs 7`", "lift_7", "lift", {"epochs": 7}),
)


def measure(row: Row, seed: int, folder: Path, dataset: dict[str, Any], ui: Ui) -> dict[str, Any]:
    """Metrics of one row with one seed, from the run that is there or a new one."""
    config = config_of(row, seed, dataset)
    run = folder / f"{row.key}-seed{seed}"
    if not (run / "results.json").is_file():
        ui.say(f"{row.title}, seed {seed}")
        with cost.measured() as training:
            train(config, output=run, overwrite=True, ui=ui)
        write_json(run / "cost.json", {"cpu_s": training.cpu_s})
    results = json.loads((run / "results.json").read_text())
    if row.ensembling == "none":
        return results["metrics"]
    if row.ensembling not in results["evaluations"]:
        evaluate_run(run, settings={"tte": row.ensembling})
        results = json.loads((run / "results.json").read_text())
    return results["evaluations"][row.ensembling]


def config_of(row: Row, seed: int, dataset: dict[str, Any]) -> Config:
    """What a row trains with a seed."""
    return recipes.build(row.recipe, **dataset | row.settings, seed=seed, amp="fp32")


def summarise(per_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) of each column over the seeds."""
    summary: dict[str, Any] = {}
    for column in COLUMNS:
        values = [metrics[column] for metrics in per_seed]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[column] = {"mean": statistics.fmean(values), "spread": spread, "values": values}
    return summary


def markdown(rows: dict[str, dict[str, Any]], seeds: list[int]) -> str:
    """The table as Markdown."""
    lines = [
        f"| {len(seeds)} seeds, mean ± spread | all | many | medium | few |",
        "|---|---|---|---|---|",
    ]
    for title, summary in rows.items():
        cells = [f"{summary[column]['mean']:.1f} ± {summary[column]['spread']:.1f}" for column in COLUMNS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all rows, and print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=("findings", "progressive"), default="findings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "findings", help="where the runs are kept")
    parser.add_argument("--dataset", default="shapes_lt")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", help="default: as the recipes choose for the data set")
    parser.add_argument("--pretrained")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--epochs", type=int, help="of all rows that do not name theirs (default: the recipes')")
    parser.add_argument("--rows", nargs="+", choices=[row.key for row in PROGRESSIVE], help="of --table progressive")
    options = parser.parse_args()
    given = ("dataset", "data_root", "model", "pretrained", "threads", "epochs")
    dataset = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    if options.table == "progressive":
        rows = [row for row in PROGRESSIVE if options.rows is None or row.key in options.rows]
        progressive(options.dataset, dataset, rows, options.seeds, options.folder)
        return
    ui = Terminal()
    rows = {
        row.title: summarise([measure(row, seed, options.folder, dataset, ui) for seed in options.seeds])
        for row in ROWS
    }
    table = markdown(rows, options.seeds)
    print(table)
    if options.dataset == "shapes_lt" and options.model is None:
        write_json(RESULTS / "findings.json", {**facts(options.seeds), "rows": rows})
        fill(ROOT / "docs" / "results.md", "findings", table)


def progressive(name: str, dataset: dict[str, Any], rows: list[Row], seeds: list[int], folder: Path) -> None:
    """Accuracy and cost of progressive image sizes beside those of ``lift``, on one data set, to which they are added."""
    found: dict[str, list[dict[str, Any]]] = {row.title: [] for row in rows}
    for seed in seeds:
        for row in rows:
            run = folder / f"{row.key}-seed{seed}"
            metrics = measure(row, seed, folder, dataset, Terminal())
            spent = json.loads((run / "cost.json").read_text())
            tflop = cost.training_tflop(config_of(row, seed, dataset), json.loads((run / "results.json").read_text()))
            found[row.title].append({**{column: metrics[column] for column in COLUMNS}, **spent, "tflop": tflop})
    file = RESULTS / "progressive.json"
    sets = json.loads(file.read_text())["sets"] if file.is_file() else {}
    sets[name] = {**facts(seeds), "rows": found}
    write_json(file, {"sets": sets})
    table = cost.markdown(sets)
    print(table)
    fill(ROOT / "docs" / "results.md", "progressive", table)


def facts(seeds: list[int]) -> dict[str, Any]:
    """Where and with what a table was measured."""
    return {"machine": describe_machine(resolve_device("auto")), "versions": versions(), "seeds": seeds}


if __name__ == "__main__":
    main()
