"""Tuners that train weights which the backbone already has: all of a block, its biases, its LayerNorms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import nn

from fastlift.models.tuners.base import Tuner, TunerContext, named
from fastlift.models.vit import NormBranch, Tower


def block_parts(tower: Tower, i: int) -> dict[str, nn.Module]:
    """A block's modules with weights, under the names and in the order of OpenAI's CLIP."""
    block = tower.block(i)
    return {
        "attn.in_proj": block.qkv,
        "attn.out_proj": block.out,
        "ln_1": block.norm_1,
        "mlp.c_fc": block.mlp_in,
        "mlp.c_proj": block.mlp_out,
        "ln_2": cast(NormBranch, block.pre_mlp).norm,
    }


def block_weight(i: int | str, part: str, kind: str) -> str:
    """LIFT's name of a block's own weight; in OpenAI's CLIP the one of queries, keys and values belongs to no module."""
    return f"{FullSettings.PREFIX}.{i}.{part}{'_' if part == 'attn.in_proj' else '.'}{kind}"


@dataclass(frozen=True)
class FullSettings(Tuner):
    """Every weight of the chosen blocks: what LIFT shows to hurt the rare classes.

    Embeddings and the outer norms stay frozen, as in the authors' program.
    """

    NAME = "full"
    PREFIX = "block_tuned"
    CONFLICTS: ClassVar[Mapping[str, str]] = {
        "bias": "full fine-tuning trains the biases already",
        "layernorm": "full fine-tuning trains the LayerNorms already",
        "mask": "full fine-tuning trains all weights already",
    }

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            for part, module in block_parts(tower, i).items():
                trained |= {block_weight(i, part, name): parameter for name, parameter in module.named_parameters()}
        return trained


@dataclass(frozen=True)
class BiasSettings(Tuner):
    """The biases of the chosen blocks (BitFit); numbered through all blocks, as the authors do."""

    NAME = "bias"
    PREFIX = "bias_tuned"
    CONFLICTS: ClassVar[Mapping[str, str]] = {
        "layernorm": "both would train the LayerNorms' biases",
        "mask": "both would train biases of the products",
    }

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        places = ((i, module) for i in range(tower.depth) for module in block_parts(tower, i).values())
        biases = [(i, bias) for i, module in places if isinstance(bias := getattr(module, "bias", None), nn.Parameter)]
        return {f"{self.PREFIX}.{number}": bias for number, (i, bias) in enumerate(biases) if i in context.layers}


@dataclass(frozen=True)
class LayerNormSettings(Tuner):
    """The LayerNorms of the chosen blocks; numbered through all blocks, as the authors do."""

    NAME = "layernorm"
    PREFIX = "ln_tuned"

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        trained: dict[str, nn.Parameter] = {}
        for i in context.layers:
            for place, part in enumerate(("ln_1", "ln_2")):
                trained |= named(f"{self.PREFIX}.{2 * i + place}", block_parts(tower, i)[part])
        return trained
