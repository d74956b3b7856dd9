"""The model as it is served: tuners merged, plain PyTorch ops only, logits of one view or the mean over five crops."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.interop.export.merging import merge_tuners
from fastlift.models.lift import LiftModel
from fastlift.models.tuners.adapter import Adapter, AdaptFormer
from fastlift.models.vit import Block

_FUSED = (kernels.quick_gelu, kernels.gelu)


class FixedTextHead(nn.Module):
    """A text classifier whose class features, which no longer change, are a constant [C, E]."""

    weight: Tensor

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.register_buffer("weight", F.normalize(head.weight.detach(), dim=1))
        head.text, head.text_projection, head.text_adapter = nn.Identity(), None, None
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        features = F.normalize(self.head.prepare(features.float()), dim=1)
        return self.head.scale * F.linear(features, self.weight)


class ServingModel(nn.Module):
    """images [B, 3, S, S], or [B, V, 3, S, S] for V crops of each -> logits [B, C], the mean over the crops."""

    def __init__(self, vit: nn.Module, classifier: nn.Module, crops: int) -> None:
        super().__init__()
        self.vit, self.classifier, self.crops = vit, classifier, crops

    def forward(self, images: Tensor) -> Tensor:
        if self.crops == 1:
            return self.classifier(self.vit(images))
        logits = self.classifier(self.vit(images.flatten(0, 1)))
        return logits.unflatten(0, (-1, self.crops)).mean(dim=1)


def serving_model(model: LiftModel, crops: int = 1) -> ServingModel:
    """A copy of ``model`` on the CPU in fp32 that computes the same with PyTorch's own ops."""
    copied = deepcopy(model).cpu().eval().requires_grad_(False)
    copied.set_compute_dtype(torch.float32)
    classifier: nn.Module = copied.classifier
    if hasattr(classifier, "text_projection"):  # class features come from the text tower
        classifier = FixedTextHead(classifier)
    serving = ServingModel(merge_tuners(copied.vit), classifier, crops).float()
    for module in serving.modules():
        if isinstance(module, (AdaptFormer, Adapter)):
            module.impl = "reference"
        if isinstance(module, Block) and module.activation in _FUSED:
            module.activation = partial(module.activation, impl="reference")
    return serving
