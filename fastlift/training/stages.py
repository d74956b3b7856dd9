"""Progressive image size: the training images grow from stage to stage, and so does the time of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastlift.errors import UserError
from fastlift.models.resnet import ResNet
from fastlift.models.vit import VisionTransformer
from fastlift.settings import Acts, Between, Settings


@dataclass(frozen=True)
class Stages:
    """The side of the training images in each stage, in pixels; the last is the model's own."""

    sides: tuple[int, ...]
    epochs: int

    def side(self, epoch: int) -> int:
        """Of an epoch's images: with n stages, epoch e is in stage floor(e n / epochs). Stages differ by an epoch at most."""
        return self.sides[epoch * len(self.sides) // max(self.epochs, 1)]

    @property
    def sizes(self) -> int:
        """How many sizes there are."""
        return len(set(self.sides))

    def epochs_at(self) -> dict[int, int]:
        """Side -> epochs, in the order of the training."""
        sides = [self.side(epoch) for epoch in range(self.epochs)]
        return {side: sides.count(side) for side in dict.fromkeys(sides)}


def _shares_grow_to_one(progressive_sizes: tuple[float, ...]) -> str | None:
    if not progressive_sizes or progressive_sizes[-1] != 1:
        return "progressive_sizes: the last stage must be at the model's own size, which is 1"
    if list(progressive_sizes) != sorted(progressive_sizes):
        return f"progressive_sizes: images may not shrink from stage to stage, got {_listed(progressive_sizes)}"
    return None


def _each_stage_has_an_epoch(progressive_sizes: tuple[float, ...], epochs: int) -> str | None:
    if not epochs or len(progressive_sizes) <= epochs:
        return None
    stages = len(progressive_sizes)
    return f"progressive_sizes: {stages} stages need {stages} epochs or more, got {epochs}; give fewer sizes"


def _listed(shares: tuple[float, ...]) -> str:
    return " ".join(f"{share:g}" for share in shares)


@dataclass(frozen=True)
class ProgressiveSettings(Settings):
    """How the size of the training images grows over the epochs."""

    progressive_sizes: Annotated[
        tuple[float, ...],
        Between(0, 1, "(]", "shares of the model's own size in (0, 1]"),
        Acts("the size of training images (epochs 1 or more)", lambda epochs: epochs > 0),
    ] = (1.0,)
    """Side of the training images in each stage, as shares of the model's own, which is the last: 0.7 0.85 1 trains a
    ViT-B/16 at 160, 192 and 224 pixels. Rounded to whole patches; the epochs are split evenly; evaluation is at the own
    size."""
    RULES = (_shares_grow_to_one, _each_stage_has_an_epoch)

    def build(self, vit: VisionTransformer | ResNet, epochs: int) -> Stages:
        """The stages of a training of ``vit``.

        Raises:
            UserError: a ResNet, whose pooling has positions for one size alone.
        """
        shares = self.progressive_sizes
        if isinstance(vit, ResNet) and set(shares) != {1.0}:
            raise UserError(
                f"progressive_sizes {_listed(shares)}: only vision transformers train at several image sizes; a ResNet's "
                "attention pooling has positions for one"
            )
        return Stages(tuple(_side(vit, share) for share in shares), epochs)


def _side(vit: VisionTransformer | ResNet, share: float) -> int:
    """Of a stage, in pixels: the share of the own grid rounded to whole patches, at least one."""
    own = vit.image_size[0]
    if isinstance(vit, ResNet) or share == 1:
        return own
    patches = max(1, int(share * vit.grid[0] + 0.5))
    return patches * vit.patches.stride[0]
