"""What a loaded backbone is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fastlift.models.resnet import ResNet
from fastlift.models.text.features import TextTower
from fastlift.models.vit import VisionTransformer

# A library's name of a model, or an open_clip configuration as the path of a JSON or a dict.
Name = str | Path | dict[str, Any]


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
