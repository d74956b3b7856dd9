"""The focal loss (Lin et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.training.losses.base import Loss, not_negative


class FocalLoss(Loss):
    """Mean (1 - q)^gamma * (-log q) with q = softmax(z)_y; shapes as ``Loss``. Raises: UserError for a gamma below 0."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        not_negative(gamma=gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - torch.exp(-cross_entropy)) ** self.gamma * cross_entropy).mean()
