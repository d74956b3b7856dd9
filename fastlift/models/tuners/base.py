"""What a tuner is: settings that attach it to a tower, what it must be told beside them, and what several share."""

from __future__ import annotations

import math
from collections.abc import Iterable, KeysView, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from fastlift.models.vit import Block, Tower
from fastlift.settings import SIZE, Acts, Settings

Sizes = Literal["lift", "lift_plus"]


@dataclass(frozen=True)
class TunerContext:
    """What tuners are told beside their settings."""

    classes: int  # C
    width: int  # D of the tower
    layers: tuple[int, ...]  # indices of the blocks that get a tuner
    counted: int  # L of the papers' rules: all blocks (LIFT), or those that get a tuner (LIFT+)
    sizes: Sizes  # whose rules give the sizes that are not given
    generator: torch.Generator | None = None  # of random initial values; None draws from PyTorch's global one


@dataclass(frozen=True)
class Tuner(Settings):
    """A tuner of vision transformers: a subclass holds its settings and attaches it.

    A class that names itself is one; classes without ``NAME`` hold what several share.
    """

    NAME: ClassVar[str]  # what users call it
    PREFIX: ClassVar[str]  # of its parameters' names, before a number
    CONFLICTS: ClassVar[Mapping[str, str]] = {}  # tuners that it cannot be combined with, each with the reason
    CHOOSES_BLOCKS: ClassVar[bool] = True  # whether ``layers`` says which blocks get it

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        """Put the tuner's modules at sites of the blocks, in place.

        Returns:
            what trains, under the names of the authors' checkpoints.
        """
        blocks = ((i, self.attach_to_block(tower, tower.block(i), context)) for i in self.blocks(context))
        return {key: value for i, part in blocks for key, value in named(f"{self.PREFIX}.{i}", part).items()}

    def blocks(self, context: TunerContext) -> tuple[int, ...]:
        """The blocks that get it."""
        return context.layers

    def attach_to_block(self, tower: Tower, block: Block, context: TunerContext) -> nn.Module:
        """Put the modules at sites of one block; gives what holds its parameters, by their names behind the prefix."""
        raise NotImplementedError

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        """Its sizes by the names of their settings, with the papers' where none is given."""
        return {}

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        """Setting -> how many numbers train by it: for settings that can make them as many as they like."""
        return {}


@dataclass(frozen=True)
class NoTuner(Tuner):
    """Nothing inside the tower learns: a linear probe, when the classifier does."""

    NAME = "none"
    PREFIX = ""
    CHOOSES_BLOCKS = False

    def build(self, tower: Tower, context: TunerContext) -> dict[str, nn.Parameter]:
        return {}


@dataclass(frozen=True)
class RankSettings(Tuner):
    """Of tuners with a bottleneck."""

    rank: Annotated[
        int | None,
        SIZE,
        Acts(
            f"the bottleneck of tuners that have one ({names_with(RankSettings)})",
            lambda tuner: has_tuner(RankSettings, tuner),
        ),
    ] = None
    """Bottleneck width (default: 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks)."""

    def bottleneck(self, context: TunerContext) -> int:
        """r."""
        return self.rank or adaptive_rank(context.classes, context.counted)

    def resolved(self, context: TunerContext) -> dict[str, Any]:
        return {"rank": self.bottleneck(context)}

    def numbers(self, tower: Tower, context: TunerContext) -> dict[str, int]:
        return {"rank": 2 * tower.width * self.bottleneck(context) * len(context.layers)}  # down and up


def power_of_two(share: float) -> int:
    """The largest power of two that is not above ``share``, at least 1."""
    return 2 ** max(0, math.floor(math.log2(share)))


def adaptive_rank(classes: int, layers: int) -> int:
    """r = 2 ** max(0, floor(log2(C / (2 L)))) for C classes and L blocks (LIFT, section 4)."""
    return power_of_two(classes / (2 * layers))


def has_tuner(kind: type[Tuner], names: Iterable[str]) -> bool:
    """Whether one of the named tuners has the settings of ``kind``."""
    return not _names(kind).isdisjoint(names)


def names_with(kind: type[Tuner], between: str = ", ") -> str:
    """The names of the tuners that have the settings of ``kind``, for messages."""
    return between.join(_names(kind))


def _names(kind: type[Tuner]) -> KeysView[str]:
    """In the order of their declaration."""
    kinds = [kind]
    for one in kinds:
        kinds += one.__subclasses__()
    return dict.fromkeys(one.NAME for one in kinds if "NAME" in vars(one)).keys()


def named(prefix: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters by name, behind a prefix."""
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}
