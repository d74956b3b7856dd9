"""Batches as a model takes them: cropped to its size, normalised as it wants, in its compute dtype, on its device."""

from __future__ import annotations

from collections.abc import Callable

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.batch import Loader
from fastlift.data.loading.collate import Normalise
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.class_draws import Sampling
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.mixing import Mixing
from fastlift.data.sampling.stream import Stream
from fastlift.models.lift import LiftModel
from fastlift.training.distributed import World


def model_loader(
    model: LiftModel,
    index: ImageIndex,
    crops: TrainCrops | EvalCrops,
    batch_size: int,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    shuffle: bool,
    shuffle_shards: int | None = None,
    sampling: Sampling = "shuffle",
    mixing: Mixing | None = None,
    seed: int = 0,
    world: World | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
    once: bool = False,
) -> Loader:
    """A loader of an index for a model.

    Args:
        model: on its device, its compute dtype set.
        batch_size: images a step: in training over all processes, in evaluation of each.
        shuffle: True for training, False for evaluation, as ``fastlift.data.build_loader`` has it.
        shuffle_shards: in training, so many shards at a time (``ShardOrderSettings``).
        sampling: in training, how often each class comes (``SamplingSettings``).
        mixing: in training, how images are mixed (``MixingSettings``).
        seed: of order and crops.
        world: the processes that share the images.
        on_bad: called with each image that is replaced, from any thread.
        once: one epoch is asked for, so that nothing need be kept for another.

    Raises:
        UserError: a backend that cannot be used; while iterating, an image that is broken and may not be replaced.
    """
    world, preprocessing = world or World(), model.preprocessing
    device = next(model.parameters()).device
    normalise = Normalise(preprocessing.mean, preprocessing.std, model.vit.compute_dtype, device)
    stream = Stream(
        index, crops, batch_size, seed, shuffle, False, world.rank, world.size, shuffle_shards, sampling, mixing
    )
    return loader.build(stream, normalise, bad_images.build(index, on_bad), once=once)
