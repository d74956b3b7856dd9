"""Measuring a table's cells: each training once, however many cells test it; what is there already is not repeated."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.tables import Cell, Table, paper_accuracy
from fastlift import recipes
from fastlift.config import Config, marked, to_dict
from fastlift.engine.evaluate import evaluate_run
from fastlift.engine.train import train
from fastlift.errors import UserError
from fastlift.runs.folder import RunFolder
from fastlift.settings import May
from fastlift.system.files import write_json
from fastlift.system.progress import Ui

_TELLING = {"data_root", "bad_images", "group_boundaries"}  # a run may go on with others; a table may not mix them
FIGURES = ("accuracy", "many", "medium", "few", "macro_f1", "expected_calibration_error", "log_loss", "samples")


@dataclass(frozen=True)
class Measured:
    """A cell with what was measured, and the paper's accuracy where it is known."""

    title: str
    figures: dict[str, float | None]  # None for a group without a class
    tuned_parameters: int
    paper: float | None
    at: tuple[float, str] | None  # the cell's place in a figure


def cell_config(cell: Cell, dataset: str, common: dict[str, Any]) -> Config:
    """What a cell trains: its recipe, then the settings of the whole sweep, then its own.

    Of the sweep's settings it may have no use for some.

    Raises:
        UserError: they contradict each other.
    """
    base = recipes.build(cell.recipe, dataset)
    if not base.training.epochs:  # zero-shot: a number of epochs is not its
        common = {name: value for name, value in common.items() if name != "epochs"}
    return base.merged(**common).override(**cell.settings)


def training_key(config: Config) -> str:
    """Name of a training by all settings that its figures depend on."""
    flat = {
        name: value
        for name, value in config.flat().items()
        if name not in marked(May.CHANGE) - _TELLING - {"micro_batch"}
    }
    text = json.dumps({name: str(value) for name, value in sorted(flat.items())})
    return f"{config.recipe}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def refuse_compared(cells: Sequence[Cell], dataset: str, common: dict[str, Any]) -> None:
    """Raise a UserError for a setting of the whole sweep that the cells of a table differ in: it would make them the same."""
    plain = [(cell, cell_config(cell, dataset, {}).override(**cell.testing).flat()) for cell in cells]
    for name in common:
        values = [
            (cell.title, flat[name]) for cell, flat in plain if name in flat and (name, flat[name]) != ("epochs", 0)
        ]
        other = next((entry for entry in values if entry[1] != values[0][1]), None)
        if other is not None:
            (first, value), (second, differs) = values[0], other
            raise UserError(
                f"{name}: the table compares it ({value!r} in {first!r}, {differs!r} in {second!r}), so it cannot be set for "
                "all cells"
            )


def with_a_meaning(cells: Sequence[Cell], dataset: str, common: dict[str, Any], ui: Ui) -> list[Cell]:
    """The cells that the settings of the whole sweep leave possible; the others are named.

    Raises:
        UserError: there is none, or a setting changes nothing in any of them.
    """
    configs: dict[Cell, Config] = {}
    refused: dict[Cell, UserError] = {}
    for cell in cells:
        try:
            configs[cell] = cell_config(cell, dataset, common)
        except UserError as error:
            refused[cell] = error
    if not configs:
        raise next(iter(refused.values()), UserError("no cells"))
    for cell, error in refused.items():
        ui.say(f"{cell.title} is left out: {error}")
    for name in common:
        reasons = [_idle(config, name) for config in configs.values()]
        if reasons[0] is not None and None not in reasons:
            raise reasons[0]
    return list(configs)


def _idle(config: Config, name: str) -> UserError | None:
    try:
        config.check_effects([name])
    except UserError as error:
        return error
    return None


def measure_all(
    cells: Sequence[Cell], dataset: str, common: dict[str, Any], folder: Path, ui: Ui, *, wait: bool
) -> list[Measured | None]:
    """All cells in their order.

    Processes that were started on one folder share the work: what another one trains at the moment is None, or with ``wait``
    waited for. Cells that this model or data set cannot have are named and left out.

    Raises:
        UserError: trouble on the way (exit code 1), or no cell is possible.
    """
    rows: list[Measured | None] = []
    refused: list[UserError] = []
    for cell in cells:
        key = training_key(cell_config(cell, dataset, common))
        with _claim(folder / "locks" / key, wait) as is_ours:
            try:
                rows.append(measure(cell, dataset, common, folder, ui) if is_ours else None)
            except UserError as error:
                if error.exit_code != 2:
                    raise
                ui.say(f"{cell.title} is left out: {error}")
                refused.append(error)
    if refused and not rows:
        raise refused[0]
    return rows


@contextmanager
def _claim(file: Path, wait: bool) -> Iterator[bool]:
    """Whether the lock ``file`` is held by this process alone; the system takes it back when the process ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def measure(cell: Cell, dataset: str, common: dict[str, Any], folder: Path, ui: Ui) -> Measured:
    """Train a cell, or take the run that is there (going on with one that was cut short), and test it as the cell says.

    The result is kept in ``folder/cells``, a file a cell, with the config it belongs to.
    """
    config = cell_config(cell, dataset, common)
    key = training_key(config)
    run = RunFolder(folder / "runs" / key)
    tested = config.override(**cell.testing)
    kept = folder / "cells" / f"{key}-{tested.run.ensembling_name}.json"
    if not kept.is_file():
        if not run.has_ended():
            goes_on = run.config.is_file() and run.last_checkpoint() is not None
            train(config, output=run.path, resume=goes_on, overwrite=not goes_on, ui=ui)
        results = json.loads(run.results.read_text(encoding="utf-8"))
        name = tested.run.ensembling_name
        metrics = results["evaluations"].get(name)
        if metrics is None:
            flat = tested.flat()
            crops = {setting: flat[setting] for setting in ("tte", "tte_crops", "expand")}
            metrics = evaluate_run(run.path, settings=crops, ui=ui)[name]
        figures = {figure: metrics[figure] for figure in FIGURES}
        value = {
            "figures": figures,
            "tuned_parameters": results["model"]["tuned_parameters"],
            "testing": name,
            "run": key,
            "config": to_dict(config),
            "machine": results["machine"],
            "versions": results["versions"],
        }
        write_json(kept, value)
    value = json.loads(kept.read_text(encoding="utf-8"))
    paper = paper_accuracy(cell, dataset, config.model.model)
    return Measured(cell.title, value["figures"], value["tuned_parameters"], paper, cell.at)


def markdown(table: Table, dataset: str, rows: list[Measured], seed: int) -> str:
    """The table as Markdown: what was measured, and the paper's accuracy beside it."""
    lines = [f"**{table.title}** of {table.source} on `{dataset}`, seed {seed}, accuracy in %", ""]
    lines_of_figure = {row.at[1] for row in rows if row.at}
    lines += _list(rows) if len(lines_of_figure) < 2 else _grids(table.axis, rows)
    lines += ["", "– : no public source of the paper's number was found, or it is of other data."]
    return "\n".join(lines)


def _list(rows: list[Measured]) -> list[str]:
    lines = ["| | all | many | medium | few | tuned parameters | the paper's, all |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [_percent(row.figures[name]) for name in ("accuracy", "many", "medium", "few")]
        paper = "–" if row.paper is None else f"{row.paper:.1f}"
        lines.append(f"| {row.title} | {' | '.join(cells)} | {row.tuned_parameters:,} | {paper} |")
    return lines


def _grids(axis: str, rows: list[Measured]) -> list[str]:
    """Two settings vary: a grid of accuracies for all classes, and one for the rare ones."""
    placed = {row.at: row for row in rows if row.at}
    across = list(dict.fromkeys(line for _, line in placed))
    lines = []
    rare = rarest(rows)
    for figure, title in (("accuracy", "all"), (rare, rare)):
        lines += [
            "",
            f"| {axis}: {title} | tuned parameters | {' | '.join(across)} |",
            "|---" * (len(across) + 2) + "|",
        ]
        for value in dict.fromkeys(value for value, _ in placed):
            row = [_percent(placed[value, line].figures[figure]) for line in across]
            lines.append(f"| {value:g} | {placed[value, across[0]].tuned_parameters:,} | {' | '.join(row)} |")
    return lines[1:]


def rarest(rows: list[Measured]) -> str:
    """The rarest group that the data set has classes in: "few", "medium" or "many"."""
    return next(name for name in ("few", "medium", "many") if any(row.figures[name] is not None for row in rows))


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.1f}"  # a group may have no class
