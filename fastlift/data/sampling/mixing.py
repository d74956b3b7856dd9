"""Mixup and CutMix as numbers: which images of a batch are mixed, how much of each, and where.

The images at places 2k and 2k + 1 of a batch are a pair, and mixed with each other alone: each becomes the larger or smaller part of
the other's image by the same share. Batches are in a random order, so a pair is a random one, and all ranks need is that
pairs stay together. An odd last image has nobody to be mixed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fastlift.data.sampling.philox import uniform
from fastlift.settings import Acts, Between, Settings
from fastlift.settings.validate import Rule

_MIX = 2**31 + 2  # stream of random numbers, beside those of crop boxes, flips, DALI's shares and augmentations

Alpha = Annotated[
    float,
    Between(0, 1000),
    Acts("how training mixes the images of a batch (epochs 1 or more)", lambda epochs: epochs > 0),
]


def _a_pair_is_two(mixup: float, cutmix: float, batch_size: int) -> str | None:
    if not (mixup or cutmix) or batch_size > 1:
        return None
    return f"{'mixup' if mixup else 'cutmix'}: a batch of one image has no pair to mix: choose batch_size 2 or more"


@dataclass(frozen=True)
class MixingSettings(Settings):
    """Whether training mixes the images of a batch, and their labels."""

    mixup: Alpha = 0.0
    """Blend the two images of each pair in a batch, and their labels, by a share drawn from Beta(ALPHA, ALPHA); 0 for off. Papers
    use 0.1 to 1."""
    cutmix: Alpha = 0.0
    """Paste a box of each image of a pair into the other, and mix their labels by its area: one minus a share drawn from
    Beta(ALPHA, ALPHA); 0 for off. With --mixup too, each pair is mixed by either, with equal chance."""
    RULES: ClassVar[tuple[Rule, ...]] = (_a_pair_is_two,)

    @property
    def stay_together(self) -> int:
        """How many neighbours of a batch must be on one rank."""
        return 2 if self.mixup or self.cutmix else 1

    def build(self) -> Mixing | None:
        """What draws the numbers; None where nothing is mixed."""
        return Mixing(self.mixup, self.cutmix) if self.mixup or self.cutmix else None


@dataclass(frozen=True)
class Mixes:
    """How K pairs are mixed. Each image keeps ``weight`` of its own pixels outside the box, and nothing inside.

    ``share`` is what it keeps in all, and what its label counts: the weight, or of a box the area that lies outside.
    """

    share: np.ndarray  # float64 [K]
    weight: np.ndarray  # float64 [K]
    box: np.ndarray  # int64 [K, 4]: left, top, right, bottom in pixels; right and bottom are the first beyond

    def shares(self, images: int) -> np.ndarray:
        """Of each image of the pairs, and 1 of an odd last one: float64 [B]."""
        return np.append(np.repeat(self.share, 2), np.ones(images - 2 * len(self.share)))


@dataclass(frozen=True)
class Mixing:
    """Draws how pairs are mixed: a pure function of the seed, the epoch and the pair's place in it."""

    mixup: float = 0.0
    cutmix: float = 0.0

    def of(self, seed: int, epoch: int, places: np.ndarray, side: int) -> Mixes:
        """Of pairs of images [3, S, S] of a ``side`` S, whose first images have these ``places`` in the epoch, int64 [K].

        The box's centre is anywhere in the image and what hangs over is cut off, as in the authors' programs (Yun et al. 2019).
        """
        u = uniform(seed, epoch, _MIX, places, 4)
        is_cut = u[:, 1] < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        drawn = _beta(np.where(is_cut, self.cutmix, self.mixup), u[:, 0])
        half = np.where(is_cut, np.floor(0.5 * np.sqrt(1 - drawn) * side), 0).astype(np.int64)[:, None]
        centre = np.floor(u[:, 2:] * side).astype(np.int64)
        box = np.concatenate([np.maximum(centre - half, 0), np.minimum(centre + half, side)], axis=1)
        area = (box[:, 2:] - box[:, :2]).prod(axis=1)
        return Mixes(np.where(is_cut, 1 - area / side**2, drawn), np.where(is_cut, 1.0, drawn), box)


def _beta(alpha: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The number below which a share ``u`` of Beta(alpha, alpha) lies, all float64 [K]."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, u))
