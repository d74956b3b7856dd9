"""Features of the images of a split: what a backbone makes of each, before the classifier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crops import EvalCrops
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.training.distributed import World
from fastlift.training.inputs import model_loader


@torch.inference_mode()
def features_of(
    model: LiftModel,
    index: ImageIndex,
    crops: EvalCrops,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    batch_size: int = 128,
    make: Callable[[Tensor], Tensor] | None = None,
    world: World | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
    what: str = "features",
) -> Tensor:
    """Features [N, D] (fp32) of the images of an index in its order, on the CPU.

    Several processes share the work by whole batches, so that every image is in the same batch for any number of them. Each
    gets those of its own batches; joined by rank they are those of one process.

    Args:
        model: on its device.
        index, loader, bad_images: which images, what decodes them, and what becomes of broken ones.
        crops: of each image one.
        batch_size: images at a time.
        make: what is made of a batch of images in place of the model's features, [B, D].
        world: the processes that share the work.
        on_progress: called with the number of images done, as if each process were as far as this one.
        on_bad: called with each image that is replaced, from any thread.
        what: they are for, in the message where memory runs out.

    Raises:
        OutOfMemory: a batch is too large for it.
    """
    world, done = world or World(), 0
    batches = model_loader(
        model, index, crops, batch_size, loader, bad_images, shuffle=False, world=world, on_bad=on_bad
    )
    features: list[Tensor] = []
    try:
        for images, labels, _ in batches.epoch(0):
            found = without_gradients(partial(make or model.features, images), model, len(images), what=what)
            features.append(found.float().cpu())
            done += len(labels)
            if on_progress is not None:
                on_progress(min(done * world.size, len(index)))
    finally:
        batches.close()
    return torch.cat(features) if features else torch.empty(0, 0)
