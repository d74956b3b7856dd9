"""AdaptFormer: a bottleneck beside the MLP (Chen et al. 2022), LIFT's default tuner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.models.tuners.base import TunerContext, named
from fastlift.models.tuners.rank import RankSettings
from fastlift.models.vit import LayerNorm, NormBranch, Tower


class AdaptFormer(nn.Module):
    """A(t) = s * (W_up relu(W_down LN_a(t) + b_down) + b_up), started at zero: W_up = b_up = b_down = 0, s = 1.

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
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.down_proj.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.down_proj.bias)
        nn.init.zeros_(self.up_proj.weight)
        nn.init.zeros_(self.up_proj.bias)

    def forward(self, t: Tensor) -> Tensor:
        """t + A(t) of tokens t [.., D], where the norm before the MLP is none of ours."""
        return self._run(t, None)[1]

    def beside(self, t: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """(norm(t), t + A(t)) in one pass over t [.., D]."""
        normed, residual = self._run(t, norm)
        return cast(Tensor, normed), residual

    def _run(self, t: Tensor, norm: nn.LayerNorm | None) -> tuple[Tensor | None, Tensor]:
        return kernels.adapter(
            t,
            None if norm is None else norm.weight,
            None if norm is None else norm.bias,
            self.ln.weight,
            self.ln.bias,
            self.down_proj.weight,
            self.down_proj.bias,
            self.up_proj.weight,
            self.up_proj.bias,
            self.scale,
            eps=self.ln.eps if norm is None else norm.eps,
            ln_eps=self.ln.eps,
            impl=self.impl,
        )


class AdaptFormerBranch(nn.Module):
    """A block's branch site with the adapter beside its MLP."""

    def __init__(self, norm: LayerNorm, adapter: AdaptFormer) -> None:
        super().__init__()
        self.norm, self.adapter = norm, adapter

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.adapter.beside(t, self.norm)


@dataclass(frozen=True)
class AdaptFormerSettings(RankSettings):
    """An AdaptFormer beside the MLP of each chosen block."""

    NAME = "adaptformer"

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            adapter = AdaptFormer(tower.width, self.bottleneck(context), context.generator)
            block = tower.block(i)
            block.branch = AdaptFormerBranch(cast(NormBranch, block.branch).norm, adapter)
            trained |= named(f"adaptformer_list.{i}", adapter)
        return trained

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"rank": 2 * tower.width * self.bottleneck(context) * len(context.layers)}
