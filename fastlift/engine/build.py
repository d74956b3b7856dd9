"""What settings ask for: the data set, its training batches, and a backbone that is compiled where that pays."""

from __future__ import annotations

from fastlift.config import DataConfig, RunConfig, TrainingConfig
from fastlift.data.datasets.catalogue import SourceSettings
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.data.datasets.subset import SubsetSettings
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.augmentations import AugmentSettings
from fastlift.data.sampling.crops import CropSettings
from fastlift.data.sampling.mixing import MixingSettings
from fastlift.data.sampling.stream import share, steps_in
from fastlift.data.stores.cache import CacheSettings
from fastlift.engine.agreement import first_of_each_machine
from fastlift.engine.loop import FitSettings
from fastlift.engine.opening import Place
from fastlift.engine.staged_loader import StagedLoader
from fastlift.errors import UserError
from fastlift.models.compile import CompileSettings, compile_backbone, training_tflop
from fastlift.models.lift import LiftModel
from fastlift.models.resizing import Resizer
from fastlift.runs.bad_images import BadImages
from fastlift.system.progress import Ui, now_and_then
from fastlift.training.distributed import World
from fastlift.training.inputs import model_loader
from fastlift.training.stages import Stages


def load_data(settings: DataConfig, ui: Ui, world: World | None = None, given: DataSet | None = None) -> DataSet:
    """The data set that is asked for, or ``given`` as an object; of several processes on a machine, the first reads its files.

    Raises UserError for what is wrong in it, and for a single class.
    """
    source = settings.part(SourceSettings)
    parts = (TaxonSettings, BadImageSettings, CacheSettings, CutSettings, TailSettings)
    found = given or first_of_each_machine(
        world or World(), lambda: source.build(*map(settings.part, parts), progress=now_and_then(ui.say))
    )
    found = settings.part(SubsetSettings).build(found)
    if why := found.one_class():
        raise UserError(why)
    for note in found.notes:
        ui.say(note)
    for index in found.splits.values():
        if index.bad:
            first = f"the first: {index.bad[0].path} {index.bad[0].reason}"
            ui.say(
                f"{index.name}: {len(index.bad):,} unusable files were replaced by others of the same class; {first}"
            )
    return found


def training_loader(
    settings: DataConfig,
    fit: FitSettings,
    stages: Stages,
    data: DataSet,
    model: LiftModel,
    place: Place,
    bad: BadImages,
) -> StagedLoader:
    """The batches to train on, on the model's device and in its compute dtype, each epoch's at the size of its stage."""
    loaders = settings.part(LoaderSettings)

    def make(side: int) -> Loader:
        return model_loader(
            model,
            data.train,
            settings.part(CropSettings).build(side, fit.epochs, settings.part(AugmentSettings)),
            fit.batch_size,
            loaders,
            settings.part(BadImageSettings),
            shuffle=True,
            shuffle_shards=fit.shuffle_shards,
            sampling=fit.sampling,
            mixing=fit.part(MixingSettings).build(),
            seed=fit.seed,
            world=place.world,
            on_bad=bad.of(data.train),
        )

    return StagedLoader(
        Resizer(model.vit),
        stages,
        make,
        steps_per_epoch=steps_in(len(data.train), fit.batch_size),
        backend=loaders.backend_for(data.train, place.device, augment=settings.augment)[0],
        ui=place.ui,
    )


def prepare_backbone(
    training: TrainingConfig, run: RunConfig, stages: Stages, images: int, model: LiftModel, place: Place
) -> None:
    """Compile the backbone where that is asked for or the run is long enough; each size of images is a graph of its own."""
    batch, ranks = training.batch_size, place.world.size
    shares = {len(share(batch, rank, ranks, training.stay_together)) for rank in range(ranks)}
    steps = training.epochs * -(-images // training.batch_size)
    plan = run.part(CompileSettings).plan(place.device, steps, _step_tflop(model, max(shares), stages), stages.sizes)
    if plan.mode is not None:
        at_a_time = {training.micro_batch} if training.micro_batch else shares
        compile_backbone(model, plan.mode, at_a_time | {run.crops_at_a_time}, stages.sizes)
    place.ui.say(f"backbone {'eager' if plan.mode is None else 'compiled, ' + plan.mode}: {plan.reason}")


def _step_tflop(model: LiftModel, batch: int, stages: Stages) -> float:
    """TFLOP of a training step, on average over the epochs."""
    resizer, total = Resizer(model.vit), 0.0
    for side, epochs in stages.epochs_at().items():
        resizer.resize(side)
        total += epochs * training_tflop(model, batch)
    resizer.restore()
    return total / max(stages.epochs, 1)
