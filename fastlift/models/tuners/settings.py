"""What every tuner needs to know, with all defaults resolved, and the papers' rules for the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

Sizes = Literal["lift", "lift_plus"]


@dataclass(frozen=True)
class TunerSettings:
    """Settings of the tuners of one model.

    Attributes:
        rank: bottleneck width r of AdaptFormer and Adapter.
        lora_rank: the same of LoRA.
        layers: indices of the blocks that get a tuner.
        prompt_length: visual prompts a block.
        mask_ratio: share of the weights that arbitrary fine-tuning trains, in (0, 1].
        mask_seed: of the draw of those weights.
        mask_draw: whose program draws them: LIFT's over a weight and its bias together, LIFT+'s over each.
        generator: source of the random starts; None draws from PyTorch's global generator.
    """

    rank: int
    lora_rank: int
    layers: tuple[int, ...]
    prompt_length: int
    mask_ratio: float
    mask_seed: int = 0
    mask_draw: Sizes = "lift"
    generator: torch.Generator | None = None


def _power_of_two(share: float) -> int:
    """The largest power of two that is not above ``share``, at least 1."""
    return 2 ** max(0, math.floor(math.log2(share)))


def adaptive_rank(classes: int, layers: int) -> int:
    """r = 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks (LIFT, section 4)."""
    return _power_of_two(classes / (2 * layers))


def adaptive_lora_rank(classes: int, layers: int, sizes: Sizes) -> int:
    """LIFT: as ``adaptive_rank``. LIFT+: the same rule with C / (4 L), since there are two products a block."""
    return adaptive_rank(classes, layers) if sizes == "lift" else _power_of_two(classes / (4 * layers))


def adaptive_prompt_length(classes: int, layers: int, sizes: Sizes) -> int:
    """LIFT: 10. LIFT+: the same rule with C / L."""
    return 10 if sizes == "lift" else _power_of_two(classes / layers)


def adaptive_mask_ratio(classes: int, layers: int, width: int, sizes: Sizes) -> float:
    """LIFT: C / (12 L D), rounded down to 0.001 and at least that. LIFT+: C / (L (12 D + 9)), at most 1.

    Both train about as many weights as the classifier has.
    """
    if sizes == "lift":
        return max(0.001, math.floor(classes / (12 * layers * width) * 1000) / 1000)
    return min(1.0, classes / (layers * (12 * width + 9)))
