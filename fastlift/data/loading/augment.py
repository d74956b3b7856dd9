"""RandAugment and TrivialAugment on the pixels of a crop: torchvision's functions on Pillow images, with drawn operations.

Operations, their strengths and their order are those of torchvision's ``transforms.v2.RandAugment`` and ``TrivialAugmentWide`` with
their default spaces; tests compare the pixels of each. Pillow's functions give the interpreter lock away, and start no threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from fastlift.data.sampling.augmentations import LEVELS, OPERATIONS, Augment, Augmentations


def _sheared(image: Image.Image, x: float, y: float) -> Image.Image:
    degrees = [math.degrees(math.atan(tangent)) for tangent in (x, y)]
    return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


def _moved(image: Image.Image, x: float, y: float) -> Image.Image:
    return F.affine(image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])


# Operation -> what it does with a strength; those without one pass it by.
_FUNCTIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, strength: _sheared(image, strength, 0.0),
    "ShearY": lambda image, strength: _sheared(image, 0.0, strength),
    "TranslateX": lambda image, strength: _moved(image, strength, 0.0),
    "TranslateY": lambda image, strength: _moved(image, 0.0, strength),
    "Rotate": lambda image, strength: F.rotate(image, angle=strength),
    "Brightness": lambda image, strength: F.adjust_brightness(image, brightness_factor=1.0 + strength),
    "Color": lambda image, strength: F.adjust_saturation(image, saturation_factor=1.0 + strength),
    "Contrast": lambda image, strength: F.adjust_contrast(image, contrast_factor=1.0 + strength),
    "Sharpness": lambda image, strength: F.adjust_sharpness(image, sharpness_factor=1.0 + strength),
    "Posterize": lambda image, strength: F.posterize(image, bits=int(strength)),
    "Solarize": lambda image, strength: F.solarize(image, threshold=255.0 * strength),
    "AutoContrast": lambda image, _: F.autocontrast(image),
    "Equalize": lambda image, _: F.equalize(image),
}
_ONE_WAY = ("Posterize", "Solarize")  # strengths that have no other direction


@lru_cache(maxsize=32)
def _strengths(augment: Augment, size: int) -> dict[str, list[float]]:
    """Of each operation by level, for crops of ``size`` pixels; none for those that have no strength."""
    wide = augment == "trivialaugment"
    colour, bits = (0.99, 6) if wide else (0.9, 4)
    shift = 32.0 if wide else 150.0 / 331.0 * size
    ends = {
        **dict.fromkeys(("ShearX", "ShearY"), (0.0, 0.99 if wide else 0.3)),
        **dict.fromkeys(("TranslateX", "TranslateY"), (0.0, shift)),
        "Rotate": (0.0, 135.0 if wide else 30.0),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.0, colour)),
        "Solarize": (1.0, 0.0),
    }
    found = {name: torch.linspace(*pair, LEVELS).tolist() for name, pair in ends.items()}
    kept = (8 - torch.arange(LEVELS) / ((LEVELS - 1) / bits)).round()
    return found | {"Posterize": kept.tolist()}


def augment_crop(crop: np.ndarray, augment: Augment, chosen: Augmentations, row: int) -> None:
    """Carry out the operations of a ``row`` on a ``crop``, uint8 [3, S, S], in place; of RandAugment or TrivialAugment."""
    strengths = _strengths(augment, crop.shape[-1])
    image = Image.fromarray(np.ascontiguousarray(crop.transpose(1, 2, 0)))
    for number, level, negative in zip(
        *(column[row].tolist() for column in (chosen.operation, chosen.level, chosen.negative)), strict=True
    ):
        name = OPERATIONS[number]
        strength = strengths[name][level] if name in strengths else 0.0
        image = _FUNCTIONS[name](image, -strength if negative and name not in _ONE_WAY else strength)
    crop[...] = np.asarray(image).transpose(2, 0, 1)
