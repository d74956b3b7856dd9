"""Initial weights of the classifier that are made from training images, by features of the frozen backbone without a tuner.

Images are seen as the authors see them here: short side resized to the model's size, centre crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from fastlift.training.distributed import World
from fastlift.training.features import features_of


@dataclass(frozen=True)
class PlainCrops(EvalCrops):
    """The short side resized to ``size`` itself, and the middle of the image."""

    @property
    def short_side(self) -> int:
        """The short side of the resized image in pixels."""
        return self.size


def frozen_features(
    model: LiftModel,
    index: ImageIndex,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    batch_size: int = 128,
    world: World | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_bad: Callable[[BadImage], None] | None = None,
    what: str = "frozen features",
) -> Tensor:
    """Features [N, D] (fp32) of the images of an index in its order, on the CPU: ``features_of`` with ``PlainCrops``.

    Args:
        model: with ``tuner="none"``, on its device.
        index, loader, bad_images: which images, what decodes them, and what becomes of broken ones.
        batch_size: images at a time.
        world: the processes that share the work by whole batches.
        on_progress: called with the number of images done, as if each process were as far as this one.
        on_bad: called with each image that is replaced, from any thread.
        what: they are for, in the message where memory runs out.

    Raises:
        OutOfMemory: a batch is too large for it.
    """
    crops = PlainCrops(model.preprocessing.image_size, interpolation=model.preprocessing.interpolation)
    return features_of(
        model,
        index,
        crops,
        loader,
        bad_images,
        batch_size=batch_size,
        world=world,
        on_progress=on_progress,
        on_bad=on_bad,
        what=what,
    )


def images_of(init: str, index: ImageIndex, seed: int = 0) -> ImageIndex:
    """Those of ``index``, the training split, from which ``init`` is made; ``seed`` is that of their draw.

    Raises:
        UserError: an init that does not come from images.
    """
    if init not in IMAGE_INITS:
        raise UserError(f"init {init!r} is not made from images: {', '.join(IMAGE_INITS)} are")
    shots = IMAGE_INITS[init].shots
    return index if shots is None else subset(index, choose_shots(index.labels, shots, seed))


def init_from_features(init: str, features: Tensor, images: ImageIndex, classes: int) -> Tensor:
    """The classifier's weight [C, D] (fp32) that ``init`` names, of ``classes`` C.

    Args:
        init: ``class_mean``, ``class_mean_1`` (of 1, 10 or 100 images a class) or ``linear_probe``.
        features: ``frozen_features`` [N, D] of these images, on the CPU.
        images: ``images_of`` the training split.

    Raises:
        UserError: a class without an image.
    """
    return IMAGE_INITS[init].make(features, torch.from_numpy(images.labels), classes)


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
