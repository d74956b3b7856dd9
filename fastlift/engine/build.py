"""What a config asks for: its data set, model, batches and loss; and the trained model of a run."""

from __future__ import annotations

import time
from typing import Any

from fastlift.config import Config
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.loader import build_loader
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.order import share
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.compile import CompileSettings, compile_backbone, training_tflop
from fastlift.models.lift import LiftModel
from fastlift.runs.bad_images import BadImages
from fastlift.system.progress import Ui
from fastlift.training.distributed import World


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


def training_views(config: Config, image_size: int) -> TrainCrops:
    """The crops that a config trains on."""
    data = config.data
    return TrainCrops(
        image_size,
        kind=data.augmentation,
        min_scale=data.min_scale,
        schedule=data.schedule,
        epochs=max(config.training.epochs, 1),
        interpolation=data.interpolation,
    )


def training_loader(config: Config, data: DataSet, model: LiftModel, world: World, on_bad: BadImages | None) -> Loader:
    """The batches that a config trains on, on the model's device and in its compute dtype."""
    return build_loader(
        data.train,
        training_views(config, model.preprocessing.image_size),
        batch_size=config.training.batch_size,
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


def prepare_backbone(config: Config, images: int, model: LiftModel, world: World, ui: Ui) -> None:
    """Compile the backbone where the config asks for it or the run is long enough."""
    shares = {len(share(config.training.batch_size, rank, world.size)) for rank in range(world.size)}
    batch = max(shares)
    steps = config.training.epochs * -(-images // config.training.batch_size)
    device = next(model.parameters()).device
    plan = CompileSettings(config.run.compile).plan(device, steps, training_tflop(model, batch))
    if plan.mode is not None:
        at_a_time = {config.training.micro_batch} if config.training.micro_batch else shares
        compile_backbone(model, plan.mode, at_a_time | {config.part(InferenceSettings).crops_at_a_time})
    ui.say(f"backbone {'eager' if plan.mode is None else 'compiled, ' + plan.mode}: {plan.reason}")
