"""The focal loss (Lin et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.models.classifiers import Classifier
from fastlift.training.class_shards import ShardedClassifier
from fastlift.training.losses.base import Loss, not_negative
from fastlift.training.split_losses import mean_of_images
from fastlift_kernels import Impl


class FocalLoss(Loss):
    """Mean (1 - q)^gamma * (-log q) with q = softmax(z)_y; shapes as ``Loss``. Raises: UserError for a gamma below 0."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        not_negative(gamma=gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._of_each(F.cross_entropy(logits, labels, reduction="none")).mean()

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(classifier, ShardedClassifier):
            return super().on_features(classifier, features, labels, impl)
        cross_entropies, predictions = classifier.cross_entropies(features, labels)
        return mean_of_images(self._of_each(cross_entropies)), predictions

    def _of_each(self, cross_entropies: Tensor) -> Tensor:
        return (1 - torch.exp(-cross_entropies)) ** self.gamma * cross_entropies
