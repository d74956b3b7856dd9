"""SSF: scale and shift of frozen outputs (Lian et al. 2022): in attention, in the MLP, or after the norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastlift.models.tuners.base import Tuner, TunerContext, named
from fastlift.models.vit import Tower


class SSF(nn.Module):
    """x -> x * scale + shift, per channel; started at N(1, 0.02) and N(0, 0.02)."""

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, 0.02, generator=generator))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, 0.02, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))


class SSFAfter(nn.Module):
    """A site whose output is scaled and shifted."""

    def __init__(self, inner: nn.Module, ssf: SSF) -> None:
        super().__init__()
        self.inner, self.ssf = inner, ssf

    def forward(self, x: Tensor) -> Tensor:
        return self.ssf(self.inner(x))


class SSFQKV(nn.Module):
    """The qkv site with its 3 D outputs scaled and shifted."""

    def __init__(self, inner: nn.Module, ssf: SSF) -> None:
        super().__init__()
        self.inner, self.ssf = inner, ssf

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        scales, shifts = self.ssf.scale.to(x.dtype).chunk(3), self.ssf.shift.to(x.dtype).chunk(3)
        parts = zip(shifts, self.inner(x, queries), scales, strict=True)
        q, k, v = (torch.addcmul(shift, part, scale) for shift, part, scale in parts)
        return q, k, v


class SSFBranch(nn.Module):
    """The branch site with the MLP's normalised input scaled and shifted; the residual is left alone."""

    def __init__(self, inner: nn.Module, ssf: SSF) -> None:
        super().__init__()
        self.inner, self.ssf = inner, ssf

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        normed, residual = self.inner(t)
        return self.ssf(normed), residual


@dataclass(frozen=True)
class SSFAttnSettings(Tuner):
    """SSF on the qkv product and on the attention's output product."""

    NAME = "ssf_attn"

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            block = tower.block(i)
            first, second = SSF(3 * tower.width, context.generator), SSF(tower.width, context.generator)
            block.qkv, block.out = SSFQKV(block.qkv, first), SSFAfter(block.out, second)
            trained |= named(f"ssf_attn_list.{i}.attn_in", first) | named(f"ssf_attn_list.{i}.attn_out", second)
        return trained


@dataclass(frozen=True)
class SSFMLPSettings(Tuner):
    """SSF on both products of the MLP."""

    NAME = "ssf_mlp"

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            block = tower.block(i)
            first, second = SSF(block.mlp_width, context.generator), SSF(tower.width, context.generator)
            block.mlp_in, block.mlp_out = SSFAfter(block.mlp_in, first), SSFAfter(block.mlp_out, second)
            trained |= named(f"ssf_mlp_list.{i}.mlp_in", first) | named(f"ssf_mlp_list.{i}.mlp_out", second)
        return trained


@dataclass(frozen=True)
class SSFNormSettings(Tuner):
    """SSF on both norms' outputs."""

    NAME = "ssf_ln"

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            block = tower.block(i)
            first, second = SSF(tower.width, context.generator), SSF(tower.width, context.generator)
            block.norm_1, block.branch = SSFAfter(block.norm_1, first), SSFBranch(block.branch, second)
            trained |= named(f"ssf_ln_list.{i}.ln_1", first) | named(f"ssf_ln_list.{i}.ln_2", second)
        return trained
