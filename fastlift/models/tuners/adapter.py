"""Adapter: a bottleneck after the MLP, in series (Houlsby et al. 2019), with LIFT's LayerNorm in front."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.models.tuners.base import TunerContext
from fastlift.models.tuners.rank import RankSettings
from fastlift.models.vit import Block, Tower


class Bottleneck(nn.Module):
    """LN_a, W_down [r, D], b_down, W_up [D, r] and b_up, started at W_up = b_up = b_down = 0.

    Args:
        width: D.
        rank: r, the bottleneck's width.
        generator: source of W_down's Kaiming-normal start (a = sqrt 5).

    Attributes:
        impl: which implementation of the op runs; None chooses by device and dtype.
    """

    impl: kernels.Impl | None = None

    def __init__(self, width: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.down_proj = nn.Linear(width, rank)
        self.up_proj = nn.Linear(rank, width)
        nn.init.kaiming_normal_(self.down_proj.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.down_proj.bias)
        nn.init.zeros_(self.up_proj.weight)
        nn.init.zeros_(self.up_proj.bias)

    def run(self, x: Tensor, norm: nn.LayerNorm | None, scale: Tensor | float) -> tuple[Tensor | None, Tensor]:
        """(norm(x) or None, x + scale * (W_up relu(W_down LN_a(x) + b_down) + b_up)) in one pass over x [.., D]."""
        return kernels.adapter(
            x,
            None if norm is None else norm.weight,
            None if norm is None else norm.bias,
            self.ln.weight,
            self.ln.bias,
            self.down_proj.weight,
            self.down_proj.bias,
            self.up_proj.weight,
            self.up_proj.bias,
            scale,
            eps=self.ln.eps if norm is None else norm.eps,
            ln_eps=self.ln.eps,
            impl=self.impl,
        )


class Adapter(Bottleneck):
    """m -> m + W_up relu(W_down LN_a(m) + b_down) + b_up, started at the identity."""

    def forward(self, m: Tensor) -> Tensor:
        return self.run(m, None, 1.0)[1]


@dataclass(frozen=True)
class AdapterSettings(RankSettings):
    """An Adapter on the MLP's output of each chosen block."""

    NAME = "adapter"
    PREFIX = "adapter_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        block.post_mlp = Adapter(tower.width, self.bottleneck(context), context.generator)
        return block.post_mlp

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"rank": 2 * tower.width * self.bottleneck(context) * len(context.layers)}
