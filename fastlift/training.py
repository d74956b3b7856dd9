"""A run from its config to its results: data, model, training, evaluation, report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from fastlift import checkpoints, losses, runs
from fastlift.compat import LiftState, as_lift_state, in_order_of, load_lift_checkpoint
from fastlift.compiling import compile_backbone, plan_compile, training_tflop
from fastlift.config import Config, absolute_paths, load, to_dict
from fastlift.data.catalogue import DataSet, load_data_set
from fastlift.data.index import BadImage, ImageIndex
from fastlift.data.loader import Loader, build_loader, choose_executor
from fastlift.data.views import TrainViews
from fastlift.distributed import World, barrier, join, leave, total
from fastlift.environment import dtype_name, machine, resolve_amp, resolve_device, versions
from fastlift.errors import UserError
from fastlift.evaluation import Evaluation, ensembling_name, evaluate, images_at_a_time
from fastlift.files import write_json
from fastlift.fit import Fit
from fastlift.learner import Learner
from fastlift.memory import estimate
from fastlift.metrics import Metrics
from fastlift.models.classifiers import Classifier
from fastlift.models.fp8 import check_fp8, quantise_frozen
from fastlift.models.lift import IMAGE_STARTS, LiftModel, create_model
from fastlift.models.tuners import tuner_size
from fastlift.models.vit import VisionTransformer
from fastlift.reporting.console import Quiet, Ui
from fastlift.runs import MetricsLog, RunFolder
from fastlift.starts import image_start


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, the metrics of its last evaluation, the model, and all of ``results.json``."""

    folder: Path
    metrics: Metrics
    model: LiftModel
    results: dict[str, Any]


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
            bit-identical to an uninterrupted run.
        overwrite: replace the run in ``output``.
        start: the authors' checkpoint that what trains starts from (see ``fastlift.compat``); with 0 epochs the run
            holds and grades just that.
        ui: where progress is told; default: nowhere.

    Raises:
        UserError: settings, files or data that cannot be used; the message says what to do.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with a run, --overwrite replaces it: choose one of them")
    config = absolute_paths(config)  # the run folder holds in any working folder
    device = resolve_device(config.run.device)
    dtype = resolve_amp(config.run.amp, device)
    if config.run.frozen == "fp8":
        check_fp8(device, dtype)
    world, device = join(device)
    told = ui if ui is not None and world.is_main else Quiet()
    try:
        return _train(config, output, resume, overwrite, start, device, dtype, world, told)
    finally:
        leave()


def _train(
    config: Config,
    output: str | Path | None,
    resume: bool,
    overwrite: bool,
    start: str | Path | LiftState | None,
    device: torch.device,
    dtype: torch.dtype,
    world: World,
    ui: Ui,
) -> Run:
    if world.size > 1 and output is None:
        raise UserError("several processes need one folder: name it with --output")
    path = Path(output) if output is not None else runs.default_path(config)
    if resume:
        run = _reopen(path, config)
    elif world.is_main:
        runs.check_free(path, overwrite=overwrite)
    data = load_data(config, ui)
    model = build_model(config, data.class_names, ui)
    if start is not None:
        load_lift_checkpoint(model, _in_our_order(start, config, data))
    model.to(device).set_compute_dtype(dtype)
    if config.run.frozen == "fp8":
        quantise_frozen(model.vit)
    _check_possible(config, model, world)
    if not resume:  # only now, so that a mistake leaves no empty folder and no old run is lost to it
        run = runs.create(path, config, overwrite=overwrite) if world.is_main else RunFolder(path)
    bad = BadImages(run)
    if world.is_main:
        bad.note_found(data)
    if config.model.init in IMAGE_STARTS and start is None and not (resume and run.last_checkpoint()):
        _start_from_images(config, data, model, world, bad, ui)
    if world.is_main:
        write_json(run.data, describe_data(data, config))
        write_json(run.config, to_dict(config))  # a resumed run may have another data root, other crops ...
        _announce(config, data, model, device, dtype, ui)
        if not config.training.epochs and model.trained():  # nothing else would keep what it starts with
            place = checkpoints.at_start(data.train.fingerprint, model.backbone_fingerprint)
            checkpoints.write(checkpoints.epoch_path(run.checkpoints, 0), model.state(), {}, place)
    prepare_backbone(config, len(data.train), model, world, ui)
    fit = _fit(config, run, data, model, world, resume, bad, ui) if config.training.epochs else None
    evaluation = _evaluate(config, data, model, world, bad, ui)
    results = _results(config, data, model, fit, evaluation, device)
    if world.is_main:
        results["replaced_images"] = len(bad.lines())
        if bad.lines():
            ui.say(f"{len(bad.lines()):,} unusable pictures were replaced; they are listed in {run.bad_images}")
        step = fit.global_step if fit else 0
        with MetricsLog(run, step) as log:
            log.write("evaluation", step, {"epoch": config.training.epochs - 1, **evaluation.metrics.summary()})
        write_json(run.results, results)
        _report(run, ui)
    return Run(run.path, evaluation.metrics, model, results)


def _in_our_order(start: str | Path | LiftState, config: Config, data: DataSet) -> LiftState:
    """The authors' checkpoint with its classes in the order of the data set."""
    state = as_lift_state(start)
    by_name = config.data.dataset == "inaturalist2018" and config.data.taxon == "species"
    return in_order_of(data.class_names, state) if by_name else state


def _check_possible(config: Config, model: LiftModel, world: World) -> None:
    """What only the model and the processes tell, asked before a run folder is made or an old one replaced."""
    if config.run.recompute != "none" and not isinstance(model.vit, VisionTransformer):
        raise UserError("recompute: only vision transformers have blocks to recompute; use a smaller --micro-batch")
    if config.training.batch_size % world.size:
        raise UserError(f"batch_size: {config.training.batch_size} cannot be shared by {world.size} processes")
    if config.training.epochs and not model.trained():
        raise UserError("nothing in this model trains: choose a tuner, or epochs 0 to grade it as it is")


def prepare_backbone(config: Config, images: int, model: LiftModel, world: World, ui: Ui) -> None:
    """Set what backward recomputes, and compile the backbone where the config asks for it or the run is long enough."""
    if isinstance(model.vit, VisionTransformer):
        model.vit.recompute = config.run.recompute
    batch = config.training.batch_size // world.size
    steps = config.training.epochs * -(-images // config.training.batch_size)
    device = next(model.parameters()).device
    plan = plan_compile(config.run.compile, device, steps, training_tflop(model, batch))
    if plan.mode is not None:
        compile_backbone(model, plan.mode, {config.training.micro_batch or batch, images_at_a_time(config)})
    if config.training.epochs and model.trained() and world.is_main:
        ui.say(f"training {estimate(model, config.training.micro_batch or batch)}")
    ui.say(f"backbone {'eager' if plan.mode is None else 'compiled, ' + plan.mode}: {plan.reason}")


def _start_from_images(config: Config, data: DataSet, model: LiftModel, world: World, bad: BadImages, ui: Ui) -> None:
    """Start the classifier from features that the frozen backbone, without its tuner, has of training images."""
    device = next(model.parameters()).device
    changes: dict[str, Any] = {"tuner": ("none",), "text_tuner": ("none",), "classifier": "cosine"}
    frozen = build_model(config, data.class_names, **changes).to(device)
    frozen.set_compute_dtype(model.vit.compute_dtype)
    with ui.bar(f"start: {config.model.init}", len(data.train)) as bar:
        weight = image_start(frozen, data.train, config, on_progress=bar.update, on_bad=bad.of(data.train)).to(device)
    if world.size > 1:  # all ranks take the first one's: on GPUs features need not have the same bits
        weight = total({"weight": weight if world.is_main else torch.zeros_like(weight)}, world)["weight"]
    cast(Classifier, model.classifier).set_weight(weight)


def _reopen(path: Path, config: Config) -> RunFolder:
    run = runs.reopen(path, config)
    if run.has_ended():
        raise UserError(f"{path} has ended already: there is nothing to resume (see {run.results})")
    return run


def load_data(config: Config, ui: Ui) -> DataSet:
    """The data set of a config, checked."""
    data = config.data
    state: dict[str, Any] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - state.setdefault(what, now) > 2.0:  # silent when it is quick
            state[what] = now
            ui.say(f"{what}: {done} of {total}")

    found = load_data_set(
        data.dataset,
        data_root=data.data_root,
        train_list=data.train_list,
        test_list=data.test_list,
        class_names=data.class_names,
        taxon=data.taxon,
        bad_images=data.bad_images,
        progress=progress,
    )
    for index in (found.train, found.test):
        if index.bad:
            first = f"the first: {index.bad[0].path} {index.bad[0].reason}"
            ui.say(f"{index.name}: {len(index.bad):,} unusable files, others of their classes in their place; {first}")
    return found


def build_model(config: Config, class_names: tuple[str, ...], ui: Ui | None = None, **changes: Any) -> LiftModel:
    """The model of a config on the CPU; ``changes`` replace single arguments of ``create_model``."""
    settings, told = config.model, ui or Quiet()

    def progress(done: int, total: int) -> None:
        if total > 20_000:
            told.say(f"text features: {done} of {total} prompts")

    arguments: dict[str, Any] = vars(settings) | {"seed": config.run.seed, "progress": progress} | changes
    if arguments["init"] in IMAGE_STARTS:  # set once the model and the images are there
        arguments["init"] = "random"
    return create_model(arguments.pop("model"), class_names=class_names, **arguments)


def _one_line(text: str) -> str:
    """Tabs and line ends, which file names may hold, as their escapes."""
    return text.translate({ord(c): repr(c)[1:-1] for c in "\t\n\r"})


class BadImages:
    """Lists the pictures that were replaced in ``bad_images.txt``, each once, over resumed runs too.

    A line has four columns between tabs: the split, the picture's path, what is wrong with it, and the path of the
    picture that is shown instead.
    """

    def __init__(self, run: RunFolder) -> None:
        self._file = run.bad_images
        self._lock = threading.Lock()

    def note_found(self, data: DataSet) -> None:
        """Those that the header scan found."""
        for index in (data.train, data.test):
            for bad in index.bad:
                self.of(index)(bad)

    def of(self, index: ImageIndex) -> Callable[[BadImage], None]:
        """What to call, from any thread, with those of one split that break when they are decoded."""

        def note(bad: BadImage) -> None:
            columns = (index.name, bad.path, bad.reason, index.file_name(bad.replacement))
            line = "\t".join(_one_line(column) for column in columns)
            with self._lock:
                if line not in self.lines():
                    with self._file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                        file.write(f"{line}\n")

        return note

    def lines(self) -> list[str]:
        """All of them so far."""
        if not self._file.is_file():
            return []
        return self._file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]


def training_views(config: Config, image_size: int) -> TrainViews:
    """The crops that a config trains on."""
    data = config.data
    return TrainViews(
        image_size,
        kind=data.augmentation,
        min_scale=data.min_scale,
        schedule=data.schedule,
        epochs=max(config.training.epochs, 1),
    )


def training_loader(config: Config, data: DataSet, model: LiftModel, world: World, on_bad: BadImages | None) -> Loader:
    """The batches that a config trains on, on the model's device and in its compute dtype."""
    return build_loader(
        data.train,
        training_views(config, model.preprocessing.image_size),
        batch_size=config.training.batch_size // world.size,
        mean=model.preprocessing.mean,
        std=model.preprocessing.std,
        seed=config.run.seed,
        dtype=model.vit.compute_dtype,
        device=next(model.parameters()).device,
        rank=world.rank,
        world_size=world.size,
        executor=config.data.executor,
        workers=config.data.workers,
        bad_images=config.data.bad_images,
        on_bad=None if on_bad is None else on_bad.of(data.train),
    )


def build_loss(config: Config, class_counts: Any) -> losses.Loss:
    """The loss of a config for given training counts."""
    options: dict[str, Any] = {}
    if config.training.loss == "LA":
        options["tau"] = config.training.tau
    if config.training.loss == "LDAM":
        options["scale"] = config.model.scale  # whatever the classifier, as in the authors' programs
    return losses.build(config.training.loss, class_counts, **options)


def _fit(
    config: Config,
    run: RunFolder,
    data: DataSet,
    model: LiftModel,
    world: World,
    resume: bool,
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
    )
    loader = training_loader(config, data, model, world, bad)
    fit = Fit(config, run, learner, loader, ui, world, data=data.train.fingerprint)
    try:
        if resume:
            fit.resume()
        barrier(world)
        fit()
    finally:
        loader.close()
    return fit


def _evaluate(config: Config, data: DataSet, model: LiftModel, world: World, bad: BadImages, ui: Ui) -> Evaluation:
    with ui.bar("evaluating", -(-len(data.test) // world.size)) as bar:
        return evaluate(
            model,
            data.test,
            data.group_counts.tolist(),
            config,
            world=world,
            on_progress=lambda done, total: bar.update(done),
            on_bad=bad.of(data.test),
        )


def describe_data(data: DataSet, config: Config) -> dict[str, Any]:
    """What ``data.json`` holds of a data set."""
    return {
        "name": data.name,
        "classes": len(data.class_names),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "class_names": list(data.class_names),
        "class_counts": data.train.class_counts().tolist(),
        "group_counts": data.group_counts.tolist(),
        "group_boundaries": list(config.data.group_boundaries),
        "fingerprints": {"train": data.train.fingerprint, "test": data.test.fingerprint},
    }


def _describe_model(config: Config, model: LiftModel) -> dict[str, Any]:
    size = tuner_size(model.towers, model.tuner_parameters)
    head = sum(parameter.numel() for parameter in model.head_parameters.values())
    return {
        "name": config.model.model,
        "tuner": list(config.model.tuner),
        "rank": model.tuner_settings.rank,
        "layers": list(model.tuner_settings.layers),
        "tuner_parameters": size.parameters,
        "tuner_share": size.share,
        "head_parameters": head,
        "tuned_parameters": size.parameters + head,
        "image_size": model.preprocessing.image_size,
        "backbone_fingerprint": model.backbone_fingerprint,
    }


def _announce(
    config: Config, data: DataSet, model: LiftModel, device: torch.device, dtype: torch.dtype, ui: Ui
) -> None:
    counts = data.train.class_counts()
    described = _describe_model(config, model)
    executor, why = choose_executor(data.train, config.data.executor)
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
    ui.say(f"{device} in {dtype_name(dtype)}, {torch.get_num_threads()} threads; images by {executor} ({why})")


def _results(
    config: Config, data: DataSet, model: LiftModel, fit: Fit | None, evaluation: Evaluation, device: torch.device
) -> dict[str, Any]:
    metrics = evaluation.metrics.to_dict()
    timing = {"evaluate_s": evaluation.seconds}
    if fit is not None:
        timing |= {"train_s": fit.elapsed, "images_per_s": fit.images_seen / max(fit.elapsed - fit.seconds, 1e-9)}
    name = ensembling_name(config)
    return {
        "recipe": config.recipe,
        "model": _describe_model(config, model),
        "data": describe_data(data, config),
        "metrics": metrics,
        "evaluations": {name: metrics},
        "timing": timing,
        "machine": machine(device),
        "versions": versions(),
    }


def _report(run: RunFolder, ui: Ui) -> None:
    from fastlift.reporting.html import write_report

    write_report([run.path], run.report)
    ui.say(f"run folder {run.path}; open {run.report} for plots")


def load_run(folder: str | Path, checkpoint: str | None = None) -> LiftModel:
    """The trained model of a run, on the CPU in fp32, ready to predict.

    Args:
        folder: a run folder.
        checkpoint: a checkpoint's name (``epoch-003``) or path; default: the last one.

    Raises:
        UserError: no run, no checkpoint, or backbone weights other than those that the run trained on.
    """
    run = runs.open_run(Path(folder))
    config = load(run.config)
    names = run.class_names()
    path = run.find_checkpoint(checkpoint)
    if path is None and not config.training.epochs:
        return build_model(config, names)
    if path is None:
        raise UserError(f"{folder} has no checkpoint yet")
    trained, _, position = checkpoints.read(path)
    model = build_model(config, names, init="random")
    if position.backbone != model.backbone_fingerprint:
        raise UserError(f"the backbone weights are not those that {folder} was trained on; restore them first")
    model.load_trained(trained, f"checkpoint {path}")
    return model
