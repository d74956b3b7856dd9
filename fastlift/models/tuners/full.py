"""Full fine-tuning of the chosen blocks: what LIFT shows to hurt the rare classes."""

from __future__ import annotations

from typing import cast

from torch import nn

from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import NormBranch, VisionTransformer


def block_parts(vit: VisionTransformer, i: int) -> dict[str, nn.Module]:
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


def attach_full(vit: VisionTransformer, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Every weight of the chosen blocks; embeddings and the outer norms stay frozen, as in the authors' program."""
    trained: dict[str, nn.Parameter] = {}
    for i in settings.layers:
        for part, module in block_parts(vit, i).items():
            for name, parameter in module.named_parameters():
                separator = "_" if part == "attn.in_proj" else "."  # nn.MultiheadAttention's in_proj_weight
                trained[f"block_tuned.{i}.{part}{separator}{name}"] = parameter
    return trained
