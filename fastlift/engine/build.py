"""What a config asks for: its data set, its training batches, and a backbone that is compiled where that pays."""

from __future__ import annotations

from fastlift.config import Config
from fastlift.data.datasets.catalogue import SourceSettings
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crops import CropSettings
from fastlift.data.sampling.stream import share
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.compile import CompileSettings, compile_backbone, training_tflop
from fastlift.models.lift import LiftModel
from fastlift.runs.bad_images import BadImages
from fastlift.system.progress import Ui, now_and_then
from fastlift.training.distributed import World
from fastlift.training.inputs import model_loader


def load_data(config: Config, ui: Ui) -> DataSet:
    """The data set of a config, checked."""
    source, bad_images = config.part(SourceSettings), config.part(BadImageSettings)
    found = source.build(config.part(TaxonSettings), bad_images, progress=now_and_then(ui.say))
    for index in (found.train, found.test):
        if index.bad:
            first = f"the first: {index.bad[0].path} {index.bad[0].reason}"
            ui.say(
                f"{index.name}: {len(index.bad):,} unusable files were replaced by others of the same class; {first}"
            )
    return found


def training_loader(config: Config, data: DataSet, model: LiftModel, world: World, bad: BadImages) -> Loader:
    """The batches that a config trains on, on the model's device and in its compute dtype."""
    return model_loader(
        model,
        data.train,
        config.part(CropSettings).build(model.preprocessing.image_size, config.training.epochs),
        config.training.batch_size,
        config.part(LoaderSettings),
        config.part(BadImageSettings),
        shuffle=True,
        seed=config.run.seed,
        world=world,
        on_bad=bad.of(data.train),
    )


def prepare_backbone(config: Config, images: int, model: LiftModel, world: World, ui: Ui) -> None:
    """Compile the backbone where the config asks for it or the run is long enough."""
    shares = {len(share(config.training.batch_size, rank, world.size)) for rank in range(world.size)}
    batch = max(shares)
    steps = config.training.epochs * -(-images // config.training.batch_size)
    device = next(model.parameters()).device
    plan = config.part(CompileSettings).plan(device, steps, training_tflop(model, batch))
    if plan.mode is not None:
        at_a_time = {config.training.micro_batch} if config.training.micro_batch else shares
        compile_backbone(model, plan.mode, at_a_time | {config.part(InferenceSettings).crops_at_a_time})
    ui.say(f"backbone {'eager' if plan.mode is None else 'compiled, ' + plan.mode}: {plan.reason}")
