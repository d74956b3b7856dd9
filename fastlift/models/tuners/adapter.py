"""Bottlenecks with LIFT's LayerNorm in front, at the MLP of a block.

AdaptFormer stands beside it (Chen et al. 2022) and is LIFT's default; Adapter comes after it, in series (Houlsby et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.models.layers import LayerNorm
from fastlift.models.tuners.base import RankSettings, TunerContext
from fastlift.models.vit import Block, NormBranch, Tower


class Bottleneck(nn.Module):
    """LN_a, W_down [r, D], b_down, W_up [D, r] and b_up, with r the ``rank`` and D the ``width``.

    W_down starts Kaiming-normal (a = sqrt 5), the rest of the bottleneck at zero.
    """

    impl: kernels.Impl | None = None  # which implementation of the op runs; None chooses by device and dtype

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
        weight, bias, eps = (None, None, self.ln.eps) if norm is None else (norm.weight, norm.bias, norm.eps)
        ln, down, up = self.ln, self.down_proj, self.up_proj
        if not (_is_ordinary(down) and _is_ordinary(up)):
            return self.run_parts(x, norm, scale)
        inside = (ln.weight, ln.bias, down.weight, down.bias, up.weight, up.bias)
        return kernels.adapter(x, weight, bias, *inside, scale, eps=eps, ln_eps=ln.eps, impl=self.impl)

    def run_parts(self, x: Tensor, norm: nn.LayerNorm | None, scale: Tensor | float) -> tuple[Tensor | None, Tensor]:
        """The same by calling the parts, which somebody may have replaced by quantised ones."""
        hidden = self.down_proj(self.ln(x.to(self.ln.weight.dtype))).relu()
        branch = (scale * self.up_proj(hidden)).to(x.dtype)
        return None if norm is None else norm(x), x + branch


def _is_ordinary(linear: nn.Module) -> bool:
    """Whether a product is still PyTorch's, with a weight whose memory the op can read: quantisers replace one or the other."""
    return type(linear) is nn.Linear and type(linear.weight) in (nn.Parameter, Tensor)


class AdaptFormer(Bottleneck):
    """A(t) = s * (W_up relu(W_down LN_a(t) + b_down) + b_up), started at zero, with s = 1 (Chen et al. 2022, as LIFT uses it).

    Tokens t [.., D], in fp32, bf16 or fp16, -> t + A(t) of the same shape and dtype; what learns is in fp32. D is the ``width``,
    ``rank`` that of the bottleneck; the start is drawn from ``generator``, or from PyTorch's own where that is None.
    """

    def __init__(self, width: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, rank, generator)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, t: Tensor) -> Tensor:
        """t + A(t) of tokens t [.., D], where the norm before the MLP is none of ours."""
        return self.run(t, None, self.scale)[1]

    def beside(self, t: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """(norm(t), t + A(t)) in one pass over ``t`` [.., D], of its shape and dtype; ``norm`` is over D."""
        normed, residual = self.run(t, norm, self.scale)
        return cast(Tensor, normed), residual


class AdaptFormerBranch(nn.Module):
    """A block's site before the MLP with the adapter beside its MLP."""

    def __init__(self, norm: LayerNorm, adapter: AdaptFormer) -> None:
        super().__init__()
        self.norm, self.adapter = norm, adapter

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.adapter.beside(t, self.norm)


class Adapter(Bottleneck):
    """m -> m + W_up relu(W_down LN_a(m) + b_down) + b_up, started at the identity."""

    def forward(self, m: Tensor) -> Tensor:
        return self.run(m, None, 1.0)[1]


@dataclass(frozen=True)
class AdaptFormerSettings(RankSettings):
    """An AdaptFormer beside the MLP of each chosen block."""

    NAME = "adaptformer"
    PREFIX = "adaptformer_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        adapter = AdaptFormer(tower.width, self.bottleneck(context), context.generator)
        block.pre_mlp = AdaptFormerBranch(cast(NormBranch, block.pre_mlp).norm, adapter)
        return adapter


@dataclass(frozen=True)
class AdapterSettings(RankSettings):
    """An Adapter on the MLP's output of each chosen block."""

    NAME = "adapter"
    PREFIX = "adapter_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        block.post_mlp = Adapter(tower.width, self.bottleneck(context), context.generator)
        return block.post_mlp
