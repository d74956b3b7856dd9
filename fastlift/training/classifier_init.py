"""Initial weights of the classifier that are made from training images: class means, and a logistic regression.

Images are seen as the authors see them here: short side resized to the model's size, centre crop. Features are those of
the frozen backbone, without any tuner.

Source: LIFT (Shi et al., ICML 2024), table 7.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crops import EvalCrops
from fastlift.errors import UserError
from fastlift.models.classifier_init import IMAGE_INITS
from fastlift.models.lift import LiftModel
from fastlift.models.out_of_memory import attempt, in_evaluation
from fastlift.training.inputs import model_loader

_ITERATIONS = 100


@dataclass(frozen=True)
class PlainCrops(EvalCrops):
    """The short side resized to ``size`` itself, and the middle of the image."""

    @property
    def short_side(self) -> int:
        """The short side of the resized image in pixels."""
        return self.size


def choose_shots(labels: np.ndarray, shots: int | None, seed: int) -> np.ndarray:
    """Rows of at most ``shots`` samples of each class, drawn without replacement; all rows for None.

    Args:
        labels: int64 [N].

    Returns:
        int64, ascending.
    """
    if shots is None:
        return np.arange(len(labels))
    order = np.random.Generator(np.random.Philox(seed & (2**64 - 1))).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]  # each class's rows together, shuffled
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # place within the class
    return np.sort(by_class[rank < shots])


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """w_c = mean of the features of class c, L2-normed: [C, D].

    Args:
        features: [N, D].
        labels: int64 [N].

    Raises:
        UserError: a class without an image.
    """
    counts = _counts(labels, classes)
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64).index_add(0, labels, features.double())
    return F.normalize(sums / counts[:, None], dim=1).float()


def linear_probe(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Coefficients of a multinomial logistic regression, L2-normed: [C, D].

    L-BFGS, at most 100 iterations, L2 penalty of strength 1, classes weighted by n / (C n_c), features as they are.

    Raises:
        UserError: a class without an image.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _counts(labels, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the papers stop after 100 iterations, converged or not
        probe = LogisticRegression(solver="lbfgs", max_iter=_ITERATIONS, class_weight="balanced")
        probe.fit(features.numpy(), labels.numpy())
    weight = torch.from_numpy(probe.coef_)
    if classes == 2:  # scikit-learn keeps one row for two classes
        weight = torch.cat([-weight, weight])
    return F.normalize(weight, dim=1).float()


def _counts(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        raise UserError(f"no image to start {len(empty)} of {classes} classes from (first: {empty[:10]})")
    return counts


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
            found = attempt(lambda: model.features(images).float().cpu())  # noqa: B023 - called at once
            if found is None:
                raise in_evaluation(model, len(images), 1, what)
            features.append(found)
            labels.append(theirs.cpu())
            if on_progress is not None:
                on_progress(sum(map(len, labels)))
    finally:
        batches.close()
    return torch.cat(features), torch.cat(labels)


def image_start(
    model: LiftModel,
    index: ImageIndex,
    init: str,
    loader: LoaderSettings,
    bad_images: BadImageSettings,
    *,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The classifier's weight [C, D] that ``init`` names, from the training split.

    Args:
        model: the frozen backbone (``tuner="none"``), on its device.
        index: the training split.
        init: ``class_mean``, ``class_mean_1`` (of 1, 10 or 100 images a class) or ``linear_probe``.
        seed: of the draw of those images.
        options: ``batch_size``, ``on_progress`` and ``on_bad`` as ``frozen_features`` takes them.

    Raises:
        UserError: an init that does not come from images, or a class without an image.
    """
    if init not in IMAGE_INITS:
        raise UserError(f"init {init!r} is not made from images: {', '.join(IMAGE_INITS)} are")
    shots = int(init.rpartition("_")[2]) if init.startswith("class_mean_") else None
    rows = choose_shots(index.labels, shots, seed)
    chosen = index if shots is None else subset(index, rows)
    features, labels = frozen_features(model, chosen, loader, bad_images, what=f"the start {init}", **options)
    make = linear_probe if init == "linear_probe" else class_means
    return make(features, labels, len(model.class_names))


def subset(index: ImageIndex, rows: np.ndarray) -> ImageIndex:
    """Some rows of an index, for looking at them once: not a data set of its own."""
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
