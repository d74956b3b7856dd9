"""The reference path: one LIFT training step in plain PyTorch, as the authors' program takes it.

The same maths as fastlift's, written down without any of its savings: eager, every token through the last block, heads
made contiguous, QuickGELU as x * sigmoid(1.702 x), the adapter as six ops, weights cast in every step under reduced
precision, logits in memory, an unfused optimiser, and the figures of each step read back. It is what the end-to-end
benchmarks compare with, and counts what the authors' program counts: 65.1 GFLOP and about 110 MB saved an image for ViT-B/16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.models.classifiers import CosineClassifier
from fastlift.models.lift import LiftModel
from fastlift.models.tuners.adapter import AdaptFormerBranch
from fastlift.models.vit import Block
from fastlift.training.losses import SoftmaxLoss


def linear(x: Tensor, layer: Any) -> Tensor:
    """x W^T + b, the weights cast anew."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """LayerNorm, the weights cast anew."""
    return F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def block_forward(block: Block, x: Tensor) -> Tensor:
    """One block on x [L, B, D]."""
    length, batch, width = x.shape
    q, k, v = (
        part.contiguous().view(length, batch * block.heads, width // block.heads).transpose(0, 1)
        for part in linear(layer_norm(x, block.norm_1), block.qkv).chunk(3, dim=-1)
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).contiguous().view(length, batch, width)
    t = x + linear(mixed, block.out)
    branch = block.pre_mlp
    assert isinstance(branch, AdaptFormerBranch)
    hidden = linear(layer_norm(t, branch.norm), block.mlp_in)
    hidden = linear(hidden * torch.sigmoid(1.702 * hidden), block.mlp_out)
    adapter = branch.adapter
    down = torch.relu(linear(layer_norm(t, adapter.ln), adapter.down_proj))
    return t + (hidden + linear(down, adapter.up_proj) * adapter.scale)


def features(model: LiftModel, images: Tensor) -> Tensor:
    """Features [B, D] of images [B, 3, S, S], every token through every block."""
    vit: Any = model.vit
    x = vit.embed(images).permute(1, 0, 2)  # [L, B, D]
    for i in range(vit.depth):
        x = block_forward(vit.block(i), x)
    return layer_norm(x.permute(1, 0, 2)[:, 0], vit.pool.norm)


class ReferenceLearner:
    """The plain counterpart of ``fastlift.training.step.Learner``: the same update in plain PyTorch."""

    def __init__(
        self, model: LiftModel, loss: SoftmaxLoss, *, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4
    ):
        assert isinstance(model.classifier, CosineClassifier)
        self.model, self.loss, self.classifier = model, loss, model.classifier
        self.parameters = model.trained()
        self.optimizer = torch.optim.SGD(
            self.parameters.values(), lr=lr, momentum=momentum, weight_decay=weight_decay, foreach=False
        )
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One update; reads loss and accuracy back, as the authors' loop does."""
        self.optimizer.zero_grad()
        pooled = F.normalize(features(self.model, images).float(), dim=1)
        logits = F.linear(pooled, F.normalize(self.classifier.weight, dim=1)) * self.classifier.scale
        value = self.loss(logits, labels)
        value.backward()
        self.optimizer.step()
        self.losses.append(value.item())
        self.accuracies.append((logits.argmax(dim=1) == labels).float().mean().item())
