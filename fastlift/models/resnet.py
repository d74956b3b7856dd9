"""CLIP's ResNets (RN50, RN101, RN50x4 ...): open_clip's ``ModifiedResNet`` with attention pooling, frozen.

Features are the pooled ones, in the joint space already, so that text features need no projection to become a classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ResNet(nn.Module):
    """images [B, 3, S, S], normalised -> features [B, E], by open_clip's ``ModifiedResNet``.

    Weights stay in fp32 and the compute dtype is reached by autocast, since batch norms and convolutions are PyTorch's.
    Batch norms use their stored statistics in training too, so that a step does not depend on how its batch is cut.
    """

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower.eval()
        self.post_pool: nn.Module = nn.Identity()
        self.width: int = tower.output_dim
        self.image_size = (tower.image_size, tower.image_size)
        self.compute_dtype = torch.float32
        self.requires_grad_(False)

    @property
    def depth(self) -> int:
        """Bottleneck blocks."""
        return sum(len(getattr(self.tower, f"layer{stage}")) for stage in (1, 2, 3, 4))

    def train(self, mode: bool = True) -> ResNet:
        """Batch norms stay in eval mode, whatever the mode of the model around them."""
        return super().train(False)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype``."""
        self.compute_dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        dtype = self.compute_dtype
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            pooled = self.tower(images if dtype is not torch.float32 else images.float())
        return self.post_pool(pooled.to(dtype))
