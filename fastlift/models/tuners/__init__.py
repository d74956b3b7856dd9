"""Tuners: the few parameters that learn inside a frozen ViT, a file for methods of one kind.

A tuner is a class of settings whose ``build`` puts modules at sites of the blocks and returns what trains, under the names
that the authors' checkpoints use, so that one naming serves checkpoints, reports and old files. ``TunerSettings`` derives
from all of them: its bases are the one list of tuners. CLIP ResNets have tuners of their own (``resnet.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from typing_extensions import Doc

from fastlift.errors import UserError
from fastlift.models.resnet import ResNet
from fastlift.models.tuners.adapter import AdapterSettings, AdaptFormerSettings
from fastlift.models.tuners.base import NoTuner, Sizes, Tuner, TunerContext
from fastlift.models.tuners.lora import LoRAMLPSettings, LoRASettings
from fastlift.models.tuners.mask import MaskSettings
from fastlift.models.tuners.own_weights import BiasSettings, FullSettings, LayerNormSettings
from fastlift.models.tuners.prompts import DeepPromptSettings, ShallowPromptSettings
from fastlift.models.tuners.resnet import RESNET_TUNERS
from fastlift.models.tuners.ssf import SSFAttnSettings, SSFMLPSettings, SSFNormSettings
from fastlift.models.vit import Tower
from fastlift.settings import Acts, Settings, one_of
from fastlift.settings.validate import Rule


def refusal(tuner: tuple[str, ...]) -> str | None:
    """Why these tuners are not known, or have no meaning together."""
    for name in tuner:
        one_of("tuner", name, [*TUNERS, *RESNET_TUNERS])
    if not tuner or len(set(tuner)) < len(tuner):
        return f"tuner: expected one or several different ones, got {', '.join(tuner) or 'nothing'}"
    if "none" in tuner and len(tuner) > 1:
        return "tuner none stands alone"
    for kind in (*TUNERS.values(), *RESNET_TUNERS.values()):
        for other, reason in kind.CONFLICTS.items():
            if {kind.NAME, other} <= set(tuner):
                return f"tuners {kind.NAME} and {other} cannot be combined: {reason}"
    return None


def _help() -> str:
    return (
        f"What learns inside the ViT: {', '.join(TUNERS)}; several may be combined. "
        f"For CLIP ResNets: {', '.join(RESNET_TUNERS)}."
    )


@dataclass(frozen=True)
class ChosenTuners(Settings):
    """Which tuners, where, and whose sizes."""

    tuner: Annotated[tuple[str, ...], Doc(_help())] = ("adaptformer",)
    layers: Annotated[
        int | tuple[int, ...] | None,
        Acts("which blocks get a tuner, and there is none that has a choice", lambda tuner: choose_blocks(tuner)),
    ] = None
    """Blocks that get a tuner: all (default), the last k (one number), or indices (of one block: given twice)."""
    sizes: Sizes = "lift"
    """Rule for the sizes of tuners that are not given: LIFT's or LIFT+'s."""

    RULES: ClassVar[tuple[Rule, ...]] = (refusal,)


@dataclass(frozen=True)
class TunerSettings(
    # In the order of attaching: first what trains the backbone's own weights, then what takes a site's place, then what
    # wraps whatever stands there.
    FullSettings,
    BiasSettings,
    LayerNormSettings,
    MaskSettings,
    AdaptFormerSettings,
    AdapterSettings,
    ShallowPromptSettings,
    DeepPromptSettings,
    LoRASettings,
    LoRAMLPSettings,
    SSFAttnSettings,
    SSFMLPSettings,
    SSFNormSettings,
    NoTuner,
    ChosenTuners,
):
    """All that tuners can be told."""

    def context(self, tower: Tower | ResNet, classes: int, generator: torch.Generator | None = None) -> TunerContext:
        """What these settings come to in a tower."""
        if isinstance(tower, ResNet) and self.layers is not None:
            raise UserError("layers: a CLIP ResNet has no transformer blocks to choose from")
        layers = resolve_layers(self.layers, tower.depth)
        counted = tower.depth if self.sizes == "lift" else len(layers)
        return TunerContext(classes, tower.width, layers, counted, self.sizes, generator)

    def resolve(self, context: TunerContext) -> TunerSettings:
        """The same with a number for every size, and the blocks by index."""
        sizes: dict[str, Any] = {}
        for kind in TUNERS.values():
            sizes |= self.part(kind).resolved(context)
        return replace(self, layers=context.layers, **sizes)

    def trained_bytes(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        """Setting -> bytes of the numbers that train by it: of settings that can make them as many as they like."""
        counts: Counter[str] = Counter()
        for name in self.tuner:
            if name in TUNERS:
                counts.update(self.part(TUNERS[name]).numbers(tower, context))
        return {setting: 4 * count for setting, count in counts.items()}

    def attach(self, tower: Tower | ResNet, context: TunerContext) -> dict[str, nn.Parameter]:
        """Attach the chosen tuners in place.

        Returns:
            what trains, under the authors' names.
        """
        known: dict[str, Any] = TUNERS
        why = "is for CLIP ResNets; a transformer has"
        if isinstance(tower, ResNet):
            known, why = RESNET_TUNERS, "acts inside transformer blocks; for a CLIP ResNet there are"
        if foreign := [name for name in self.tuner if name not in known]:
            raise UserError(f"tuner {', '.join(foreign)} {why}: {', '.join(known)}")
        trained: dict[str, nn.Parameter] = {}
        for name, kind in known.items():
            if name in self.tuner:
                trained |= self.part(kind).build(tower, context)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        return trained


TUNERS: dict[str, type[Tuner]] = {kind.NAME: kind for kind in TunerSettings.__bases__ if issubclass(kind, Tuner)}


def choose_blocks(names: Iterable[str]) -> bool:
    """Whether ``layers`` says where one of the named tuners goes."""
    return any(name not in TUNERS or TUNERS[name].CHOOSES_BLOCKS for name in names)


def resolve_layers(layers: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Blocks that get a tuner: all (None), the last k (an integer), or a list of indices."""
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


def tuner_size(towers: Sequence[nn.Module], trained: dict[str, nn.Parameter]) -> tuple[int, float]:
    """How many numbers train inside the towers (the image's, and the text's in a model), and their share of all weights."""
    tuned = sum(parameter.numel() for parameter in trained.values())
    return tuned, tuned / sum(parameter.numel() for tower in towers for parameter in tower.parameters())
