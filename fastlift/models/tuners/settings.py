"""What every tuner needs to know, with all defaults resolved."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TunerSettings:
    """Settings of the tuners of one model.

    Attributes:
        rank: bottleneck width r of AdaptFormer, Adapter and LoRA.
        layers: indices of the blocks that get a tuner.
        generator: source of the random starts; None draws from PyTorch's global generator.
    """

    rank: int
    layers: tuple[int, ...]
    generator: torch.Generator | None = None
