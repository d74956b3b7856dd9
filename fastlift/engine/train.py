"""A run from its config to its results: data, model, training, evaluation, report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fastlift.callbacks.callback import Callback, RunEnd, RunStart
from fastlift.callbacks.calling import Callbacks
from fastlift.callbacks.loggers import LogSettings
from fastlift.config import Config, absolute_paths, may_change, to_dict
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.class_draws import SamplingSettings
from fastlift.data.sampling.stream import steps_in
from fastlift.engine import model as models
from fastlift.engine.agreement import agree, agree_on, join
from fastlift.engine.averages import RAW, evaluate_both, make_whole
from fastlift.engine.build import load_data, prepare_backbone, training_loader
from fastlift.engine.data_wait import advice
from fastlift.engine.describe import announce, announce_machine, describe_data, results_of
from fastlift.engine.keeping import keep_per_image
from fastlift.engine.loop import Fit, FitSettings
from fastlift.engine.opening import Asked, Place, claim_folder, goes_on, ready_folder, threads_to_go_on_with
from fastlift.engine.pace import Pace
from fastlift.engine.processes import company
from fastlift.engine.results import end
from fastlift.engine.validation import Validation, validation_split
from fastlift.engine.warm_start import start_warm
from fastlift.errors import OutOfMemory, UserError
from fastlift.evaluation.evaluate import Evaluation, evaluate
from fastlift.evaluation.metrics import Metrics
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.evaluation.validation import ValidationSettings
from fastlift.interop.lift_checkpoints import LiftState
from fastlift.models.classifier_init import IMAGE_INITS
from fastlift.models.compile import CompileSettings
from fastlift.models.create import CreateSettings
from fastlift.models.lift import LiftModel
from fastlift.models.weights import weights_fingerprint
from fastlift.reporting.figures import FIGURES
from fastlift.reporting.notebook import ui_for
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.bad_images import BadImages
from fastlift.runs.claims import Claim
from fastlift.runs.events import read_events
from fastlift.runs.folder import RunFolder
from fastlift.runs.given_state import GivenState
from fastlift.runs.identity import Identity
from fastlift.runs.names import default_path
from fastlift.runs.split_lists import data_of_run, keep_splits
from fastlift.runs.stored import read_soup
from fastlift.runs.train_state import Schedule, TrainState
from fastlift.system import sealed
from fastlift.system.device import using_device
from fastlift.system.files import write_json
from fastlift.system.html_table import html_table
from fastlift.system.progress import Quiet, Ui
from fastlift.system.settings import ThreadSettings
from fastlift.system.signals import Interrupted, Signalled, StopSignals
from fastlift.training.averaging import AverageSettings
from fastlift.training.captured import CapturedStep
from fastlift.training.distributed import LostCompany, barrier
from fastlift.training.losses import LossSettings
from fastlift.training.losses.of_draws import LossOfDraws
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.stages import ProgressiveSettings, Stages
from fastlift.training.step import Learner

LEAVING_S = 120.0  # for a process of the run's last attempt to end, where its machine has just been taken away


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, the metrics of its last evaluation, and all of ``results.json``."""

    folder: Path
    metrics: Metrics
    results: dict[str, Any] = field(repr=False)
    trained: LiftModel | None = field(default=None, repr=False, compare=False)

    @cached_property
    def model(self) -> LiftModel:
        """The model as it was trained; read from the folder where this process did not train it."""
        return models.load_run(self.folder) if self.trained is None else self.trained

    def _repr_html_(self) -> str:
        """Folder and figures, for notebooks."""
        metrics = self.metrics.to_dict()
        rows = [(one.title(metrics), one.text(metrics), one.range_text(metrics), one.unit) for one in FIGURES]
        return html_table(str(self.folder), ("figure", "value", "95 % interval", "unit"), rows)


def train(
    config: Config,
    *,
    dataset: DataSet | None = None,
    output: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    start: str | Path | LiftState | GivenState | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train by a config, evaluate, and write the run folder: what ``fastlift.train`` does where there are no stages.

    Arguments and errors are those of ``fastlift.train``, but that ``start`` may be the average of a soup too.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it: choose one of them")
    config = config if dataset is None else config.of_data(dataset)
    config = absolute_paths(config)  # the run folder holds in any working folder
    with company() as world:
        told = ui_for(ui) if world.is_main else Quiet()
        if output is None and (world.size > 1 or resume == "auto"):
            raise UserError(f"{'several processes need' if world.size > 1 else 'resume auto needs'} a folder: --output")
        device = join(world, config, resume=resume, overwrite=overwrite)
        path = Path(output) if output is not None else default_path(config.data.dataset, config.recipe)
        patience_s = LEAVING_S if resume == "auto" else 0.0
        resume = goes_on(resume, path, world)
        # The sums of several processes are cut by their number, which may be another now: each takes its share of the cores.
        if resume and device.type == "cpu" and world.size == 1:
            config = config.merged(threads=threads_to_go_on_with(config.run.threads, path, told))
        followers = Callbacks(callbacks, config.part(LogSettings).build()) if world.is_main else Callbacks()
        with (
            followers.told_of_failure(),
            _way_on_told(path),
            StopSignals(),
            using_device(device),
            config.part(ThreadSettings).use() as threads,
            Claim(path, told.say) if world.is_main else nullcontext() as claim,
        ):
            if device.type == "cpu":  # rounding depends on it: noted with the run, for those that resume it
                config = config.merged(threads=threads)
            world.collectives.waiting.way_on = lambda: runs.standing(path)
            asked = Asked(config, path, resume, overwrite, start, patience_s)
            place = Place(world, device, claim, told, followers)
            results = claim_folder(asked, place)
            if results is not None:
                return Run(path, Metrics.from_dict(results["metrics"]), results)
            return _train(asked, place)


@contextmanager
def _way_on_told(path: Path) -> Iterator[None]:
    """What stops a run that was asked for is told with what its folder holds, and how to go on."""
    try:
        yield
    except Signalled as signalled:
        raise Interrupted(f"{signalled}: stopped; {runs.standing(path)}", signalled.number) from None
    except OutOfMemory as error:
        raise OutOfMemory(f"{error}. {runs.standing(path)}") from None
    except LostCompany as lost:
        raise LostCompany(f"{lost}. {runs.standing(path)}", exit_code=lost.exit_code) from lost


def _train(asked: Asked, place: Place) -> Run:
    config, world, ui = asked.config, place.world, place.ui
    epochs, batch_size = config.training.epochs, config.training.batch_size
    amp = models.choose_amp(asked, place)
    data = load_data(data_of_run(RunFolder(asked.path), config.data), ui, world, config.given)
    config.part(SamplingSettings).check(data.train)
    agree_on(data, world)  # before the model, which is made of its classes
    if config.run.eval_every is not None:
        validation_split(data)
    model = models.ready_model(asked, place, data, amp.dtype)
    warm = start_warm(asked, place, model)
    stages = config.part(ProgressiveSettings).build(model.vit, epochs)
    run, identity = ready_folder(asked, place, amp.dtype)
    schedule = Schedule(epochs, steps_in(len(data.train), batch_size), batch_size)
    last = run.last_checkpoint(ui.say, schedule) if asked.resume else None
    if asked.resume and last is None and asked.start is None:
        ui.say("no checkpoint yet: starting from the beginning")
    if last is not None and not epochs:
        models.go_back_to(last, identity, data, model)
    bad = BadImages(run)
    if world.is_main:
        bad.note_found(data)
    is_whole = asked.start is not None or last is not None or (warm is not None and warm.rows is None)
    if config.model.init in IMAGE_INITS and not is_whole:
        models.init_classifier(config.part(CreateSettings), config.part(EvaluationSettings), place, data, model, bad)
        if warm is not None:
            warm.take_rows(model)
    if world.is_main:
        write_json(run.data, describe_data(data, config.data), parents=False)
        write_json(run.config, to_dict(config), parents=False)  # a resumed run may have another data root, other crops
        if (data.cut or config.given is not None) and (told := keep_splits(run, data)):
            ui.say(told)
        announce(config.model, data, model, ui, config.training.train_only)
        backend = config.part(LoaderSettings).backend_for(data.train, place.device, augment=config.data.augment)
        announce_machine(place.device, amp, backend, ui)
        if not epochs and model.trained() and last is None:  # nothing else keeps what it starts with
            state = TrainState.at_start(data.train.fingerprint, model, identity)
            checkpoints.write(checkpoints.epoch_path(run.checkpoints, 0), model.state(), {}, state)
            runs.start_is_kept(run)
    prepare_backbone(config.training, config.run, stages, len(data.train), model, place)
    if not epochs:
        _tell_start(asked, place, run, identity, data, 0)
    fit = _fit(asked, place, run, identity, stages, data, model, last, bad) if epochs else None
    average = {} if fit is None else make_whole(fit.learner)
    chosen = fit.validation.take_best(identity, fit.global_step, average) if fit and fit.validation else {}
    passes = config.part(EvaluationSettings)
    evaluation, raw = evaluate_both(model, average, lambda: _evaluate(passes, place, data, model, bad), ui.say)
    results = results_of(config, data, model, fit, evaluation, raw, place.device) | chosen
    if world.is_main:
        counts, of = data.train.class_counts().tolist(), config.part(ThumbnailSettings)
        for found, mark in ((evaluation, ""), (raw, RAW)):
            if found is not None and found.per_image is not None:
                keep_per_image(run, config.run.ensembling_name + mark, found.per_image, data.test, counts, of, ui)
        results["replaced_images"] = len(bad.lines())
        if run.soup.is_file():
            results["soup"] = read_soup(run.soup)
        if bad.lines():
            ui.say(f"{len(bad.lines()):,} unusable images were replaced; they are listed in {run.bad_images}")
        if fit is not None and config.run.on_nonfinite == "skip":
            results["skipped_steps"] = int(fit.learner.watch.skipped)
        end(run, results, ui)
        tested = {"epoch": results["epochs"] - 1, "split": "test", **evaluation.metrics.summary()}
        place.callbacks.event("evaluation", results["steps"], tested)
        place.callbacks.end(RunEnd(results, None))
    return Run(asked.path, evaluation.metrics, results, model)


def _tell_start(asked: Asked, place: Place, run: RunFolder, identity: Identity, data: DataSet, step: int) -> None:
    """Tell who follows the run that it begins, or goes on after ``step`` steps."""
    if not place.callbacks:
        return
    logged = [event for event, _ in read_events(run.metrics)[0]] if step else []
    history = [event for event in logged if event["step"] <= step]
    described = describe_data(data, asked.config.data)
    place.callbacks.start(RunStart(run.path, identity.run, to_dict(asked.config), described, step, history))


def _fit(
    asked: Asked,
    place: Place,
    run: RunFolder,
    identity: Identity,
    stages: Stages,
    data: DataSet,
    model: LiftModel,
    last: Path | None,
    bad: BadImages,
) -> Fit:
    """Train from the last checkpoint, or from the start, to the end."""
    config, settings, world = asked.config, asked.config.part(FitSettings), place.world
    counts = data.train.class_counts()
    of_draws = LossOfDraws(config.part(LossSettings), config.model.scale, counts, settings.sampling, settings.epochs)
    if told := of_draws.told():
        place.ui.say(told)
    learner = Learner(
        model,
        of_draws.at(0).to(place.device),
        config.part(OptimizerSettings),
        micro_batch=settings.micro_batch,
        world=world,
        on_nonfinite=settings.on_nonfinite,
        only=config.training.train_only,
        average=config.part(AverageSettings),
    )
    loader = training_loader(config.data, settings, stages, data, model, place, bad)
    can_cut = "micro_batch" in may_change(config)
    pace = Pace(place.device, world, advice(config.data, loader, place.device), place.ui)
    captured = CapturedStep(learner, place.ui.say) if config.part(CompileSettings).captures else None
    validation = None
    if config.run.eval_every is not None:
        plan, passes = config.part(ValidationSettings), config.part(EvaluationSettings)
        validation = Validation(plan, passes, place, data, model, run, bad, learner.average)
    fit = Fit(
        settings,
        can_cut,
        run,
        learner,
        pace,
        loader,
        place.ui,
        world,
        data.train,
        identity,
        captured,
        validation,
        place.callbacks,
        lambda epoch: of_draws.follow(learner.loss, epoch),
    )
    try:
        if last is not None:
            fit.resume(last)
            if validation is not None:
                validation.recall(fit.global_step)
        elif asked.start is not None:
            fit.keep_start()
            if world.is_main:
                runs.start_is_kept(run)
        file = "none" if last is None else sealed.read_metadata(last)[sealed.DIGEST]
        held = weights_fingerprint(learner.replicas())
        agree(world, {"step": fit.global_step, "the checkpoint": file, "what the checkpoint holds": held})
        barrier(world)
        _tell_start(asked, place, run, identity, data, fit.global_step)
        fit()
        if validation is not None and (told := validation.early_end()):
            place.ui.say(told)
    finally:
        loader.close()
        if captured is not None:
            captured.release()  # evaluation needs the memory
    return fit


def _evaluate(passes: EvaluationSettings, place: Place, data: DataSet, model: LiftModel, bad: BadImages) -> Evaluation:
    place.world.collectives.waiting.during = lambda: "the evaluation"
    with place.ui.bar("evaluating", len(data.test)) as bar:
        return evaluate(
            model,
            data.test,
            data.group_counts.tolist(),
            passes,
            per_image=True,
            world=place.world,
            on_progress=lambda done, total: bar.update(done),
            on_bad=bad.of(data.test),
        )
