"""A run from its config to its results: data, model, training, evaluation, report."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

import fastlift_kernels
from fastlift.config import Config, absolute_paths, to_dict
from fastlift.data.datasets.catalogue import DataSet
from fastlift.data.loading.loader import choose_executor
from fastlift.data.sampling.order import steps_in
from fastlift.engine.build import build_loss, build_model, load_data, load_run, prepare_backbone, training_loader
from fastlift.engine.loop import Fit
from fastlift.engine.memory import Work, check_settings, estimate
from fastlift.engine.processes import (
    agree,
    company,
    fingerprints_of,
    first_amp,
    first_does,
    first_says,
    settings_of,
    take_first_start,
)
from fastlift.engine.results import complete, describe_data, describe_model, end, results_of
from fastlift.errors import OutOfMemory, UserError
from fastlift.evaluation.evaluate import Evaluation, evaluate, images_at_a_time
from fastlift.evaluation.metrics import Metrics
from fastlift.interop.lift_checkpoints import LiftState, as_lift_state, in_order_of, load_lift_checkpoint
from fastlift.models.backbones import outline
from fastlift.models.classifiers import Classifier
from fastlift.models.fingerprint import weights_fingerprint
from fastlift.models.fp8 import check_fp8, quantise_frozen
from fastlift.models.lift import IMAGE_STARTS, LiftModel
from fastlift.models.precision import Amp, Shape, dtype_name, shape_of
from fastlift.models.vit import VisionTransformer
from fastlift.reporting.console import Quiet, Ui
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.bad_images import BadImages
from fastlift.runs.claims import Claim
from fastlift.runs.folder import RunFolder
from fastlift.runs.identity import Identity
from fastlift.runs.stored import read_results
from fastlift.system.cuda import check_triton
from fastlift.system.device import resolve_device, using_device, using_threads
from fastlift.system.files import write_json
from fastlift.system.machine import cpus
from fastlift.system.signals import Interrupted, Signalled, StopSignals
from fastlift.training.classifier_init import image_start
from fastlift.training.distributed import LostCompany, World, barrier, open_group, total
from fastlift.training.step import Learner


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, the metrics of its last evaluation, and all of ``results.json``."""

    folder: Path
    metrics: Metrics
    results: dict[str, Any]
    trained: LiftModel | None = field(default=None, repr=False, compare=False)

    @cached_property
    def model(self) -> LiftModel:
        """The model as it was trained; read from the folder where this process did not train it."""
        return load_run(self.folder) if self.trained is None else self.trained


def train(
    config: Config,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    start: str | Path | LiftState | None = None,
    ui: Ui | None = None,
) -> Run:
    """Train by a config, evaluate, and write the run folder.

    Args:
        config: a recipe's, or loaded from a file.
        output: the run folder; default ``runs/DATASET-RECIPE-TIME``.
        resume: go on with the run in ``output`` from its last checkpoint; on the same CPU machine the result is
            bit-identical to an uninterrupted run. One that has ended gets the files that it lacks, and is returned.
        overwrite: replace the run in ``output``.
        start: the authors' checkpoint that what trains starts from (see ``fastlift.compat``); with 0 epochs the run
            holds and grades just that.
        ui: where progress is told; default: nowhere.

    Raises:
        UserError: settings, files or data that cannot be used; the message says what to do.
        InUse: another process writes in the run folder.
        OutOfMemory: memory ran out; the message tells at which size, which to try, and how to go on.
        Interrupted: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; what was done is saved, and the message tells how to go on.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it: choose one of them")
    config = absolute_paths(config)  # the run folder holds in any working folder
    with company() as world:
        told = ui if ui is not None and world.is_main else Quiet()
        device = resolve_device(config.run.device)
        agree(world, settings_of(config, device) | {"resume": resume, "overwrite": overwrite})
        if world.size > 1 and output is None:
            raise UserError("several processes need one folder: name it with --output")
        path = Path(output) if output is not None else runs.default_path(config)
        device = open_group(world, device)
        check_triton(device)
        if resume and device.type == "cpu":
            config = config.merged(threads=_threads_to_go_on_with(config, path, told))
        try:
            with (
                StopSignals(),
                using_device(device),
                using_threads(config.run.threads) as threads,
                Claim(path, told.say) if world.is_main else nullcontext() as claim,
            ):
                if device.type == "cpu":  # rounding depends on it: noted with the run, for those that resume it
                    config = config.merged(threads=threads)
                results = _opened(path, config, resume, overwrite, start, claim, world, told)
                if results is not None:
                    return Run(path, Metrics.from_dict(results["metrics"]), results)
                amp = _choose_amp(config, path if resume else None, device, world)
                return _train(config, path, resume, overwrite, start, device, amp, world, claim, told)
        except Signalled as signalled:
            raise Interrupted(f"{signalled}: stopped; {runs.standing(path)}", signalled.number) from None
        except OutOfMemory as error:
            raise OutOfMemory(f"{error}. {runs.standing(path)}") from None
        except LostCompany as lost:
            raise LostCompany(f"{lost}. {runs.standing(path)}", exit_code=lost.exit_code) from lost


def _opened(
    path: Path,
    config: Config,
    resume: bool,
    overwrite: bool,
    start: str | Path | LiftState | None,
    claim: Claim | None,
    world: World,
    ui: Ui,
) -> dict[str, Any] | None:
    """See that the folder can be written to; the results of a run that has ended. The first process looks for all."""
    results = None
    if claim is not None and resume:
        results = _reopen(path, config, start is not None, claim, ui)
    elif claim is not None:
        runs.check_free(path, overwrite=overwrite)
        if runs.state(path) is not runs.State.FREE:
            claim.take()
    has_ended = first_says(world, lambda: "" if results is None else "ended")
    return read_results(RunFolder(path).results) if has_ended and results is None else results


def _reopen(path: Path, config: Config, has_start: bool, claim: Claim, ui: Ui) -> dict[str, Any] | None:
    """Make a run ready to go on with; the results of one that has ended, which then has all of its files."""
    run = runs.open_run(path)
    claim.take()
    runs.reopen(path, config)
    if runs.state(path) is runs.State.UNKEPT and not has_start:
        raise UserError(f"{path} holds {runs.State.UNKEPT.value}; {runs.way_on(path)}")
    if not run.has_ended() or not _results_hold(run, ui):
        return None
    results = complete(run, ui)
    ui.say(f"{path} has ended already: there is nothing to resume (see {run.results})")
    return results


def _results_hold(run: RunFolder, ui: Ui) -> bool:
    """Whether ``results.json`` can be read; one that cannot is put aside, and the run is graded again."""
    try:
        read_results(run.results)
    except UserError as error:
        kept = run.results.with_suffix(".damaged.json")
        os.replace(run.results, kept)
        ui.say(f"{error}: it is kept as {kept.name}, and the run is graded again")
        return False
    return True


def _train(
    config: Config,
    path: Path,
    resume: bool,
    overwrite: bool,
    start: str | Path | LiftState | None,
    device: torch.device,
    amp: Amp,
    world: World,
    claim: Claim | None,
    ui: Ui,
) -> Run:
    data = load_data(config, ui)
    model = _ready_model(config, data, start, device, amp.dtype, world, ui)
    run, identity = _ready_folder(config, path, resume, overwrite, start is not None, amp.dtype, world, claim)
    last = run.last_checkpoint(ui.say, _schedule(config, data)) if resume else None
    if resume and last is None:
        ui.say("no checkpoint yet: starting from the beginning")
    if last is not None and not config.training.epochs:
        _go_back_to(last, identity, data, model)
    bad = BadImages(run)
    if world.is_main:
        bad.note_found(data)
    if config.model.init in IMAGE_STARTS and start is None and last is None:
        _start_from_images(config, data, model, world, bad, ui)
    if world.is_main:
        write_json(run.data, describe_data(data, config), parents=False)
        write_json(run.config, to_dict(config), parents=False)  # a resumed run may have another data root, other crops
        _announce(config, data, model, device, amp, ui)
        if not config.training.epochs and model.trained() and last is None:  # nothing else keeps what it starts with
            place = checkpoints.at_start(data.train.fingerprint, model, identity)
            checkpoints.write(checkpoints.epoch_path(run.checkpoints, 0), model.state(), {}, place)
            runs.start_is_kept(run)
    prepare_backbone(config, len(data.train), model, world, ui)
    keep_start = start is not None and last is None
    fit = _fit(config, run, identity, data, model, world, last, keep_start, bad, ui) if config.training.epochs else None
    evaluation = _evaluate(config, data, model, world, bad, ui)
    results = results_of(config, data, model, fit, evaluation, device)
    if world.is_main:
        results["replaced_images"] = len(bad.lines())
        if bad.lines():
            ui.say(f"{len(bad.lines()):,} unusable pictures were replaced; they are listed in {run.bad_images}")
        if fit is not None and config.run.on_nonfinite == "skip":
            results["skipped_steps"] = int(fit.learner.watch.skipped)
        end(run, results, ui)
    return Run(path, evaluation.metrics, results, model)


def _ready_model(
    config: Config,
    data: DataSet,
    start: str | Path | LiftState | None,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    ui: Ui,
) -> LiftModel:
    """The model on its device, where it fits, and alike on all ranks; nothing is written yet."""
    work = Work.of(config, len(data.train), len(data.test), world.size)
    check_settings(config, len(data.class_names), work, device)
    model = build_model(config, data.class_names, ui)
    if start is not None:
        load_lift_checkpoint(model, _in_our_order(start, config, data))
    model.set_compute_dtype(dtype)  # before it moves: what crosses the bus and is kept on a GPU is then half as much
    model.to(device)
    if config.run.frozen == "fp8":
        quantise_frozen(model.vit)
    _check_possible(config, model, world)
    if isinstance(model.vit, VisionTransformer):
        model.vit.recompute = config.run.recompute
    if config.training.epochs:
        _check_memory(config, model, work, ui)
    agree(world, fingerprints_of(data.train, data.test, model))
    take_first_start(world, model.trained())
    return model


def _ready_folder(
    config: Config,
    path: Path,
    resume: bool,
    overwrite: bool,
    given_start: bool,
    dtype: torch.dtype,
    world: World,
    claim: Claim | None,
) -> tuple[RunFolder, Identity]:
    """The run's folder, made where it is a new one, and which run it is."""
    run = RunFolder(path)
    if claim is not None and not resume:  # only now, so that a mistake leaves no empty folder, and costs no old run
        claim.take()
        runs.create(path, config, overwrite=overwrite, given_start=given_start)
    if resume or world.is_main:
        identity = runs.identify(run, config, dtype_name(dtype), is_main=world.is_main)
    else:  # the folder may still hold a run that the first process replaces; it alone writes checkpoints
        identity = Identity.new(config, dtype_name(dtype))
    return run, identity


def _go_back_to(path: Path, identity: Identity, data: DataSet, model: LiftModel) -> None:
    """Give a model that is only graded what the run kept of its start."""
    trained, _, position = checkpoints.read(path, identity)
    position.check_origin(path, data.train.fingerprint, model.backbone_fingerprint)
    model.load_trained(trained, f"checkpoint {path}")


def _schedule(config: Config, data: DataSet) -> checkpoints.Schedule:
    training = config.training
    return checkpoints.Schedule(training.epochs, steps_in(len(data.train), training.batch_size), training.batch_size)


def _in_our_order(start: str | Path | LiftState, config: Config, data: DataSet) -> LiftState:
    """The authors' checkpoint with its classes in the order of the data set."""
    state = as_lift_state(start)
    by_name = config.data.dataset == "inaturalist2018" and config.data.taxon == "species"
    return in_order_of(data.class_names, state) if by_name else state


def _check_possible(config: Config, model: LiftModel, world: World) -> None:
    """What only the model and the processes tell, asked before a run folder is made or an old one replaced."""
    if config.run.recompute != "none" and not isinstance(model.vit, VisionTransformer):
        raise UserError("recompute: only vision transformers have blocks to recompute; use a smaller --micro-batch")
    if config.training.batch_size < world.size:
        raise UserError(
            f"batch_size: {config.training.batch_size} images cannot be shared by {world.size} processes; start fewer"
        )
    if config.training.epochs and not model.trained():
        raise UserError("nothing in this model trains: choose a tuner, or epochs 0 to grade it as it is")


def _check_memory(config: Config, model: LiftModel, work: Work, ui: Ui) -> None:
    """Training fits, by a measured forward pass; refused where it does not, before a run folder is made."""
    needed = estimate(model, work.micro_batch, config.training.batch_size)
    if config.run.memory == "check":
        needed.check()
    ui.say(f"training {needed}")


def _start_from_images(config: Config, data: DataSet, model: LiftModel, world: World, bad: BadImages, ui: Ui) -> None:
    """Start the classifier from features that the frozen backbone, without its tuner, has of training images.

    The first process makes the start for all: on GPUs features need not have the same bits.
    """
    device, classifier = next(model.parameters()).device, cast(Classifier, model.classifier)

    def make() -> None:
        changes: dict[str, Any] = {"tuner": ("none",), "text_tuner": ("none",), "classifier": "cosine"}
        frozen = build_model(config, data.class_names, **changes)
        frozen.set_compute_dtype(model.vit.compute_dtype)
        frozen.to(device)
        with ui.bar(f"start: {config.model.init}", len(data.train)) as bar:
            weight = image_start(frozen, data.train, config, on_progress=bar.update, on_bad=bad.of(data.train))
        classifier.set_weight(weight.to(device))

    first_does(world, make)
    if world.size > 1:
        mine = classifier.weight.detach().clone() if world.is_main else torch.zeros_like(classifier.weight)
        classifier.set_weight(total({"weight": mine}, world)["weight"])


def _threads_to_go_on_with(config: Config, path: Path, ui: Ui) -> int | None:
    """As many as the run had, unless others are asked for: sums of floats depend on how they are cut."""
    before, asked = runs.threads_of(path), config.run.threads
    if before is None or asked not in (None, before):
        if before is not None:
            ui.say(f"{asked} threads, {before} before: what follows differs in rounding from an uninterrupted run")
        return asked
    if before > cpus():
        ui.say(
            f"{before} threads as before, for the same rounding; this process may use {cpus()} CPUs: "
            f"--threads {cpus()} is faster"
        )
    return before


def _choose_amp(config: Config, resumed: Path | None, device: torch.device, world: World) -> Amp:
    """As asked for, or as the run was before, or as the first process measures it."""

    def shape() -> Shape | None:
        training, known = config.training, outline(config.model.model, config.model.image_size)
        batch = training.micro_batch or training.batch_size // world.size
        images = batch if training.epochs else images_at_a_time(config)
        return None if known is None else shape_of(known.vit, max(1, images))

    asked = config.run.amp if resumed is None else runs.amp_of(resumed, config.run.amp)
    amp = first_amp(world, asked, device, shape)
    if asked != config.run.amp:
        amp = Amp(amp.dtype, "as the run began")
    if config.run.frozen == "fp8":
        check_fp8(device, amp.dtype)
    return amp


def _fit(
    config: Config,
    run: RunFolder,
    identity: Identity,
    data: DataSet,
    model: LiftModel,
    world: World,
    last: Path | None,
    keep_start: bool,
    bad: BadImages,
    ui: Ui,
) -> Fit:
    training = config.training
    device = next(model.parameters()).device
    learner = Learner(
        model,
        build_loss(config, data.train.class_counts()).to(device),
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        micro_batch=training.micro_batch,
        world=world,
        on_nonfinite=config.run.on_nonfinite,
    )
    loader = training_loader(config, data, model, world, bad)
    fit = Fit(config, run, learner, loader, ui, world, data.train, identity)
    try:
        if last is not None:
            fit.resume(last)
        elif keep_start:
            fit.keep_start()
            if world.is_main:
                runs.start_is_kept(run)
        state = learner.model.state() | learner.momentum_buffers()
        agree(world, {"step": fit.global_step, "what the checkpoint holds": weights_fingerprint(state.items())})
        barrier(world)
        fit()
    finally:
        loader.close()
    return fit


def _evaluate(config: Config, data: DataSet, model: LiftModel, world: World, bad: BadImages, ui: Ui) -> Evaluation:
    with ui.bar("evaluating", len(data.test)) as bar:
        return evaluate(
            model,
            data.test,
            data.group_counts.tolist(),
            config,
            world=world,
            on_progress=lambda done, total: bar.update(done),
            on_bad=bad.of(data.test),
        )


def _announce(config: Config, data: DataSet, model: LiftModel, device: torch.device, amp: Amp, ui: Ui) -> None:
    counts = data.train.class_counts()
    described = describe_model(config, model)
    executor, why = choose_executor(data.train, config.data.executor, device=device)
    ui.say(
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images, {len(counts)} classes "
        f"of {counts.max()} to {counts.min()} images"
    )
    rank = f" of rank {described['rank']}" if "adaptformer" in config.model.tuner else ""
    ui.say(
        f"{config.model.model}: {' + '.join(config.model.tuner)}{rank} trains {described['tuner_parameters']:,} parameters "
        f"({100 * described['tuner_share']:.2f} % of the backbone), the {config.model.classifier} classifier "
        f"{described['head_parameters']:,}"
    )
    ui.say(
        f"{device} in {dtype_name(amp.dtype)} ({amp.why}), {torch.get_num_threads()} threads; images by {executor} ({why})"
    )
    if device.type == "cuda" and (reason := fastlift_kernels.available()["triton_reason"]):
        ui.say(f"the fused operations run as plain PyTorch on the GPU: {reason}")
