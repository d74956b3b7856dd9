"""SSF: scale and shift of frozen outputs (Lian et al. 2022): in attention, in the MLP, or after the norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastlift.models.tuners.base import Tuner, TunerContext
from fastlift.models.vit import Block, Tower


class SSF(nn.Module):
    """x -> x * scale + shift, per channel; started at N(1, 0.02) and N(0, 0.02)."""

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, 0.02, generator=generator))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, 0.02, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))


class SSFSite(nn.Module):
    """A site of a block, and what is done to its output."""

    def __init__(self, inner: nn.Module, ssf: SSF) -> None:
        super().__init__()
        self.inner, self.ssf = inner, ssf


class SSFAfter(SSFSite):
    """A site whose output is scaled and shifted."""

    def forward(self, x: Tensor) -> Tensor:
        return self.ssf(self.inner(x))


class SSFQKV(SSFSite):
    """The qkv site with its 3 D outputs scaled and shifted."""

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor | None]:
        packed, q = self.inner(x, queries)
        if q is None:
            return self.ssf(packed), None
        width = x.shape[-1]
        scale, shift = self.ssf.scale.to(x.dtype), self.ssf.shift.to(x.dtype)
        return torch.addcmul(shift[width:], packed, scale[width:]), torch.addcmul(shift[:width], q, scale[:width])


class SSFBranch(SSFSite):
    """The site before the MLP with the MLP's normalised input scaled and shifted; the residual is left alone."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        normed, residual = self.inner(t)
        return self.ssf(normed), residual


# A site's name in the authors' checkpoints -> ours, and what takes its place.
Sites = Mapping[str, tuple[str, type[SSFSite]]]


@dataclass(frozen=True)
class SSFSettings(Tuner):
    """SSF at two sites of each chosen block."""

    SITES: ClassVar[Sites]

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        parts = nn.ModuleDict()
        for name, (site, after) in self.SITES.items():
            outputs = {"qkv": 3 * tower.width, "mlp_in": block.mlp_width}.get(site, tower.width)
            parts[name] = ssf = SSF(outputs, context.generator)
            setattr(block, site, after(getattr(block, site), ssf))
        return parts


@dataclass(frozen=True)
class SSFAttnSettings(SSFSettings):
    """SSF on the qkv product and on the attention's output product."""

    NAME = "ssf_attn"
    PREFIX = "ssf_attn_list"
    SITES: ClassVar[Sites] = {"attn_in": ("qkv", SSFQKV), "attn_out": ("out", SSFAfter)}


@dataclass(frozen=True)
class SSFMLPSettings(SSFSettings):
    """SSF on both products of the MLP."""

    NAME = "ssf_mlp"
    PREFIX = "ssf_mlp_list"
    SITES: ClassVar[Sites] = {"mlp_in": ("mlp_in", SSFAfter), "mlp_out": ("mlp_out", SSFAfter)}


@dataclass(frozen=True)
class SSFNormSettings(SSFSettings):
    """SSF on both norms' outputs."""

    NAME = "ssf_ln"
    PREFIX = "ssf_ln_list"
    SITES: ClassVar[Sites] = {"ln_1": ("norm_1", SSFAfter), "ln_2": ("pre_mlp", SSFBranch)}
