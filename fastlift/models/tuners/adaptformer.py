"""AdaptFormer: a bottleneck beside the MLP (Chen et al. 2022), LIFT's default tuner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fastlift.models.tuners.adapter import Bottleneck
from fastlift.models.tuners.base import TunerContext
from fastlift.models.tuners.rank import RankSettings
from fastlift.models.vit import Block, LayerNorm, NormBranch, Tower


class AdaptFormer(Bottleneck):
    """A(t) = s * (W_up relu(W_down LN_a(t) + b_down) + b_up), started at zero, with s = 1."""

    def __init__(self, width: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, rank, generator)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, t: Tensor) -> Tensor:
        """t + A(t) of tokens t [.., D], where the norm before the MLP is none of ours."""
        return self.run(t, None, self.scale)[1]

    def beside(self, t: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """(norm(t), t + A(t)) in one pass over t [.., D]."""
        normed, residual = self.run(t, norm, self.scale)
        return cast(Tensor, normed), residual


class AdaptFormerBranch(nn.Module):
    """A block's site before the MLP with the adapter beside its MLP."""

    def __init__(self, norm: LayerNorm, adapter: AdaptFormer) -> None:
        super().__init__()
        self.norm, self.adapter = norm, adapter

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.adapter.beside(t, self.norm)


@dataclass(frozen=True)
class AdaptFormerSettings(RankSettings):
    """An AdaptFormer beside the MLP of each chosen block."""

    NAME = "adaptformer"
    PREFIX = "adaptformer_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        adapter = AdaptFormer(tower.width, self.bottleneck(context), context.generator)
        block.pre_mlp = AdaptFormerBranch(cast(NormBranch, block.pre_mlp).norm, adapter)
        return adapter

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"rank": 2 * tower.width * self.bottleneck(context) * len(context.layers)}
