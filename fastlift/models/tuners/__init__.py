"""Tuners: the few parameters that learn inside a frozen ViT, a file a method.

A tuner is a function ``attach(vit, settings) -> {name: parameter}``: it puts its modules at sites of the blocks and
returns what trains, under the names that the authors' checkpoints use, so that one naming serves checkpoints, reports
and old files. Sites compose, so tuners can be combined; they are attached in the order of ``TUNERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fastlift.errors import UserError
from fastlift.models.tuners.adaptformer import attach_adaptformer
from fastlift.models.tuners.full import attach_full
from fastlift.models.tuners.settings import TunerSettings
from fastlift.models.vit import VisionTransformer
from fastlift.naming import one_of

TunerName = Literal["adaptformer", "full", "none"]
Attach = Callable[[VisionTransformer, TunerSettings], dict[str, nn.Parameter]]


def attach_none(vit: VisionTransformer, settings: TunerSettings) -> dict[str, nn.Parameter]:
    """Nothing inside the ViT learns: a linear probe, when the classifier does."""
    return {}


TUNERS: dict[str, Attach] = {
    "full": attach_full,
    "adaptformer": attach_adaptformer,
    "none": attach_none,
}


def adaptive_rank(classes: int, layers: int) -> int:
    """r = 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks (LIFT, section 4)."""
    return 2 ** max(0, math.floor(math.log2(classes / (2 * layers))))


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
    chosen = tuple(sorted(set(layers)))
    wrong = [i for i in chosen if not 0 <= i < depth]
    if wrong or not chosen:
        raise UserError(f"layers: expected indices from 0 to {depth - 1}, got {list(layers)}")
    return chosen


def attach(
    vit: VisionTransformer,
    names: Sequence[str],
    *,
    classes: int,
    rank: int | None = None,
    layers: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[dict[str, nn.Parameter], TunerSettings]:
    """Attach the named tuners in place.

    Returns:
        what trains, under the authors' names, and the settings with every default resolved.

    Raises:
        UserError: unknown names, or settings without a meaning.
    """
    for name in names:
        one_of("tuner", name, TUNERS)
    if rank is not None and rank < 1:
        raise UserError(f"rank: expected 1 or more, got {rank}")
    settings = TunerSettings(
        rank=adaptive_rank(classes, vit.depth) if rank is None else rank,
        layers=resolve_layers(layers, vit.depth),
        generator=generator,
    )
    trained: dict[str, nn.Parameter] = {}
    for name, attach_one in TUNERS.items():
        if name in names:
            trained.update(attach_one(vit, settings))
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained, settings


@dataclass(frozen=True)
class TunerSize:
    """How much learns: parameters inside the ViT, and their share of all of its weights."""

    parameters: int
    share: float


def tuner_size(vit: VisionTransformer, trained: dict[str, nn.Parameter]) -> TunerSize:
    """Count what trains inside the ViT."""
    tuned = sum(parameter.numel() for parameter in trained.values())
    return TunerSize(tuned, tuned / sum(parameter.numel() for parameter in vit.parameters()))
