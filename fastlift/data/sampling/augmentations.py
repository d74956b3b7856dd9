"""Which operations change the pixels of a training crop: RandAugment's and TrivialAugment's draws, by (seed, epoch, sample).

The pixels are torchvision's (``data/loading/augment.py``); only the choice is made here, because torchvision takes it from torch's
global generator, which threads share.

Legend of shapes: B samples, K operations of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fastlift.data.sampling.philox import uniform
from fastlift.settings import Acts, Between, Settings

Augment = Literal["none", "randaugment", "trivialaugment"]
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
LEVELS = 31  # of each operation's strength
OPS, MAGNITUDES = Between(1, 100), Between(0, LEVELS - 1)
_OF_RANDAUGMENT = Acts("RandAugment's own (augment randaugment)", lambda augment: augment == "randaugment")
_STREAM = 2**31 + 1  # of random numbers: beside those of boxes, flips and DALI's shares


def _threads_augment(augment: Augment, executor: str) -> str | None:
    if augment == "none" or executor != "dali":
        return None
    return (
        f"--augment {augment} changes pixels that fastlift's threads have made, and --executor dali leaves them to DALI: use "
        "--executor torchvision (or auto, which takes it then)"
    )


@dataclass(frozen=True)
class AugmentSettings(Settings):
    """What is done to the pixels of training crops beside cropping and flipping."""

    augment: Annotated[
        Augment, Acts("what is done to the pixels of training crops (epochs 1 or more)", lambda epochs: epochs > 0)
    ] = "none"
    """RandAugment or TrivialAugment (Wide) on the pixels of training crops, behind the random crop (--augmentation): torchvision's
    operations and strengths, drawn anew each time, on the CPU (never by DALI)."""
    randaugment_ops: Annotated[int, OPS, _OF_RANDAUGMENT] = 2
    """Operations on each crop, one after the other."""
    randaugment_magnitude: Annotated[int, MAGNITUDES, _OF_RANDAUGMENT] = 9
    """Their strength, from 0 to 30."""
    RULES = (_threads_augment,)


@dataclass(frozen=True)
class Augmentations:
    """What is done to the crops of a batch: K operations each, one after the other. All [B, K]."""

    operation: np.ndarray  # int64, place in OPERATIONS
    level: np.ndarray  # int64 in [0, LEVELS)
    negative: np.ndarray  # bool: in the other direction, where the operation has two


def draw_augmentations(
    settings: AugmentSettings, seed: int, epoch: int, samples: np.ndarray, occurrences: np.ndarray | None = None
) -> Augmentations:
    """Operations for ``samples``, int64 [B]: RandAugment's or TrivialAugment's, as ``settings`` say (not "none").

    Operation and direction are uniform. RandAugment's level is its magnitude; TrivialAugment has one operation, its level is
    uniform. ``occurrences`` as in ``uniform``, whose errors these are.
    """
    is_trivial = settings.augment == "trivialaugment"
    count = 1 if is_trivial else settings.randaugment_ops
    u = uniform(seed, epoch, _STREAM, samples, 3 * count, occurrences).reshape(len(samples), count, 3)
    operation = (u[..., 0] * len(OPERATIONS)).astype(np.int64)
    level = (u[..., 1] * LEVELS).astype(np.int64)
    if not is_trivial:
        level[...] = settings.randaugment_magnitude
    return Augmentations(operation, level, u[..., 2] <= 0.5)
