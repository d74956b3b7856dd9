"""What a loaded backbone is: a vision tower, and a text tower where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer
from fastlift.models.weights import weights_fingerprint

# A library's name of a model, or an open_clip configuration as the path of a JSON or a dict.
Name = str | Path | dict[str, Any]


@dataclass
class TextTower:
    """A CLIP model's text side: ``model`` is an open_clip model, ``tokenize`` its tokenizer (strings -> [N, context])."""

    model: nn.Module
    tokenize: Callable[[list[str]], Tensor]

    def fingerprint(self) -> str:
        """Name of the tower's weights: another checkpoint has other text features."""
        state = self.model.state_dict().items()
        return weights_fingerprint((name, tensor) for name, tensor in state if not name.startswith("visual."))


@dataclass
class Backbone:
    """A pre-trained model, ready to be frozen."""

    vit: VisionTransformer | ResNet
    # [D, E], from the ViT's width to the joint space; None where there is no text side, or no projection.
    projection: Tensor | None
    text: TextTower | None
    logit_scale: float  # exp of CLIP's learned temperature
    mean: tuple[float, float, float]  # with ``std`` the normalisation of RGB values in 0..1
    std: tuple[float, float, float]
