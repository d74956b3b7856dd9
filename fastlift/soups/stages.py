"""A training in stages: trainings on smaller training sets, their average one after another, and the run that starts there.

The method is LT-Soups'. The stages are ordinary run folders inside the run's own: ``stages/start``, ``stages/f0`` ...,
``stages/soup``. Each is made by the settings of the run alone, and resumes by itself. So whatever a kill leaves, the same call goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastlift.callbacks.callback import Callback
from fastlift.config import Config, absolute_paths
from fastlift.data.datasets.dataset import DataSet
from fastlift.engine import train as engine
from fastlift.engine.agreement import first_says, join
from fastlift.engine.build import load_data
from fastlift.engine.model import choose_amp
from fastlift.engine.opening import Asked, Place, goes_on
from fastlift.engine.processes import company
from fastlift.engine.train import LEAVING_S, Run
from fastlift.errors import UserError
from fastlift.models.precision import dtype_name
from fastlift.reporting.notebook import ui_for
from fastlift.runs import folder as runs
from fastlift.runs.claims import Claim
from fastlift.runs.given_state import GivenState
from fastlift.runs.names import default_path, stage_path
from fastlift.runs.split_lists import data_of_run
from fastlift.runs.stored import read_soup
from fastlift.soups.averaging import Average, one_after_another
from fastlift.soups.ingredients import gather
from fastlift.system.device import using_device
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.system.signals import StopSignals
from fastlift.training.distributed import World

_SEED_BITS = 8  # of a draw's seed, for the factor; the others are the run's seed
START, SOUP = "start", "soup"


@dataclass(frozen=True)
class Stages:
    """The stages of a run: where they lie, by which settings they are made, and how they are told of."""

    path: Path
    config: Config
    dataset: DataSet | None
    world: World
    ui: Ui
    shown: Ui | Literal["auto"] | None
    callbacks: Sequence[Callback]

    def run(self, name: str, config: Config, told: str, start: GivenState | None = None) -> runs.RunFolder:
        """Make a stage, or go on with it; one that has ended is left as it is."""
        path = stage_path(self.path, name)

        def standing() -> str:
            if runs.holds_run(path) and runs.state(path) is runs.State.ENDED:
                return "ended"
            return "begun" if runs.holds_run(path) else "free"

        how = first_says(self.world, standing)
        self.ui.say(f"{told}{' has ended' if how == 'ended' else f': {path}'}")
        if how != "ended":
            engine.train(
                config,
                dataset=self.dataset,
                output=path,
                resume=how == "begun",
                start=start,
                ui=self.shown,
                callbacks=self.callbacks,
            )
            first_says(self.world, str)  # the first process writes results and page when the others are done
        return runs.RunFolder(path)


def train_in_stages(
    config: Config,
    *,
    dataset: DataSet | None = None,
    output: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    ui: Ui | Literal["auto"] | None = "auto",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train as a config with ``soup_factors`` says.

    1. For each factor f, what trains is trained on at most n 2^f images of each class, drawn anew, where n is the number of the
       smallest class; always from the same start, the pre-trained model. They are averaged into that one after another, in
       the order of ``soup_factors``: average <- keep average + (1 - keep) next.
    2. The run starts from the average, on the whole training set. With ``train_only`` the classifier alone trains.

    Arguments and errors are those of ``fastlift.train``.

    Source: LT-Soups, NeurIPS 2025.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it: choose one of them")
    if config.training.init_from is not None:
        raise UserError("--init-from and --soup-factors: both say where training starts from; choose one of them")
    config = absolute_paths(config if dataset is None else config.of_data(dataset))
    with company() as world:
        told = ui_for(ui) if world.is_main else Quiet()
        if output is None and (world.size > 1 or resume == "auto"):
            raise UserError(f"{'several processes need' if world.size > 1 else 'resume auto needs'} a folder: --output")
        device = join(world, config, resume=resume, overwrite=overwrite)
        path = Path(output) if output is not None else default_path(config.data.dataset, config.recipe)
        patience_s = LEAVING_S if resume == "auto" else 0.0
        goes = goes_on(resume, path, world)
        with StopSignals(), Claim(path, told.say) if world.is_main else nullcontext() as claim:
            has_begun = _open(config, path, goes, overwrite, claim, patience_s, world)
            if not has_begun:
                dtype = _dtype(config, Place(world, device, claim, told), path)
                if world.is_main:
                    runs.identify(runs.RunFolder(path), config, dtype, is_main=True)
                start = _start(Stages(path, config.merged(amp=dtype), dataset, world, told, ui, callbacks))
        if has_begun:
            return engine.train(config, dataset=dataset, output=path, resume=True, ui=ui, callbacks=callbacks)
        told.say(f"{path}: the last stage, from the average of {len(config.training.soup_factors)} trainings")
        return engine.train(config, dataset=dataset, output=path, resume=True, start=start, ui=ui, callbacks=callbacks)


def _open(
    config: Config, path: Path, resume: bool, overwrite: bool, claim: Claim | None, patience_s: float, world: World
) -> bool:
    """Make the folder of the run, or see that it can go on; whether its last stage has begun. The first process does it."""

    def ready() -> str:
        assert claim is not None
        if resume:
            runs.open_run(path)
            claim.take(patience_s)
            runs.reopen(path, config)
        else:
            runs.check_free(path, overwrite=overwrite)
            claim.take(patience_s)
            runs.create(path, config, overwrite=overwrite)
        return "yes" if runs.state(path) in (runs.State.TRAINED, runs.State.EVALUATED, runs.State.ENDED) else ""

    return bool(first_says(world, ready))


def _dtype(config: Config, place: Place, path: Path) -> str:
    """The dtype that all stages train in: where it is measured, once for all of them."""
    with using_device(place.device), config.part(ThreadSettings).use():
        return dtype_name(choose_amp(Asked(config, path, True, False, None), place).dtype)


def _start(stages: Stages) -> GivenState:
    """Make all stages but the last, and give what that one starts from."""
    config, world, path = stages.config, stages.world, stages.path
    factors, keep = config.training.soup_factors, config.training.soup_keep
    data = load_data(data_of_run(runs.RunFolder(path), config.data), Quiet(), world, config.given)
    smallest = smallest_class(data)
    base = _ordinary(config)
    still = base.merged(epochs=0)
    still = still.merged(**{name: Config().flat()[name] for name in still.idle()})
    folders = [stages.run(START, still, "start: the model before any training").path]
    for number, factor in enumerate(factors, 1):
        of_factor = at_factor(base, factor, smallest)
        said = f"stage {number} of {len(factors)} (factor {factor}): at most {of_factor.data.max_per_class:,} images of each class"
        folders.append(stages.run(f"f{factor}", of_factor, said).path)
    ingredients, weights = gather(folders), one_after_another(len(factors), keep)
    average = Average().added(ingredients[0].trained())
    for one in ingredients[1:]:
        average = average.followed(one.trained(), keep)
    made = {
        "how": "one after another",
        "ingredients": [one.told(w) for one, w in zip(ingredients, weights, strict=True)],
    }
    state = ingredients[0].train_state
    given = GivenState(average.state(), state.classes, state.backbone, made)
    soup = stages.run(SOUP, still, f"the average of {len(factors)} trainings", given)
    return replace(given, made_of=read_soup(soup.soup))


def _ordinary(config: Config) -> Config:
    """The settings of a stage: those of the run, without what makes it one of stages."""
    default = Config().training
    return config.merged(soup_factors=default.soup_factors, soup_keep=default.soup_keep, train_only=default.train_only)


def at_factor(config: Config, factor: int, smallest: int) -> Config:
    """The settings of a training on at most ``smallest`` 2^``factor`` images of each class, in a draw of its own."""
    most = smallest * 2**factor
    asked = config.data.max_per_class
    seed = ((config.run.seed << _SEED_BITS) + factor) % 2**63
    return config.merged(max_per_class=most if asked is None else min(most, asked), subset_seed=seed)


def smallest_class(data: DataSet) -> int:
    """n: how many training images the smallest class has; classes without any are passed over."""
    counts = data.train.class_counts()
    return int(np.min(counts[counts > 0]))


def train(
    config: Config,
    *,
    dataset: DataSet | None = None,
    output: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    start: Any = None,
    ui: Ui | Literal["auto"] | None = "auto",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train by a config, evaluate, and write the run folder; a config with ``soup_factors`` in stages (recipe lt_soups).

    Args:
        config: a recipe's, or loaded from a file.
        dataset: the images, in place of what the config says (``fastlift.data.from_folder`` and the others). One that only
            Python knows is ``python`` in the run's ``config.json``: give it again to resume.
        output: the run folder; default ``runs/DATASET-RECIPE-TIME``.
        resume: go on with the run in ``output`` from its last checkpoint; on the same CPU machine the result is
            bit-identical to an uninterrupted run. One that has ended gets the files that it lacks, and is returned. With
            ``"auto"`` a free folder starts a run, and a process that still has the folder is waited for, so that the same
            call can be repeated whatever ended the last one.
        overwrite: replace the run in ``output``.
        start: the authors' checkpoint that what trains starts from (see ``fastlift.compat``); with 0 epochs the run
            holds and evaluates just that.
        ui: where progress is told. "auto": a bar in a notebook's cell or on a terminal, elsewhere a line on stderr now and then;
            None: nowhere.
        callbacks: told of the run's steps, epochs, evaluations and its end, beside the loggers of ``config.run.log``; in the
            first of several processes.

    Raises:
        UserError: settings, files or data that cannot be used; the message says what to do.
        InUse: another process writes in the run folder.
        OutOfMemory: memory ran out; the message tells at which size, which to try, and how to go on.
        Interrupted: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; what was done is saved, and the message tells how to go on.
    """
    asked: dict[str, Any] = {"dataset": dataset, "output": output, "resume": resume, "overwrite": overwrite}
    if not config.training.soup_factors:
        return engine.train(config, **asked, start=start, ui=ui, callbacks=callbacks)
    if start is not None:
        raise UserError("a given start and --soup-factors: both say where training starts from; choose one of them")
    return train_in_stages(config, **asked, ui=ui, callbacks=callbacks)
