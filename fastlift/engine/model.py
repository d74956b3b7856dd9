"""The model of a run: built by its config, read back, moved to its device, its classifier initialised."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastlift.config import TrainingConfig, load
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.engine.agreement import agree, each_says, first_amp, first_does, first_values, take_first_values
from fastlift.engine.averages import check_weights
from fastlift.engine.memory import Work, check_memory, estimate
from fastlift.engine.opening import Asked, Place
from fastlift.errors import UserError
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.interop.lift_checkpoints import as_lift_state, in_order_of, load_lift_checkpoint
from fastlift.models.backbones import outline
from fastlift.models.classifier_init import IMAGE_INITS
from fastlift.models.create import CreateSettings, create_model
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import FusedSettings
from fastlift.models.lift import LiftModel
from fastlift.models.precision import Amp, PrecisionSettings, Shape, resolve_amp, shape_of
from fastlift.models.vit import ActivationCheckpointingSettings
from fastlift.models.weights import weights_fingerprint
from fastlift.reporting.notebook import ui_for
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.bad_images import BadImages
from fastlift.runs.calibration import calibration_in, check_is_of, read_calibration
from fastlift.runs.given_state import GivenState
from fastlift.runs.identity import Identity
from fastlift.runs.stored import Record
from fastlift.runs.train_state import names_digest
from fastlift.system.progress import Quiet, Ui, now_and_then
from fastlift.system.settings import DeviceSettings
from fastlift.training.averaging import Weights
from fastlift.training.class_shards import ShardedClassifier, ShardSettings
from fastlift.training.classifier_init import frozen_features, images_of, init_from_features
from fastlift.training.distributed import World, rows_of_all


def build_model(settings: CreateSettings, names: tuple[str, ...], ui: Ui | None = None, **changes: Any) -> LiftModel:
    """The model of a run on the CPU; ``changes`` replace single arguments of ``create_model``."""
    init = changes.pop("init", settings.init)
    return create_model(
        settings,
        class_names=names,
        init="random" if init in IMAGE_INITS else init,  # from images once model and images are there
        interpolation=settings.interpolation,
        seed=settings.seed,
        progress=partial(now_and_then((ui or Quiet()).say), "text features"),
        **changes,
    )


def load_run(
    folder: str | Path,
    checkpoint: str | None = None,
    ui: Ui | Literal["auto"] | None = "auto",
    *,
    device: str = "cpu",
    amp: Literal["auto", "bf16", "fp16", "fp32"] = "fp32",
    calibrated: bool = False,
    weights: Weights | None = None,
) -> LiftModel:
    """The trained model of a run: ``load_run(RUN).predict("photo.jpg")`` tells what is on an image.

    Args:
        folder: a run folder.
        checkpoint: ``best``, ``last``, a number of epochs (``3``), a checkpoint's name (``epoch-003``) or path; default: the
            best where a validation split was evaluated while the run trained, else the last; of those that are whole.
        ui: told which newer checkpoints were passed over, and why; as in ``train``.
        device: where the model lies: "cpu", "cuda", "cuda:1", or "auto" for a GPU if there is one.
        amp: the dtype it computes in: "fp32", "bf16", "fp16", or "auto" for that of the training.
        weights: of a run that keeps an average of its weights (``ema``): "ema" for the average, the default, or "raw" for
            what trained.
        calibrated: with the strength, the temperature and the threshold that ``fastlift calibrate`` fitted.

    Raises:
        UserError: no run; no checkpoint; a damaged one, or another run's; settings, class names or backbone weights other
            than those that the run trained on; ``weights`` of a run without an average; a device that is not here, or a dtype that it does not have; no calibration,
            or that of other weights.
    """
    chosen, precision = DeviceSettings(device).build(), PrecisionSettings(amp).amp  # what is no name is told at once
    # What is missing is told before the work.
    fitted = read_calibration(runs.open_run(Path(folder))) if calibrated else None
    model = _trained_model(Path(folder), checkpoint, ui_for(ui), weights)
    if fitted is not None:
        _calibrate(model, fitted, runs.open_run(Path(folder)), checkpoint)
    if (named := runs.amp_of(Path(folder), precision)) != "fp32":
        model.set_compute_dtype(resolve_amp(named, chosen, shape_of(model.vit, 1)).dtype)
    return model.to(chosen)


def _calibrate(model: LiftModel, fitted: Record, run: runs.RunFolder, checkpoint: str | None) -> None:
    """Apply what was fitted, if it was to this very checkpoint."""
    path = run.find_checkpoint(checkpoint)
    check_is_of(
        run,
        fitted,
        weights=weights_fingerprint(model.state().items()),
        backbone=model.backbone_fingerprint,
        checkpoint=None if path is None else path.stem,
    )
    model.calibrate(calibration_in(fitted))


def _trained_model(folder: Path, checkpoint: str | None, ui: Ui | None, weights: Weights | None = None) -> LiftModel:
    """The model of a run at a checkpoint, on the CPU in fp32."""
    run = runs.open_run(folder)
    config = load(run.config)
    check_weights(config.training.ema, weights)
    identity = run.identity()
    runs.check_settings(run, identity, config)
    names, settings = run.class_names(), config.part(CreateSettings)
    path = run.find_checkpoint(checkpoint, (ui or Quiet()).say)
    if path is None:
        untrained = None if config.training.epochs else build_model(settings, names)
        if untrained is None or untrained.trained():
            raise UserError(f"{folder} has no checkpoint yet; {runs.way_on(run.path)}")
        return untrained
    found = checkpoints.read(path, identity)
    trained, state = found.weights(weights), found.state
    if state.epoch > config.training.epochs:
        raise UserError(
            f"{path} is no place in this run: it was saved after epoch {state.epoch} of {config.training.epochs}"
        )
    if state.classes != names_digest(names):
        raise UserError(f"{run.data} was changed or damaged: its class names are not those that {path} was trained on")
    model = build_model(settings, names, init="random")
    if state.backbone != model.backbone_fingerprint:
        raise UserError(f"the backbone weights are not those that {folder} was trained on; restore them first")
    model.load_trained(trained, f"checkpoint {path}")
    return model


def ready_model(asked: Asked, place: Place, data: DataSet, dtype: torch.dtype) -> LiftModel:
    """The model on its device, where it fits, and alike on all ranks; nothing is written yet."""
    config, world, ui = asked.config, place.world, place.ui
    work = Work.of(config.training, config.run, len(data.train), len(data.test), world.size)
    check_memory(config.model, config.run, len(data.class_names), work, place.device)
    split, classes = config.part(ShardSettings), len(data.class_names)
    # Whatever a start is given as holds all rows; otherwise a process makes none but its own.
    rows = split.rows(classes, world) if config.training.epochs and asked.start is None else None
    model = build_model(config.part(CreateSettings), data.class_names, ui, rows=rows)
    if isinstance(asked.start, GivenState):
        asked.start.give(model)
    elif asked.start is not None:
        state = as_lift_state(asked.start)
        by_name = config.data.dataset == "inaturalist2018" and config.data.taxon == "species"
        load_lift_checkpoint(model, in_order_of(data.class_names, state) if by_name else state)
    if config.training.epochs:
        model.classifier = split.build(model.classifier, classes, world)
    model.set_compute_dtype(dtype)  # before it moves: what crosses the bus and is kept on a GPU is then half as much
    model.to(place.device)
    config.part(Fp8Settings).build(model.vit)
    for note in config.part(FusedSettings).build(model.vit):
        ui.say(note)
    config.part(ActivationCheckpointingSettings).build(model.vit)
    _check_possible(config.training, model, world)
    if config.training.epochs:
        with torch.set_grad_enabled(config.training.train_only is None):
            needed = estimate(  # before a run folder is made
                model, work.micro_batch, config.training.batch_size, work.copies
            )
        if config.run.memory == "check":
            needed.check()
        ui.say(f"training {needed}")
    agree(world, {"the backbone's weights": model.backbone_fingerprint})
    alike = model.tuner_parameters if isinstance(model.classifier, ShardedClassifier) else model.trained()
    take_first_values(world, alike)
    return model


def _check_possible(training: TrainingConfig, model: LiftModel, world: World) -> None:
    """What only the model and the processes tell, asked before a run folder is made or an old one replaced."""
    if training.batch_size < world.size:
        raise UserError(
            f"batch_size: {training.batch_size} images cannot be shared by {world.size} processes; start fewer"
        )
    if training.epochs and training.train_only is not None and not model.head_parameters:
        raise UserError(f"train_only {training.train_only}: this classifier has nothing that trains")
    if training.epochs and not model.trained():
        raise UserError("nothing in this model trains: choose a tuner, or epochs 0 to evaluate it as it is")


def go_back_to(path: Path, identity: Identity, data: DataSet, model: LiftModel) -> None:
    """Give a model that is only evaluated what the run kept of its initial values."""
    found = checkpoints.read(path, identity)
    found.state.check_origin(path, data.train.fingerprint, model.backbone_fingerprint)
    model.load_trained(found.trained, f"checkpoint {path}")


def init_classifier(
    settings: CreateSettings, passes: EvaluationSettings, place: Place, data: DataSet, model: LiftModel, bad: BadImages
) -> None:
    """Initialise the classifier by features that the frozen backbone, without its tuner, has of training images.

    The processes share the images. The first one has all features then, and makes the weight for all.
    """
    world, classifier, init = place.world, model.classifier, settings.init
    made: list[Tensor] = []
    changes: dict[str, Any] = {"tuner": ("none",), "text_tuner": ("none",), "classifier": "cosine"}
    frozen = build_model(settings, data.class_names, **changes)
    frozen.set_compute_dtype(model.vit.compute_dtype)
    frozen.to(place.device)
    images = images_of(init, data.train, settings.seed)
    with place.ui.bar(f"classifier init: {init}", len(images)) as bar:
        own = frozen_features(
            frozen,
            images,
            passes.part(LoaderSettings),
            passes.part(BadImageSettings),
            batch_size=passes.eval_batch,
            world=world,
            on_progress=bar.update,
            on_bad=bad.of(images),
            what=f"classifier init {init}",
        )
    each_says(world, "", math.inf)  # not in a collective, which would give up on a slower one after minutes
    features = rows_of_all(own, world, place.device)

    def make() -> None:
        assert features is not None
        weight = init_from_features(init, features, images, len(data.class_names))
        classifier.set_weight(weight.to(place.device))
        made.append(weight)

    first_does(world, make)
    if isinstance(classifier, ShardedClassifier):
        classifier.take_rows_of_first(made[0] if made else None)
    elif world.size > 1:
        classifier.set_weight(first_values(world, classifier.weight.detach()))


def choose_amp(asked: Asked, place: Place) -> Amp:
    """As asked for, or as the run was before, or as the first process measures it."""
    config, world = asked.config, place.world

    def shape() -> Shape | None:
        training, known = config.training, outline(config.model.model, config.model.image_size)
        batch = training.micro_batch or training.batch_size // world.size
        images = batch if training.epochs else config.run.crops_at_a_time
        return None if known is None else shape_of(known.vit, max(1, images))

    named = runs.amp_of(asked.path, config.run.amp) if asked.resume else config.run.amp
    amp = first_amp(world, named, place.device, shape)
    if named != config.run.amp:
        amp = Amp(amp.dtype, "as the run began")
    config.part(Fp8Settings).check(place.device, amp.dtype)
    return amp
