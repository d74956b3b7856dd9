"""The crops of training and of evaluation: which boxes of an image are seen, as pure functions of (seed, epoch, sample).

Legend of shapes: B samples, V crops a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fastlift.data.sampling.augmentations import (
    MAGNITUDES,
    OPS,
    Augment,
    Augmentations,
    AugmentSettings,
    draw_augmentations,
)
from fastlift.data.sampling.crop_boxes import ATTEMPTS, CropBoxes, ResizedCrops, random_resized_crop, square_crop
from fastlift.data.sampling.philox import uniform
from fastlift.settings import Acts, Between, Settings

Schedule = Literal["convex", "linear", "concave", "always_0", "always_1"]
TrainKind = Literal["random_resized_crop", "minimalist"]
EvalKind = Literal["center", "five", "ten", "random"]
Interpolation = Literal["bilinear", "bicubic"]  # of resizing; always with antialiasing

Size = Annotated[int, Between(1, said="at least 1 pixel")]
LeastArea = Annotated[float, Between(0, 1, "(]", "a share of the area in (0, 1]")]
RANDOM_CROPS = Between(1)
EXPAND = Between(0, 4096)  # the whole image is resized before it is cropped: 4096 + 224 pixels a side are 56 MB
# Streams of the generator: one purpose each, so that adding one never changes another.
_BOX, _FLIP = 0, 1


def schedule_value(schedule: Schedule, epoch: int, epochs: int) -> float:
    """LIFT+'s curves over t = epoch / (epochs - 1), from 0 (strongest crops) to 1 (weakest); t = 0 for one epoch."""
    t = min(epoch / (epochs - 1), 1.0) if epochs > 1 else 0.0
    curves = {
        "convex": 1.0 - (1.0 - t * t) ** 0.5,
        "linear": t,
        "concave": (1.0 - (1.0 - t) ** 2) ** 0.5,
        "always_0": 0.0,
        "always_1": 1.0,
    }
    return curves[schedule]


@dataclass(frozen=True)
class TrainCrops(Settings):
    """One random crop a sample and epoch.

    ``random_resized_crop`` is LIFT's: area ``min_scale`` to 1, aspect 3/4 to 4/3, mirrored half of the time.
    ``minimalist`` is LIFT+'s: a square whose least area rises from ``min_scale`` to 1 over ``epochs`` by ``schedule``;
    never mirrored unless ``flip`` is asked for. ``kind`` is one of them; a crop is resized to ``size`` x ``size`` pixels, with
    ``interpolation``. With ``scaled_decode`` a JPEG is decoded at the smallest scale of 1/2, 1/4 and 1/8 that leaves its box
    ``size`` pixels. ``augment`` is "randaugment" (``randaugment_ops`` operations of ``randaugment_magnitude``, 0 to 30) or
    "trivialaugment", on the pixels of the crop. Errors as ``Settings``.
    """

    size: Size
    kind: TrainKind = "random_resized_crop"
    min_scale: LeastArea = 0.08
    schedule: Schedule = "convex"
    flip: bool | None = None  # None: as the kind does it
    epochs: int = 1
    interpolation: Interpolation = "bilinear"
    scaled_decode: bool = False
    augment: Augment = "none"
    randaugment_ops: Annotated[int, OPS] = 2
    randaugment_magnitude: Annotated[int, MAGNITUDES] = 9

    per_image = 1  # V
    stacked = False  # batches are [B, 3, S, S]

    def least_area(self, epoch: int) -> float:
        """The lower bound of a crop's share of the image in this epoch."""
        if self.kind == "random_resized_crop":
            return self.min_scale
        return self.min_scale + (1.0 - self.min_scale) * schedule_value(self.schedule, epoch, self.epochs)

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: np.ndarray,
        widths: np.ndarray,
        heights: np.ndarray,
        occurrences: np.ndarray | None = None,
    ) -> CropBoxes:
        """Boxes of ``samples``, int64 [B], whose images have ``widths`` and ``heights``, int [B], by ``seed`` and ``epoch``.

        A sample that comes several times in an epoch has another box each time: by ``occurrences``, int [B], default 0.
        Raises: ValueError for 2**24 of them.
        """
        if self.kind == "random_resized_crop":
            u = uniform(seed, epoch, _BOX, samples, 4 * ATTEMPTS, occurrences)
            x, y, w, h = random_resized_crop(u, widths, heights, self.min_scale)
        else:
            u = uniform(seed, epoch, _BOX, samples, 3, occurrences)
            x, y, w, h = square_crop(u, widths, heights, self.least_area(epoch))
        mirrored = self.kind == "random_resized_crop" if self.flip is None else self.flip
        flip = uniform(seed, epoch, _FLIP, samples, 1, occurrences)[:, 0] < (0.5 if mirrored else 0.0)
        return CropBoxes(*(column[:, None] for column in (x, y, w, h, flip)))

    def augmentations(
        self, seed: int, epoch: int, samples: np.ndarray, occurrences: np.ndarray | None = None
    ) -> Augmentations | None:
        """What is done to the crops of ``samples``, int64 [B], by ``seed``, ``epoch`` and ``occurrences``; None for nothing.

        Raises: as ``boxes``.
        """
        if self.augment == "none":
            return None
        return draw_augmentations(self.part(AugmentSettings), seed, epoch, samples, occurrences)


@dataclass(frozen=True)
class CropSettings(Settings):
    """How training images are cropped, and how all images are resized."""

    augmentation: TrainKind = "random_resized_crop"
    """Training crops: LIFT's random resized crop with flip, or LIFT+'s square crop whose least area grows."""
    schedule: Annotated[
        Schedule,
        Acts("how minimalist crops grow (augmentation minimalist)", lambda augmentation: augmentation == "minimalist"),
    ] = "convex"
    """How the least area of the minimalist crop grows over the epochs."""
    min_scale: LeastArea = 0.08
    """Least share of the image's area in a training crop."""
    interpolation: Interpolation = "bilinear"
    """Resizing of training and test images, with antialiasing: bilinear as LIFT, bicubic as LIFT+ and CLIP's own."""
    scaled_decode: bool = False
    """Decode training JPEGs at 1/2, 1/4 or 1/8 of their size where the crop keeps the model's size: faster, other pixels."""

    def build(self, image_size: int, epochs: int, augment: AugmentSettings | None = None) -> TrainCrops:
        """The training crops of a run: ``image_size`` in pixels; of 0 epochs, those of one."""
        how = self.augmentation, self.min_scale, self.schedule
        return TrainCrops(
            image_size,
            *how,
            epochs=max(epochs, 1),
            interpolation=self.interpolation,
            scaled_decode=self.scaled_decode,
            **(augment or AugmentSettings()).values(),
        )


def crops_per_image(kind: EvalKind, n_random: int) -> int:
    """Crops of an image in evaluation."""
    return {"center": 1, "five": 5, "ten": 10, "random": n_random}[kind]


@dataclass(frozen=True)
class EvalCrops(Settings):
    """The crops of an image in evaluation.

    ``center``: short side to size * 8 // 7, the middle size x size. ``five``: short side to size + expand, corners and
    middle, in torchvision's order (top left, top right, bottom left, bottom right, centre). ``ten``: those and the five
    of the mirrored image. ``random``: ``n_random`` random resized crops with flips, of at least ``min_scale`` of the area, drawn
    from (seed, epoch, sample). Each is ``size`` x ``size`` pixels, resized with ``interpolation``. Errors as ``Settings``.
    """

    size: Size
    crops: EvalKind = "center"
    n_random: Annotated[int, RANDOM_CROPS] = 10
    expand: Annotated[int, EXPAND] = 24
    min_scale: LeastArea = 0.08
    interpolation: Interpolation = "bilinear"

    @property
    def per_image(self) -> int:
        """V: crops of an image."""
        return crops_per_image(self.crops, self.n_random)

    @property
    def stacked(self) -> bool:
        """Whether batches have a dimension of crops: [B, V, 3, S, S] instead of [B, 3, S, S]."""
        return self.crops != "center"

    @property
    def short_side(self) -> int:
        """The short side of the resized image in pixels."""
        return self.size * 8 // 7 if self.crops == "center" else self.size + self.expand

    def boxes(
        self,
        seed: int,
        epoch: int,
        samples: np.ndarray,
        widths: np.ndarray,
        heights: np.ndarray,
        occurrences: np.ndarray | None = None,
    ) -> CropBoxes | ResizedCrops:
        """Boxes as ``TrainCrops.boxes``; only ``random`` looks at seed, epoch and samples, and an evaluation has each once."""
        if self.crops == "random":
            return self._random(seed, epoch, samples, widths, heights)
        width, height = widths.astype(np.int64), heights.astype(np.int64)
        short = np.minimum(width, height)
        new_w, new_h = width * self.short_side // short, height * self.short_side // short
        right, bottom = new_w - self.size, new_h - self.size
        centre_x, centre_y = (np.rint(edge / 2.0).astype(np.int64) for edge in (right, bottom))
        if self.crops == "center":
            x, y = centre_x[:, None], centre_y[:, None]
        else:
            zero = np.zeros_like(right)
            x = np.stack([zero, right, zero, right, centre_x], axis=1)
            y = np.stack([zero, zero, bottom, bottom, centre_y], axis=1)
        flip = np.zeros(x.shape, dtype=bool)
        if self.crops == "ten":  # a crop at x of the mirrored image is the mirrored crop at right - x
            x, y = np.concatenate([x, right[:, None] - x], axis=1), np.concatenate([y, y], axis=1)
            flip = np.concatenate([flip, ~flip], axis=1)
        return ResizedCrops(new_w, new_h, x, y, flip)

    def _random(self, seed: int, epoch: int, samples: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> CropBoxes:
        crops: list[tuple[np.ndarray, ...]] = []
        for k in range(self.n_random):
            u = uniform(seed, epoch, 2 + 2 * k, samples, 4 * ATTEMPTS)
            flip = uniform(seed, epoch, 3 + 2 * k, samples, 1)[:, 0] < 0.5
            crops.append((*random_resized_crop(u, widths, heights, self.min_scale), flip))
        return CropBoxes(*(np.stack(column, axis=1) for column in zip(*crops, strict=True)))
