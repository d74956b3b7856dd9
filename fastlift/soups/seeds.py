"""Several seeds in one command: a run after the other in one folder, then mean and spread, so that nobody reads noise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from fastlift.callbacks.callback import Callback
from fastlift.config import Config, absolute_paths, to_dict
from fastlift.data.datasets.dataset import DataSet
from fastlift.engine.agreement import first_says, join
from fastlift.engine.model import choose_amp
from fastlift.engine.opening import Asked, Place
from fastlift.engine.processes import company
from fastlift.engine.train import LEAVING_S, Run
from fastlift.errors import UserError
from fastlift.models.precision import dtype_name
from fastlift.reporting.notebook import ui_for
from fastlift.reporting.seeds import SeedFigure, over_seeds
from fastlift.runs import folder as runs
from fastlift.runs.claims import Claim
from fastlift.runs.names import default_path, seed_path
from fastlift.runs.seeds import PAGE, Plan, check_folder, old_runs, planned, read_plan
from fastlift.settings import MOST
from fastlift.soups.stages import train
from fastlift.system import launcher
from fastlift.system.device import using_device
from fastlift.system.html_table import html_table
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.system.signals import Interrupted, Signalled, StopSignals

MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedRuns:
    """Runs that differ in the seed alone, all ended: their folder, the runs by seed, and each figure over the seeds."""

    folder: Path
    runs: dict[int, Run]
    figures: dict[str, SeedFigure] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the folder, each figure's mean and spread, and the figures of each run."""
        return {
            "folder": str(self.folder),
            "seeds": list(self.runs),
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "runs": {str(seed): run.metrics.summary() for seed, run in self.runs.items()},
        }

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        rows = [figure.texts() for figure in self.figures.values()]
        return html_table(f"{self.folder}: {len(self.runs)} seeds", SeedFigure.HEADINGS, rows)


def train_seeds(
    config: Config,
    seeds: int = 3,
    *,
    dataset: DataSet | None = None,
    output: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    ui: Ui | Literal["auto"] | None = "auto",
    callbacks: Sequence[Callback] = (),
) -> SeedRuns:
    """Train by a config with several seeds, one run after the other, and write what they say together.

    Each run is what ``fastlift.train`` makes with its seed, bit by bit, in ``seed-N`` of the folder. With several processes all of
    them train each run together.

    Args:
        config: of the first run; its seed is the first one, the others are those that follow it.
        seeds: how many, two at least.
        output: the folder of the runs, by default ``runs/DATASET-RECIPE-TIME``; also ``seeds.json`` and ``report.html`` lie there.
        resume: go on with the run that was cut, pass over those that have ended, and begin the others; ``seeds`` may be more than
            there were. ``"auto"``: start where there is nothing to go on with.
        overwrite: new runs take the place of those that are there, each when it begins.
        dataset, ui, callbacks: as for ``fastlift.train``; callbacks are told of each run in turn.

    Raises:
        UserError: as ``fastlift.train``; and a folder that holds something else, or runs of other seeds.
        Interrupted: a signal came; what was done is saved, and the message tells how to go on.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with runs, --overwrite replaces them: choose one of them")
    first = config.run.seed
    if not 2 <= seeds <= MOST_SEEDS or first + seeds > MOST:
        raise UserError(f"seeds: expected 2 to {MOST_SEEDS:,} seeds, which follow --seed {first}, got {seeds}")
    config = absolute_paths(config if dataset is None else config.of_data(dataset))
    with company() as world:
        told = ui_for(ui) if world.is_main else Quiet()
        if output is None and (world.size > 1 or resume):
            raise UserError(f"{'several processes need' if world.size > 1 else 'resume needs'} a folder: --output")
        device = join(world, config, resume=resume, overwrite=overwrite, seeds=seeds)
        path = Path(output) if output is not None else default_path(config.data.dataset, config.recipe)
        with _way_on_told(path), StopSignals(), Claim(path, told.say) if world.is_main else nullcontext() as claim:

            def ready() -> str:
                assert claim is not None
                check_folder(path, resume=resume, overwrite=overwrite)
                claim.take(LEAVING_S if resume == "auto" else 0.0)
                plan = _plan(path, to_dict(config), tuple(range(first, first + seeds)), overwrite)
                plan.write(path)
                return json.dumps(msgspec.to_builtins(plan))

            plan = msgspec.json.decode(first_says(world, ready), type=Plan)
            asked = Asked(config, path, False, overwrite, None)
            config, plan = _in_one_dtype(asked, plan, Place(world, device, claim, told))
            found: dict[int, Run] = {}
            for number, seed in enumerate(plan.seeds, 1):
                own = seed_path(path, seed)
                told.say(f"seed {seed} ({number} of {len(plan.seeds)}): {own}")
                how = first_says(world, lambda seed=seed: _how(plan, path, seed))  # type: ignore[misc]
                run = train(
                    config.merged(seed=seed),
                    dataset=dataset,
                    output=own,
                    resume=("auto" if resume == "auto" else True) if how == "resume" else False,
                    overwrite=how == "overwrite",
                    ui=ui,
                    callbacks=callbacks,
                )
                found[seed] = replace(run, trained=None)  # which would stay in memory beside the next one's
            all_of_them = SeedRuns(path, found, over_seeds([run.metrics.to_dict() for run in found.values()]))
            if world.is_main:
                _end(all_of_them, plan, told)
    return all_of_them


def _plan(path: Path, settings: dict[str, Any], seeds: tuple[int, ...], overwrite: bool) -> Plan:
    if overwrite:
        return Plan(seeds, settings, old_runs(path, seeds))
    known = read_plan(path)
    return Plan(seeds, settings) if known is None else planned(known, seeds, settings)


def _in_one_dtype(asked: Asked, plan: Plan, place: Place) -> tuple[Config, Plan]:
    """Settings and plan with the dtype that all seeds train in: where it is measured, runs would measure one after the other."""
    chosen = plan.config["run"]["amp"]
    if chosen == "auto":
        with using_device(place.device), asked.config.part(ThreadSettings).use():
            chosen = dtype_name(choose_amp(asked, place).dtype)
        plan = replace(plan, config=to_dict(asked.config.merged(amp=chosen)))
        if place.world.is_main:
            plan.write(asked.path)
    return asked.config.merged(amp=chosen), plan


def _how(plan: Plan, path: Path, seed: int) -> str:
    """Whether the run of a seed takes the place of an old one, goes on, or starts."""
    if plan.is_old(path, seed):
        return "overwrite"
    return "resume" if runs.holds_run(seed_path(path, seed)) else "start"


def _end(found: SeedRuns, plan: Plan, ui: Ui) -> None:
    """Write what the runs say together: ``seeds.json``, and the page unless it is there and no run is newer."""
    told = found.to_dict()
    Plan(plan.seeds, plan.config, {}, told["figures"], told["runs"]).write(found.folder)
    page, folders = found.folder / PAGE, [run.folder for run in found.runs.values()]
    newest = max(runs.RunFolder(folder).results.stat().st_mtime_ns for folder in folders)
    if not page.is_file() or page.stat().st_mtime_ns < newest:
        from fastlift.reporting.html import write_report

        write_report(folders, page)
    ui.say(f"{len(folders)} runs in {found.folder}; open {page} to see them side by side")


@contextmanager
def _way_on_told(path: Path) -> Iterator[None]:
    try:
        yield
    except Signalled as signalled:  # between two runs, which tell it themselves
        way_on = f"{launcher.command()} train --resume --output {shlex.quote(str(path))}"
        raise Interrupted(f"{signalled}: stopped; the seeds in {path} go on with: {way_on}", signalled.number) from None
