"""SSF: scale and shift of frozen outputs (Lian et al. 2022): in attention, in the MLP, or after the norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastlift.models.tuners.settings import TunerSettings
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


def _named(kind: str, i: int, parts: dict[str, SSF]) -> dict[str, nn.Parameter]:
    return {
        f"{kind}.{i}.{site}.{name}": parameter
        for site, ssf in parts.items()
        for name, parameter in ssf.named_parameters()
    }


def attach_ssf_attn(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """SSF on the qkv product and on the attention's output product."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block = vit.block(i)
        parts = {"attn_in": SSF(3 * vit.width, settings.generator), "attn_out": SSF(vit.width, settings.generator)}
        block.qkv, block.out = SSFQKV(block.qkv, parts["attn_in"]), SSFAfter(block.out, parts["attn_out"])
        trained |= _named("ssf_attn_list", i, parts)
    return trained


def attach_ssf_mlp(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """SSF on both products of the MLP."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block = vit.block(i)
        parts = {"mlp_in": SSF(block.mlp_width, settings.generator), "mlp_out": SSF(vit.width, settings.generator)}
        block.mlp_in, block.mlp_out = SSFAfter(block.mlp_in, parts["mlp_in"]), SSFAfter(block.mlp_out, parts["mlp_out"])
        trained |= _named("ssf_mlp_list", i, parts)
    return trained


def attach_ssf_ln(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """SSF on both norms' outputs."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block = vit.block(i)
        parts = {"ln_1": SSF(vit.width, settings.generator), "ln_2": SSF(vit.width, settings.generator)}
        block.norm_1, block.branch = SSFAfter(block.norm_1, parts["ln_1"]), SSFBranch(block.branch, parts["ln_2"])
        trained |= _named("ssf_ln_list", i, parts)
    return trained
