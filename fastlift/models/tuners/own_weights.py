"""Tuners that train weights which the backbone already has: all of a block, its biases, its LayerNorms."""

from __future__ import annotations

from typing import cast

from torch import nn

from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import NormBranch, Tower


def block_parts(vit: Tower, i: int) -> dict[str, nn.Module]:
    """A block's modules with weights, under the names and in the order of OpenAI's CLIP."""
    block = vit.block(i)
    return {
        "attn.in_proj": block.qkv,
        "attn.out_proj": block.out,
        "ln_1": block.norm_1,
        "mlp.c_fc": block.mlp_in,
        "mlp.c_proj": block.mlp_out,
        "ln_2": cast(NormBranch, block.branch).norm,
    }


def attach_full(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Every weight of the chosen blocks: what LIFT shows to hurt the rare classes.

    Embeddings and the outer norms stay frozen, as in the authors' program.
    """
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        for part, module in block_parts(vit, i).items():
            separator = "_" if part == "attn.in_proj" else "."  # nn.MultiheadAttention's in_proj_weight
            for name, parameter in module.named_parameters():
                trained[f"block_tuned.{i}.{part}{separator}{name}"] = parameter
    return trained


def attach_bias(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """The biases of the chosen blocks (BitFit); numbered through all blocks, as the authors do."""
    trained: dict[str, nn.Parameter] = {}
    number = 0
    for i in range(vit.depth):
        for module in block_parts(vit, i).values():
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                if i in settings.layers:
                    trained[f"bias_tuned.{number}"] = bias
                number += 1
    return trained


def attach_layernorm(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """The LayerNorms of the chosen blocks; numbered through all blocks, as the authors do."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        parts = block_parts(vit, i)
        for offset, part in enumerate(("ln_1", "ln_2")):
            for name, parameter in parts[part].named_parameters():
                trained[f"ln_tuned.{2 * i + offset}.{name}"] = parameter
    return trained
