"""What a loaded backbone is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastlift.models.resnet import ResNet
from fastlift.models.text.features import TextTower
from fastlift.models.vit import VisionTransformer


@dataclass
class Backbone:
    """A pre-trained model, ready to be frozen.

    Attributes:
        vit: the vision tower.
        projection: from the ViT's width to the joint space, [D, E]; None where there is no text side, or no projection.
        text: the text tower, or None.
        logit_scale: exp of CLIP's learned temperature.
        mean, std: normalisation of RGB values in 0..1.
        pretrained: False where the weights are random.
    """

    vit: VisionTransformer | ResNet
    projection: Tensor | None
    text: TextTower | None
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pretrained: bool
