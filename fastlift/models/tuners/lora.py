"""LoRA: low-rank updates of frozen products (Hu et al. 2022), on queries and values, or in the MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import Tower


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

    def forward(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.inner(x, queries)
        return q + self.q(x[:, :queries]), k, v + self.v(x)


class LoRALinear(nn.Module):
    """A frozen product with a low-rank update."""

    def __init__(self, inner: nn.Module, lora: LoRA) -> None:
        super().__init__()
        self.inner, self.lora = inner, lora

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.lora(x)


def attach_lora(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """LoRA on the queries and values of each chosen block."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block = vit.block(i)
        pair = {name: LoRA(vit.width, settings.lora_rank, vit.width, settings.generator) for name in ("q", "v")}
        block.qkv = LoRAQKV(block.qkv, pair["q"], pair["v"])
        for name, lora in pair.items():
            trained |= {f"lora_list.{i}.{name}.{key}": parameter for key, parameter in lora.named_parameters()}
    return trained


def attach_lora_mlp(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """LoRA on both products of the MLP of each chosen block."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        block, hidden = vit.block(i), vit.block(i).mlp_width
        up = LoRA(vit.width, settings.lora_rank, hidden, settings.generator)
        down = LoRA(hidden, settings.lora_rank, vit.width, settings.generator)
        block.mlp_in, block.mlp_out = LoRALinear(block.mlp_in, up), LoRALinear(block.mlp_out, down)
        for name, lora in (("1", up), ("2", down)):
            trained |= {f"lora_mlp_list.{i}.{name}.{key}": parameter for key, parameter in lora.named_parameters()}
    return trained
