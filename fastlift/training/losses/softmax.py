"""Softmax cross-entropy, shifted by a log prior or weighted by class.

Cross-entropy (CE), class-balanced (CB: Cui et al. 2019), inverse frequency (GRW: Zhang et al. 2021), balanced softmax (BS: Ren
et al. 2020) and logit adjustment (LA: Menon et al. 2021) are one formula with its parts made of the class counts.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.errors import UserError
from fastlift.models.classifiers import Classifier
from fastlift.training.class_shards import ShardedClassifier
from fastlift.training.losses.base import Loss
from fastlift_kernels import Impl


class SoftmaxLoss(Loss):
    """Mean CE(z + tau log p, t), weighted by class: (logits [B, C], labels int64 [B]) -> scalar of the logits' dtype.

    Labels may also be probabilities [B, C], as of mixed images, in place of the onehot(y) below.
    t = (1 - E) onehot(y) + E / C, with E the label smoothing (Szegedy et al. 2016): the prior shifts the logits, and stays out of t.

    Args:
        log_prior: log p, [C], or None.
        tau: strength of the adjustment.
        class_weight: weight w of each class, [C], or None. The mean is the weighted one of ``torch.nn.CrossEntropyLoss``: each
            class of t counts with its own weight, and the sum is divided by that of w_y (of probabilities: their mean w).
        label_smoothing: E, in [0, 1).

    Raises:
        UserError: a tau that is not finite, or a smoothing out of range.
    """

    log_prior: Tensor | None
    class_weight: Tensor | None

    def __init__(
        self,
        log_prior: Tensor | None = None,
        tau: float = 1.0,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not math.isfinite(tau):
            raise UserError(f"tau: expected a number, got {tau}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing: expected a number in [0, 1), got {label_smoothing}")
        self.tau, self.label_smoothing = tau, label_smoothing
        self.register_buffer("log_prior", log_prior)
        self.register_buffer("class_weight", class_weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.log_prior is not None:
            logits = logits + self.tau * self.log_prior.to(logits.dtype)
        weight = None if self.class_weight is None else self.class_weight.to(logits.dtype)
        is_soft = labels.is_floating_point()
        labels = labels.to(logits.dtype) if is_soft else labels
        if weight is None or not is_soft:
            return F.cross_entropy(logits, labels, weight=weight, label_smoothing=self.label_smoothing)
        # torch's own mean of probabilities is over images, though that of labels is weighted.
        each = F.cross_entropy(logits, labels, weight, label_smoothing=self.label_smoothing, reduction="none")
        return each.sum() / (labels @ weight).sum()

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        return classifier.cross_entropy(features, labels, **self._constants(), impl=impl)

    def _constants(self) -> dict[str, Any]:
        return {
            "log_prior": self.log_prior,
            "tau": self.tau,
            "class_weight": self.class_weight,
            "label_smoothing": self.label_smoothing,
        }

    def on_mixed(self, classifier: Classifier, features: Tensor, labels: Tensor, mixed: Mixed) -> tuple[Tensor, Tensor]:
        if isinstance(classifier, ShardedClassifier):
            return classifier.cross_entropy(features, labels, **self._constants(), mixed=mixed)
        logits = classifier(features)
        return self(logits, mixed.soft(labels, logits.shape[1], logits.dtype)), logits.detach().argmax(dim=1)

    def share(self, labels: Tensor, whole: Tensor) -> float | Tensor:
        if self.class_weight is None:
            return super().share(labels, whole)
        return self.class_weight[labels].sum() / self.class_weight[whole].sum()

    def mixed_share(self, labels: Tensor, whole: Tensor, mixed: Mixed) -> float | Tensor:
        if self.class_weight is None:
            return super().share(labels, whole)
        mine = mixed.mean(self.class_weight[labels], self.class_weight[mixed.other])
        return mine.sum() / self.class_weight[whole].sum()


def adjusted(counts: Tensor, tau: float = 1.0, label_smoothing: float = 0.0) -> SoftmaxLoss:
    """CE(z + tau log p, t)."""
    return SoftmaxLoss((counts / counts.sum()).log().float(), tau, label_smoothing=label_smoothing)


def weighted(weight: Tensor, label_smoothing: float = 0.0) -> SoftmaxLoss:
    """Cross-entropy with a ``weight`` [C] for each class, normalised to mean 1."""
    return SoftmaxLoss(class_weight=(weight / weight.mean()).float(), label_smoothing=label_smoothing)


def class_balanced(counts: Tensor, beta: float = 0.9999, label_smoothing: float = 0.0) -> SoftmaxLoss:
    """Cross-entropy weighted by (1 - beta) / (1 - beta^n)."""
    if not 0 <= beta < 1:
        raise UserError(f"beta: expected a number in [0, 1), got {beta}")
    return weighted((1 - beta) / (1 - beta**counts), label_smoothing)
