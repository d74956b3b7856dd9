"""The folder of a run before it begins: asked for, claimed, opened again or made anew."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fastlift.callbacks.calling import Callbacks
from fastlift.config import Config, load
from fastlift.engine.agreement import first_says
from fastlift.engine.results import complete
from fastlift.errors import UserError
from fastlift.interop.lift_checkpoints import LiftState
from fastlift.models.precision import dtype_name
from fastlift.runs import folder as runs
from fastlift.runs.claims import Claim
from fastlift.runs.folder import RunFolder
from fastlift.runs.given_state import GivenState
from fastlift.runs.identity import Identity
from fastlift.runs.stored import read_results
from fastlift.system.files import write_json
from fastlift.system.machine import cpus
from fastlift.system.progress import Ui
from fastlift.training.distributed import World


@dataclass(frozen=True)
class Asked:
    """What ``train`` was asked for: settings, folder, whether it goes on with a run or replaces one, given start.

    Attributes:
        patience_s: how long to wait for another process that still has the folder.
    """

    config: Config
    path: Path
    resume: bool
    overwrite: bool
    start: str | Path | LiftState | GivenState | None
    patience_s: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where a run happens: its processes, this one's device, its claim on the folder (the first process's), who follows it."""

    world: World
    device: torch.device
    claim: Claim | None
    ui: Ui
    callbacks: Callbacks = field(default_factory=Callbacks)  # the first process's


def goes_on(resume: bool | Literal["auto"], path: Path, world: World) -> bool:
    """Whether to go on with a run: as it is asked for, or where there is one. The first process looks for all.

    Raises:
        UserError: something that is no run is there.
    """
    if resume != "auto":
        return resume
    return bool(first_says(world, lambda: "there is one" if runs.holds_run(path) else ""))


def claim_folder(asked: Asked, place: Place) -> dict[str, Any] | None:
    """See that the folder can be written to; the results of a run that has ended. The first process looks for all."""
    results = None
    if place.claim is not None and asked.resume:
        results = _reopen(asked, place.claim, place.ui)
    elif place.claim is not None:
        runs.check_free(asked.path, overwrite=asked.overwrite)
        if runs.state(asked.path) is not runs.State.FREE:
            place.claim.take()
    has_ended = first_says(place.world, lambda: "" if results is None else "ended")
    return read_results(RunFolder(asked.path).results) if has_ended and results is None else results


def _reopen(asked: Asked, claim: Claim, ui: Ui) -> dict[str, Any] | None:
    """Make a run ready to go on with; the results of one that has ended, which then has all of its files."""
    path, run = asked.path, runs.open_run(asked.path)
    claim.take(asked.patience_s)
    runs.reopen(path, asked.config)
    if runs.state(path) is runs.State.UNKEPT and asked.start is None:
        raise UserError(f"{path} holds {runs.State.UNKEPT.value}; {runs.way_on(path)}")
    if not run.has_ended() or not _results_hold(run, ui) or asked.config.training.epochs > _epochs_of(run):
        return None
    results = complete(run, ui)
    ui.say(f"{path} has ended already: there is nothing to resume (see {run.results})")
    return results


def _epochs_of(run: RunFolder) -> int:
    return load(run.config).training.epochs


def _results_hold(run: RunFolder, ui: Ui) -> bool:
    """Whether ``results.json`` can be read; one that cannot is put aside, and the run is evaluated again."""
    try:
        read_results(run.results)
    except UserError as error:
        kept = run.results.with_suffix(".damaged.json")
        os.replace(run.results, kept)
        ui.say(f"{error}: it is kept as {kept.name}, and the run is evaluated again")
        return False
    return True


def ready_folder(asked: Asked, place: Place, dtype: torch.dtype) -> tuple[RunFolder, Identity]:
    """The run's folder, made where it is a new one, and which run it is."""
    run, config, is_main = RunFolder(asked.path), asked.config, place.world.is_main
    if place.claim is not None and not asked.resume:  # only now: a mistake leaves no empty folder, costs no old run
        place.claim.take(asked.patience_s)
        runs.create(asked.path, config, overwrite=asked.overwrite, given_start=asked.start is not None)
    if place.claim is not None and isinstance(asked.start, GivenState):
        write_json(run.soup, asked.start.made_of, parents=False)
    if place.claim is not None and asked.resume and run.has_ended():  # it goes on for more epochs
        kept = run.results.with_name(f"results-{_epochs_of(run):03d}.json")
        os.replace(run.results, kept)
        place.ui.say(
            f"the run had ended: its results are kept as {kept.name}; the test split is evaluated again at the end"
        )
    if asked.resume or is_main:
        return run, runs.identify(run, config, dtype_name(dtype), is_main=is_main)
    # The folder may still hold a run that the first process replaces; it alone writes checkpoints.
    return run, Identity.new(config, dtype_name(dtype))


def threads_to_go_on_with(asked: int | None, path: Path, ui: Ui) -> int | None:
    """As many as the run had, unless others are asked for: sums of floats depend on how they are cut."""
    before = runs.threads_of(path)
    if before is None or asked not in (None, before):
        if before is not None:
            ui.say(f"{asked} threads, {before} before: results will differ in rounding from an uninterrupted run")
        return asked
    if before > cpus():
        ui.say(
            f"{before} threads as before, so that rounding stays the same; this process may use {cpus()} CPUs: "
            f"--threads {cpus()} is faster"
        )
    return before
