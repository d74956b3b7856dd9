"""LDAM, the label-distribution-aware margin loss (Cao et al. 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.models.classifiers import Classifier
from fastlift.training.class_shards import ShardedClassifier
from fastlift.training.losses.base import Loss, not_negative
from fastlift.training.split_losses import mean_of_images
from fastlift_kernels import Impl


class LDAMLoss(Loss):
    """CE with the true logit lowered by scale * margin * (n_y / n_min)^(-1/4); shapes as ``Loss``.

    ``class_counts`` are n, [C]. Raises: UserError for a margin or scale below 0.
    """

    margins: Tensor

    def __init__(self, class_counts: Tensor, margin: float = 0.5, scale: float = 25.0) -> None:
        super().__init__()
        not_negative(margin=margin, scale=scale)
        self.scale, counts = scale, class_counts.float()
        self.register_buffer("margins", margin * (counts / counts.min()) ** -0.25)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        margins = self.scale * self.margins[labels][:, None].to(logits)
        return F.cross_entropy(logits - torch.zeros_like(logits).scatter(1, labels[:, None], margins), labels)

    def on_features(
        self, classifier: Classifier, features: Tensor, labels: Tensor, impl: Impl | None = None
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(classifier, ShardedClassifier):
            return super().on_features(classifier, features, labels, impl)
        losses, predictions = classifier.cross_entropies(features, labels, margins=self.scale * self.margins)
        return mean_of_images(losses), predictions
