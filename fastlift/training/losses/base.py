"""What every loss is, and the class counts n that losses are made of; p = n / sum n, z logits, y label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastlift.data.loading.mixed import Mixed
from fastlift.errors import UserError
from fastlift.models.classifiers import Classifier
from fastlift.training.distributed import World
from fastlift_kernels import Impl

Counts = Sequence[int] | np.ndarray | Tensor
"""Training images of each class, [C]: positive numbers."""


class Loss(nn.Module):
    """(logits [B, C], labels int64 [B]) -> scalar of the logits' dtype: a mean over the images.

    A batch may be made in parts, in one process after another and in several at once: its loss is the sum of those of the
    parts, each times its ``share``.
    """

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        """``features`` [B, D], ``labels`` int64 [B] -> (loss, predictions int64 [B]), through ``classifier``.

        Predictions are the argmax of the plain logits. ``impl`` is that of the fused op, where there is one.
        """
        logits = classifier(features)
        return self(logits, labels), logits.detach().argmax(dim=1)

    def on_mixed(self, classifier: Classifier, features: Tensor, labels: Tensor, mixed: Mixed) -> tuple[Tensor, Tensor]:
        """``features`` [B, D] of mixed images -> (loss, predictions int64 [B]), through ``classifier``, as ``on_features``.

        ``labels`` int64 [B] are those of the larger shares, the rest of them is in ``mixed``.

        Raises:
            UserError: a loss without soft labels.
        """
        raise UserError(f"{type(self).__name__} has no soft labels: images cannot be mixed")

    def share(self, labels: Tensor, whole: Tensor) -> float | Tensor:
        """What a part with ``labels`` int64 [B] counts in the mean over its batch, whose labels are ``whole`` [W]."""
        return len(labels) / len(whole)

    def mixed_share(self, labels: Tensor, whole: Tensor, mixed: Mixed) -> float | Tensor:
        """As ``share``, of mixed images: ``labels`` int64 [B] as ``on_mixed`` has them, ``whole`` [W] the batch's as unmixed.

        Both images of a pair are in the batch: its labels count as much in all as unmixed.
        """
        return self.share(labels, whole)

    def join(self, world: World) -> None:
        """Learn which processes (``world``) make parts of each batch at the same time; means over images need not know."""

    def without_images(self) -> None:
        """Take part where the other processes make a part of a batch and this one has none of it."""


def class_counts_tensor(class_counts: Counts) -> Tensor:
    """``class_counts`` as a float64 tensor [C].

    Raises:
        UserError: what is not numbers, no class, more than one dimension, or a class without an image.
    """
    try:
        counts = torch.as_tensor(class_counts).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"class counts: expected one number a class, got {class_counts!r}") from error
    if counts.dim() != 1 or not len(counts):
        raise UserError(f"class counts: expected one number a class, got shape {list(counts.shape)}")
    if not counts.isfinite().all():
        raise UserError(f"class counts: expected finite numbers, got {counts[~counts.isfinite()][0].item()}")
    empty = (counts <= 0).nonzero()[:, 0].tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10]))
        raise UserError(f"class counts: {len(empty)} of {len(counts)} classes have no image (first: {shown})")
    return counts


def not_negative(**options: float) -> None:
    """Refuse options below 0, or NaN, by their names."""
    for name, value in options.items():
        if not value >= 0:
            raise UserError(f"{name}: expected 0 or more, got {value}")
