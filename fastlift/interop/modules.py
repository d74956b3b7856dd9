"""The losses as modules for any training loop: class counts in, (logits, labels) -> loss; and the fused cosine head.

Each is ``fastlift.losses`` under a name of its own, with its arguments spelled out and its input checked. State lies in
buffers and parameters, so that it follows ``.to(device)``, the state dict, copies and pickles.

Cross-entropies (LA, BS, CB, GRW) also take labels as probabilities [B, C], such as those of torchvision's MixUp and CutMix.

Legend: B batch, C classes, D width; n_c training images of class c, p = n / sum n, z logits, y labels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.models.classifiers import Classifier, CosineClassifier
from fastlift.training import losses
from fastlift.training.losses import LossName


class LongTailLoss(losses.Loss):
    """(logits [B, C], labels [B] int64) -> scalar of the logits' dtype, by the name of a loss.

    Args:
        class_counts: training images of each class, C positive numbers.
        options: of the loss.

    Raises:
        UserError: counts that are empty or not positive; on call: logits of another number of classes, labels that are
            not int64 [B] (or, of cross-entropies, probabilities [B, C]) or, on a CPU outside compiled graphs, not in 0..C-1
            (looking at them on a GPU would make it wait).
    """

    name: ClassVar[str]

    def __init__(self, class_counts: losses.Counts, **options: Any) -> None:
        super().__init__()
        self.loss = losses.build(self.name, class_counts, **options)
        self.classes = len(losses.class_counts_tensor(class_counts))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _check_tensors(logits, labels)
        is_soft = isinstance(self.loss, losses.SoftmaxLoss) and labels.is_floating_point() and labels.dim() == 2
        _check(self.classes, logits, labels, "logits", logits.shape[-1], is_soft)
        return self.loss(logits, labels)

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: kernels.Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        _check(self.classes, features, labels, "classifier.weight", classifier.weight.shape[0])
        return self.loss.on_features(classifier, features, labels, impl)

    def extra_repr(self) -> str:
        return f"classes={self.classes}"


class LogitAdjustedCrossEntropy(LongTailLoss):
    """Mean CE(z + tau log p, y) (Menon et al. 2021): LIFT's default; the rest as ``LongTailLoss``. Balanced softmax at tau = 1.

    ``label_smoothing`` is that of ``torch.nn.CrossEntropyLoss``.
    """

    name = "LA"

    def __init__(self, class_counts: losses.Counts, tau: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, tau=tau, label_smoothing=label_smoothing)


class BalancedSoftmaxLoss(LongTailLoss):
    """Mean CE(z + log p, y) (Ren et al. 2020); the rest as ``LogitAdjustedCrossEntropy``."""

    name = "BS"

    def __init__(self, class_counts: losses.Counts, label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, label_smoothing=label_smoothing)


class FocalLoss(LongTailLoss):
    """Mean (1 - q)^gamma (-log q), q = softmax(z)_y (Lin et al. 2017); of the counts only C matters, the rest as ``LongTailLoss``."""

    name = "Focal"

    def __init__(self, class_counts: losses.Counts, gamma: float = 2.0) -> None:
        super().__init__(class_counts, gamma=gamma)


class LDAMLoss(LongTailLoss):
    """CE with the true logit lowered by scale * margin * (n_y / n_min)^(-1/4) (Cao et al. 2019).

    ``scale`` is that of the classifier: 25 for the cosine one, 1 for a linear one. The rest as ``LongTailLoss``.
    """

    name = "LDAM"

    def __init__(self, class_counts: losses.Counts, margin: float = 0.5, scale: float = 25.0) -> None:
        super().__init__(class_counts, margin=margin, scale=scale)


class ClassBalancedCrossEntropy(LongTailLoss):
    """CE weighted by (1 - beta) / (1 - beta^n), normalised to mean 1 (Cui et al. 2019); the rest as ``LogitAdjustedCrossEntropy``."""

    name = "CB"

    def __init__(self, class_counts: losses.Counts, beta: float = 0.9999, label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, beta=beta, label_smoothing=label_smoothing)


class InverseFrequencyCrossEntropy(LongTailLoss):
    """CE weighted by 1/p, normalised to mean 1: GRW (Zhang et al. 2021); the rest as ``LogitAdjustedCrossEntropy``."""

    name = "GRW"

    def __init__(self, class_counts: losses.Counts, label_smoothing: float = 0.0) -> None:
        super().__init__(class_counts, label_smoothing=label_smoothing)


class LADELoss(LongTailLoss):
    """CE plus a Donsker-Varadhan term, formula as ``losses.LADELoss`` (Hong et al. 2021); the rest as ``LongTailLoss``."""

    name = "LADE"

    def __init__(self, class_counts: losses.Counts, weight: float = 0.1, regularisation: float = 0.1) -> None:
        super().__init__(class_counts, weight=weight, regularisation=regularisation)


class FusedCosineLoss(nn.Module):
    """Cosine classifier and loss in one: (features [B, D], labels int64 [B]) -> scalar, without logits of the batch in memory.

    z = scale * <f/|f|, w/|w|>, then the loss: fused into one op where it is a softmax cross-entropy with prior or class
    weights (LA, BS, CB, GRW), two steps otherwise.

    Args:
        width: D.
        class_counts: training images of each class, C positive numbers.
        loss: a name of ``fastlift.losses.build``; its options follow by name.
        scale: of the logits.
        seed: of the random unit rows that the classifier starts as.
        impl: implementation of the op: None (by device and dtype), ``"reference"``, ``"native"``, ``"triton"``.

    ``loss_and_predictions`` gives the argmax of the plain logits too, ``logits`` the plain logits for testing, and
    ``classifier.set_weight`` takes a start such as text features [C, D].

    Raises:
        UserError: as the losses do.
    """

    def __init__(
        self,
        width: int,
        class_counts: losses.Counts,
        loss: LossName = "LA",
        *,
        scale: float = 25.0,
        seed: int = 0,
        impl: kernels.Impl | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.loss = losses.build(loss, class_counts, **options)
        classes, generator = len(losses.class_counts_tensor(class_counts)), torch.Generator().manual_seed(seed)
        self.classifier = CosineClassifier(width, classes, scale=scale, generator=generator)
        self.impl = impl

    def loss_and_predictions(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """``features`` [B, D], ``labels`` int64 [B] -> (loss, predictions int64 [B]); errors as ``LongTailLoss``."""
        width = self.classifier.weight.shape[1]
        _check_tensors(features, labels)
        if features.dim() != 2 or features.shape[1] != width:
            raise UserError(f"features: expected [B, {width}], got {list(features.shape)}")
        classes = self.classifier.weight.shape[0]
        _check(classes, features, labels, "classifier.weight", classes)
        return self.loss.on_features(self.classifier, features, labels, self.impl)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.loss_and_predictions(features, labels)[0]

    def logits(self, features: Tensor) -> Tensor:
        """Plain logits [B, C] in fp32 of ``features`` [B, D], for testing."""
        return self.classifier(features)


def _check_tensors(rows: object, labels: object) -> None:
    for name, value in (("logits or features", rows), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise UserError(f"{name}: expected a tensor, got {type(value).__name__}")


def _check(classes: int, rows: Tensor, labels: Tensor, what: str, found: int, is_soft: bool = False) -> None:
    if rows.dim() != 2:
        raise UserError(f"expected logits or features of shape [B, ...] with two dimensions, got {list(rows.shape)}")
    if found != classes:
        raise UserError(f"{what} is for {found} classes, but the loss was made from {classes} class counts")
    if is_soft:
        if labels.shape != rows.shape:
            raise UserError(f"labels: expected probabilities of shape {list(rows.shape)}, got {list(labels.shape)}")
        return
    if labels.dtype != torch.int64 or labels.shape != rows.shape[:1]:
        raise UserError(
            f"labels: expected int64 of shape [{rows.shape[0]}], got {labels.dtype} of shape {list(labels.shape)}"
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or not len(labels):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"labels: expected 0 to {classes - 1}, got {low if low < 0 else high}")
