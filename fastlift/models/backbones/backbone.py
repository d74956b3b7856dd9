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
    """A pre-trained model, ready to be frozen.

    Attributes:
        vit: the vision tower.
        projection: from the ViT's width to the joint space, [D, E]; None where there is no text side, or no projection.
        text: the text tower, or None.
        logit_scale: exp of CLIP's learned temperature.
        mean, std: normalisation of RGB values in 0..1.
    """

    vit: VisionTransformer | ResNet
    projection: Tensor | None
    text: TextTower | None
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
