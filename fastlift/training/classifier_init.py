"""Initial weights of the classifier that are made from training images, by features of the frozen backbone without a tuner.

Images are seen as the authors see them here: short side resized to the model's size, centre crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crops import EvalCrops
from fastlift.errors import UserError
from fastlift.models.classifier_init import IMAGE_INITS, choose_shots
from fastlift.models.classifier_init import class_means as class_means
from fastlift.models.classifier_init import linear_probe as linear_probe
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import without_gradients
from fastlift.training.inputs import model_loader


@dataclass(frozen=True)
class PlainCrops(EvalCrops):
    """The short side resized to ``size`` itself, and the middle of the image."""

    @property
    def short_side(self) -> int:
        """The short side of the resized image in pixels."""
        return self.size


@torch.inference_mode()
def frozen_features(
    model: LiftModel,
    index: ImageIndex,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    batch_size: int = 128,
    on_progress: Callable[[int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
    what: str = "frozen features",
) -> tuple[Tensor, Tensor]:
    """Features [N, D] (fp32) and labels int64 [N] of an index, on the CPU.

    Args:
        model: with ``tuner="none"``, on its device.
        index, loader, bad_images: which images, what decodes them, and what becomes of broken ones.
        batch_size: images at a time.
        on_progress: called with the number of images done.
        on_bad: called with each image that is replaced, from any thread.
        what: they are for, in the message where memory runs out.

    Raises:
        OutOfMemory: a batch is too large for it.
    """
    crops = PlainCrops(model.preprocessing.image_size, interpolation=model.preprocessing.interpolation)
    batches = model_loader(model, index, crops, batch_size, loader, bad_images, shuffle=False, on_bad=on_bad)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for images, theirs, _ in batches.epoch(0):
            found = without_gradients(partial(model.features, images), model, len(images), what=what)
            features.append(found.float().cpu())
            labels.append(theirs.cpu())
            if on_progress is not None:
                on_progress(sum(map(len, labels)))
    finally:
        batches.close()
    return torch.cat(features), torch.cat(labels)


def init_from_images(
    model: LiftModel,
    index: ImageIndex,
    init: str,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The classifier's weight [C, D] (fp32) that ``init`` names, from the training split.

    Args:
        model: the frozen backbone (``tuner="none"``), on its device.
        index: the training split.
        init: ``class_mean``, ``class_mean_1`` (of 1, 10 or 100 images a class) or ``linear_probe``.
        seed: of the draw of those images.
        loader, bad_images, options: as ``frozen_features`` takes them.

    Raises:
        UserError: an init that does not come from images, or a class without an image.
    """
    if init not in IMAGE_INITS:
        raise UserError(f"init {init!r} is not made from images: {', '.join(IMAGE_INITS)} are")
    how = IMAGE_INITS[init]
    chosen = index if how.shots is None else subset(index, choose_shots(index.labels, how.shots, seed))
    features, labels = frozen_features(model, chosen, loader, bad_images, what=f"classifier init {init}", **options)
    return how.make(features, labels, len(model.class_names))


def subset(index: ImageIndex, rows: np.ndarray) -> ImageIndex:
    """Some ``rows`` (int64 [M]) of an index, for looking at them once: not a data set of its own."""
    return replace(
        index,
        paths=index.paths if index.arrays is not None else index.paths.take(rows),
        labels=index.labels[rows],
        widths=index.widths[rows],
        heights=index.heights[rows],
        arrays=None if index.arrays is None else index.arrays[rows],
        spans=None if index.spans is None else index.spans[rows],
        bad=(),
    )
