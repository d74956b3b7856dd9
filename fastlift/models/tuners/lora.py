"""LoRA: low-rank updates of frozen products (Hu et al. 2022), on queries and values, or in the MLP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from fastlift.models.tuners.base import (
    RankSettings,
    Sizes,
    TunerContext,
    adaptive_rank,
    has_tuner,
    names_with,
    power_of_two,
)
from fastlift.models.vit import Block, Tower
from fastlift.settings import SIZE, Acts


class LoRA(nn.Module):
    """x -> x A B / r, with A [in, r] Kaiming-uniform and B [r, out] zero, so that training starts at the frozen model."""

    def __init__(self, inputs: int, rank: int, outputs: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(inputs, rank))
        self.lora_B = nn.Parameter(torch.zeros(rank, outputs))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        rank = self.lora_A.shape[1]
        return x @ self.lora_A.to(x.dtype) @ (self.lora_B / rank).to(x.dtype)


class LoRAQKV(nn.Module):
    """A block's qkv site with low-rank updates of queries and values."""

    def __init__(self, inner: nn.Module, q: LoRA, v: LoRA) -> None:
        super().__init__()
        self.inner, self.q, self.v = inner, q, v

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor | None]:
        packed, q = self.inner(x, queries)
        *asked, k, v = packed.split(x.shape[-1], dim=-1)
        values = v + self.v(x)
        if q is not None:
            return torch.cat([k, values], dim=-1), q + self.q(x[:, :queries])
        return torch.cat([asked[0] + self.q(x), k, values], dim=-1), None


class LoRALinear(nn.Module):
    """A frozen product with a low-rank update."""

    def __init__(self, inner: nn.Module, lora: LoRA) -> None:
        super().__init__()
        self.inner, self.lora = inner, lora

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.lora(x)


@dataclass(frozen=True)
class LoRARankSettings(RankSettings):
    """LoRA's own bottleneck."""

    lora_rank: Annotated[
        int | None,
        SIZE,
        Acts(
            f"LoRA's own bottleneck (tuner {names_with(LoRARankSettings, ' or ')})",
            lambda tuner: has_tuner(LoRARankSettings, tuner),
        ),
    ] = None
    """Bottleneck width of LoRA beside tuners of another width (default: --rank, else by --sizes)."""

    def bottleneck(self, context: TunerContext) -> int:
        return self.lora_rank or self.rank or adaptive_lora_rank(context.classes, context.counted, context.sizes)

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        return {"lora_rank": self.bottleneck(context)}


@dataclass(frozen=True)
class LoRASettings(LoRARankSettings):
    """LoRA on the queries and values of each chosen block."""

    NAME = "lora"
    PREFIX = "lora_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        rank = self.bottleneck(context)
        q, v = (LoRA(tower.width, rank, tower.width, context.generator) for _ in range(2))
        block.qkv = LoRAQKV(block.qkv, q, v)
        return nn.ModuleDict({"q": q, "v": v})

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"lora_rank": 4 * tower.width * self.bottleneck(context) * len(context.layers)}


@dataclass(frozen=True)
class LoRAMLPSettings(LoRARankSettings):
    """LoRA on both products of the MLP of each chosen block."""

    NAME = "lora_mlp"
    PREFIX = "lora_mlp_list"

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        rank = self.bottleneck(context)
        up = LoRA(tower.width, rank, block.mlp_width, context.generator)
        down = LoRA(block.mlp_width, rank, tower.width, context.generator)
        block.mlp_in, block.mlp_out = LoRALinear(block.mlp_in, up), LoRALinear(block.mlp_out, down)
        return nn.ModuleDict({"1": up, "2": down})

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        both = 2 * (tower.width + tower.block(0).mlp_width)
        return {"lora_rank": both * self.bottleneck(context) * len(context.layers)}


def adaptive_lora_rank(classes: int, layers: int, sizes: Sizes) -> int:
    """LIFT: as ``adaptive_rank``. LIFT+: the same rule with C / (4 L), since there are two products a block."""
    return adaptive_rank(classes, layers) if sizes == "lift" else power_of_two(classes / (4 * layers))
