"""Tuners: the few parameters that learn inside a frozen ViT, a file a method.

A tuner is a function ``attach(vit, settings) -> {name: parameter}``: it puts its modules at sites of the blocks and
returns what trains, under the names that the authors' checkpoints use, so that one naming serves checkpoints, reports
and old files. Sites compose, so tuners can be combined; they are attached in the order of ``TUNERS``: first those that
train the backbone's own weights, then those that take a site's place, then those that wrap what stands there.
CLIP ResNets have tuners of their own (``resnet.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastlift.errors import UserError
from fastlift.models.resnet import ResNet
from fastlift.models.tuners.adapter import attach_adapter
from fastlift.models.tuners.adaptformer import attach_adaptformer
from fastlift.models.tuners.lora import attach_lora, attach_lora_mlp
from fastlift.models.tuners.mask import attach_mask
from fastlift.models.tuners.own_weights import attach_bias, attach_full, attach_layernorm
from fastlift.models.tuners.prompts import attach_vpt_deep, attach_vpt_shallow
from fastlift.models.tuners.resnet import RESNET_TUNERS, attach_to_resnet
from fastlift.models.tuners.settings import (
    Sizes,
    TunerSettings,
    adaptive_lora_rank,
    adaptive_mask_ratio,
    adaptive_prompt_length,
    adaptive_rank,
)
from fastlift.models.tuners.ssf import attach_ssf_attn, attach_ssf_ln, attach_ssf_mlp
from fastlift.models.vit import Tower
from fastlift.settings.names import one_of
from fastlift.settings.ranges import MOST_SIZE, check_range

Attach = Callable[[Tower, TunerSettings], dict[str, nn.Parameter]]


def attach_none(vit: Tower, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Nothing inside the ViT learns: a linear probe, when the classifier does."""
    return {}


TUNERS: dict[str, Attach] = {
    "full": attach_full,
    "bias": attach_bias,
    "layernorm": attach_layernorm,
    "mask": attach_mask,
    "adaptformer": attach_adaptformer,
    "adapter": attach_adapter,
    "vpt_shallow": attach_vpt_shallow,
    "vpt_deep": attach_vpt_deep,
    "lora": attach_lora,
    "lora_mlp": attach_lora_mlp,
    "ssf_attn": attach_ssf_attn,
    "ssf_mlp": attach_ssf_mlp,
    "ssf_ln": attach_ssf_ln,
    "none": attach_none,
}
# Pairs that would train the same weights twice, or put two things at one place.
CONFLICTS = {
    ("full", "bias"): "full fine-tuning trains the biases already",
    ("full", "layernorm"): "full fine-tuning trains the LayerNorms already",
    ("full", "mask"): "full fine-tuning trains all weights already",
    ("bias", "layernorm"): "both would train the LayerNorms' biases",
    ("bias", "mask"): "both would train biases of the products",
    ("vpt_shallow", "vpt_deep"): "deep prompts replace the shallow ones at the next block",
}


def resolve_layers(layers: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Blocks that get a tuner: all (None), the last k (an integer), or a list of indices.

    Raises:
        UserError: an index or a count that the ViT does not have.
    """
    if layers is None:
        return tuple(range(depth))
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise UserError(f"layers: expected 1 to {depth} (the last k blocks), got {layers}")
        return tuple(range(depth - layers, depth))
    if isinstance(layers, str) or not all(isinstance(i, int) for i in layers):
        raise UserError(f"layers: expected a number of blocks or a list of indices, got {layers!r}")
    chosen = tuple(sorted(set(layers)))
    wrong = [i for i in chosen if not 0 <= i < depth]
    if wrong or not chosen:
        raise UserError(f"layers: expected indices from 0 to {depth - 1}, got {list(layers)}")
    return chosen


def check_names(names: Sequence[str]) -> None:
    """Known tuners that have a meaning together.

    Raises:
        UserError: an unknown one, one named twice, or two that conflict.
    """
    for name in names:
        one_of("tuner", name, [*TUNERS, *RESNET_TUNERS])
    if not names or len(set(names)) < len(names):
        raise UserError(f"tuner: expected one or several different ones, got {', '.join(names) or 'nothing'}")
    if "none" in names and len(names) > 1:
        raise UserError("tuner none stands alone")
    for pair, reason in CONFLICTS.items():
        if set(pair) <= set(names):
            raise UserError(f"tuners {pair[0]} and {pair[1]} cannot be combined: {reason}")


def resolve(
    vit: Tower | ResNet,
    *,
    classes: int,
    rank: int | None = None,
    lora_rank: int | None = None,
    layers: int | Sequence[int] | None = None,
    prompt_length: int | None = None,
    mask_ratio: float | None = None,
    mask_seed: int = 0,
    sizes: Sizes = "lift",
    generator: torch.Generator | None = None,
) -> TunerSettings:
    """Settings with the papers' adaptive sizes where none is given.

    Raises:
        UserError: values out of range.
    """
    for name, value in (("rank", rank), ("lora_rank", lora_rank), ("prompt_length", prompt_length)):
        if value is not None:
            check_range(name, value, 1, MOST_SIZE)
    if mask_ratio is not None and not 0 < mask_ratio <= 1:
        raise UserError(f"mask_ratio: expected a share in (0, 1], got {mask_ratio}")
    if isinstance(vit, ResNet) and layers is not None:
        raise UserError("layers: a CLIP ResNet has no transformer blocks to choose from")
    chosen = resolve_layers(layers, vit.depth)
    count = vit.depth if sizes == "lift" else len(chosen)  # the papers' L: all blocks, or those that learn
    return TunerSettings(
        rank=rank or adaptive_rank(classes, count),
        lora_rank=lora_rank or rank or adaptive_lora_rank(classes, count, sizes),
        layers=chosen,
        prompt_length=prompt_length or adaptive_prompt_length(classes, count, sizes),
        mask_ratio=mask_ratio or adaptive_mask_ratio(classes, count, vit.width, sizes),
        mask_seed=mask_seed,
        mask_draw=sizes,
        generator=generator,
    )


def attach(vit: Tower | ResNet, names: Sequence[str], settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Attach the named tuners in place.

    Returns:
        what trains, under the authors' names.

    Raises:
        UserError: unknown names, or tuners that cannot be combined.
    """
    check_names(names)
    if isinstance(vit, ResNet):
        return attach_to_resnet(vit, names, settings)
    foreign = [name for name in names if name not in TUNERS]
    if foreign:
        raise UserError(f"tuner {', '.join(foreign)} is for CLIP ResNets; a transformer has: {', '.join(TUNERS)}")
    trained: dict[str, nn.Parameter] = {}
    for name, attach_one in TUNERS.items():
        if name in names:
            trained.update(attach_one(vit, settings))
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


@dataclass(frozen=True)
class TunerSize:
    """How much learns inside the towers, and its share of all of their weights."""

    parameters: int
    share: float


def tuner_size(towers: Sequence[nn.Module], trained: dict[str, nn.Parameter]) -> TunerSize:
    """Count what trains inside the towers: the image tower, and the text tower where it is part of the model."""
    tuned = sum(parameter.numel() for parameter in trained.values())
    return TunerSize(tuned, tuned / sum(parameter.numel() for tower in towers for parameter in tower.parameters()))


__all__ = [
    "TUNERS",
    "Sizes",
    "TunerSettings",
    "TunerSize",
    "adaptive_lora_rank",
    "adaptive_mask_ratio",
    "adaptive_prompt_length",
    "adaptive_rank",
    "attach",
    "check_names",
    "resolve",
    "resolve_layers",
    "tuner_size",
]
