"""Which part of a picture is seen: crop windows and flips as integer arrays, computed ahead of any decoding.

Legend of shapes: B samples, V views a sample. Coordinates are pixels of the stored (not EXIF-rotated) image.
Geometry and rounding are torchvision's (Python's ``round`` and NumPy's ``rint`` both round half to even).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastlift.data.sampling.philox import uniform
from fastlift.errors import UserError

Schedule = Literal["convex", "linear", "concave", "always_0", "always_1"]
TrainKind = Literal["random_resized_crop", "minimalist"]
Crops = Literal["center", "five", "ten", "random"]
Interpolation = Literal["bilinear", "bicubic"]  # of resizing; always with antialiasing

_ATTEMPTS = 10
_RATIO = (3.0 / 4.0, 4.0 / 3.0)
# Streams of the generator: one purpose each, so that adding one never changes another.
_WINDOW, _FLIP = 0, 1


@dataclass(frozen=True)
class Windows:
    """Crop windows that are each resized to size x size, then mirrored where ``flip`` says so. All [B, V]."""

    x: np.ndarray  # int64 left edge
    y: np.ndarray  # int64 top edge
    w: np.ndarray  # int64 width >= 1
    h: np.ndarray  # int64 height >= 1
    flip: np.ndarray  # bool


@dataclass(frozen=True)
class ResizedCrops:
    """The whole image resized once, then size x size crops of it, mirrored where ``flip`` says so."""

    width: np.ndarray  # int64 [B] of the resized image
    height: np.ndarray  # int64 [B]
    x: np.ndarray  # int64 [B, V] left edge in the resized image
    y: np.ndarray  # int64 [B, V]
    flip: np.ndarray  # bool [B, V]


def _check(size: int, interpolation: str) -> None:
    if size < 1:
        raise UserError(f"image size must be at least 1, got {size}")
    if interpolation not in ("bilinear", "bicubic"):
        raise UserError(f"unknown interpolation {interpolation!r}: bilinear or bicubic")


def _integers(u: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) to uniform integers in [0, high)."""
    return np.minimum((u * high).astype(np.int64), high - 1)


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


def random_resized_crop(
    u: np.ndarray, widths: np.ndarray, heights: np.ndarray, min_scale: float, max_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """torchvision's RandomResizedCrop from given uniform numbers: ten attempts, then the centre of allowed shape.

    Args:
        u: float64 [B, 40], four numbers (area, aspect, y, x) an attempt.
        widths, heights: int [B].

    Returns:
        x, y, w, h: int64 [B].
    """
    u = u.reshape(len(u), _ATTEMPTS, 4)
    width, height = widths[:, None].astype(np.int64), heights[:, None].astype(np.int64)
    area = width * height * (min_scale + (max_scale - min_scale) * u[..., 0])  # [B, attempts]
    low, high = np.log(_RATIO[0]), np.log(_RATIO[1])
    aspect = np.exp(low + (high - low) * u[..., 1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = np.argmax(fits, axis=1)[:, None]  # the first attempt that fits; meaningless where none does
    w, h = np.take_along_axis(w, first, 1)[:, 0], np.take_along_axis(h, first, 1)[:, 0]
    u_y, u_x = np.take_along_axis(u[..., 2], first, 1)[:, 0], np.take_along_axis(u[..., 3], first, 1)[:, 0]
    found = fits.any(axis=1)

    width, height = width[:, 0], height[:, 0]
    ratio = width / height
    centre_w = np.where(ratio > _RATIO[1], np.rint(height * _RATIO[1]).astype(np.int64), width)
    centre_h = np.where(ratio < _RATIO[0], np.rint(width / _RATIO[0]).astype(np.int64), height)
    # An image of one pixel's width rounds to nothing in torchvision too; keep at least a pixel.
    centre_w, centre_h = np.clip(centre_w, 1, width), np.clip(centre_h, 1, height)
    w, h = np.where(found, w, centre_w), np.where(found, h, centre_h)
    x = np.where(found, _integers(u_x, np.maximum(width - w, 0) + 1), (width - w) // 2)
    y = np.where(found, _integers(u_y, np.maximum(height - h, 0) + 1), (height - h) // 2)
    return x, y, w, h


def square_crop(
    u: np.ndarray, widths: np.ndarray, heights: np.ndarray, min_scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """LIFT+'s minimalist crop: a square whose area is uniform in [min_scale, 1] of the image.

    Both bounds are capped by what a square inside the image can cover, min(w, h)**2 / (w h).

    Args:
        u: float64 [B, 3]: area, y, x.

    Returns:
        x, y, w, h: int64 [B], w equal to h.
    """
    width, height = widths.astype(np.int64), heights.astype(np.int64)
    short = np.minimum(width, height)
    most = short * short / (width * height)
    low, high = np.minimum(min_scale, most), np.minimum(1.0, most)
    area = (low + (high - low) * u[:, 0]) * (width * height)
    side = np.clip(np.rint(np.sqrt(area)).astype(np.int64), 1, short)
    return _integers(u[:, 2], width - side + 1), _integers(u[:, 1], height - side + 1), side, side


@dataclass(frozen=True)
class TrainViews:
    """One random view a sample and epoch.

    ``random_resized_crop`` is LIFT's: area ``min_scale`` to 1, aspect 3/4 to 4/3, mirrored half of the time.
    ``minimalist`` is LIFT+'s: a square whose least area rises from ``min_scale`` to 1 over ``epochs`` by ``schedule``;
    never mirrored unless ``flip`` is asked for.
    """

    size: int
    kind: TrainKind = "random_resized_crop"
    min_scale: float = 0.08
    schedule: Schedule = "convex"
    flip: bool | None = None  # None: as the kind does it
    epochs: int = 1
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        if self.kind not in ("random_resized_crop", "minimalist"):
            raise UserError(f"unknown training views {self.kind!r}: random_resized_crop or minimalist")
        if self.schedule not in ("convex", "linear", "concave", "always_0", "always_1"):
            raise UserError(f"unknown schedule {self.schedule!r}: convex, linear, concave, always_0 or always_1")
        if not 0.0 < self.min_scale <= 1.0:
            raise UserError(f"the least crop area must be in (0, 1], got {self.min_scale}")

    @property
    def views(self) -> int:
        return 1

    @property
    def stacked(self) -> bool:
        """Whether batches have a dimension of views: [B, V, 3, H, W] instead of [B, 3, H, W]."""
        return False

    def least_area(self, epoch: int) -> float:
        """The lower bound of a crop's share of the image in this epoch."""
        if self.kind == "random_resized_crop":
            return self.min_scale
        return self.min_scale + (1.0 - self.min_scale) * schedule_value(self.schedule, epoch, self.epochs)

    def windows(self, seed: int, epoch: int, samples: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> Windows:
        """Windows of ``samples`` [B], whose images have ``widths`` and ``heights`` [B]; depends on nothing else."""
        if self.kind == "random_resized_crop":
            u = uniform(seed, epoch, _WINDOW, samples, 4 * _ATTEMPTS)
            x, y, w, h = random_resized_crop(u, widths, heights, self.min_scale)
        else:
            x, y, w, h = square_crop(uniform(seed, epoch, _WINDOW, samples, 3), widths, heights, self.least_area(epoch))
        mirrored = self.kind == "random_resized_crop" if self.flip is None else self.flip
        flip = uniform(seed, epoch, _FLIP, samples, 1)[:, 0] < (0.5 if mirrored else 0.0)
        return Windows(*(column[:, None] for column in (x, y, w, h, flip)))


@dataclass(frozen=True)
class EvalViews:
    """Views for testing.

    ``center``: short side to size * 8 // 7, the middle size x size. ``five``: short side to size + expand, corners and
    middle, in torchvision's order (top left, top right, bottom left, bottom right, centre). ``ten``: those and the five
    of the mirrored image. ``random``: ``n_random`` random resized crops with flips, drawn from (seed, epoch, sample).
    """

    size: int
    crops: Crops = "center"
    n_random: int = 10
    expand: int = 24
    min_scale: float = 0.08
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.interpolation)
        if self.crops not in ("center", "five", "ten", "random"):
            raise UserError(f"unknown crops {self.crops!r}: center, five, ten or random")
        if self.crops == "random" and self.n_random < 1:
            raise UserError(f"the number of random crops must be at least 1, got {self.n_random}")
        if self.expand < 0:
            raise UserError(f"expand must not be negative (the crop would leave the image), got {self.expand}")

    @property
    def views(self) -> int:
        return {"center": 1, "five": 5, "ten": 10, "random": self.n_random}[self.crops]

    @property
    def stacked(self) -> bool:
        """Whether batches have a dimension of views: [B, V, 3, H, W] instead of [B, 3, H, W]."""
        return self.crops != "center"

    @property
    def short_side(self) -> int:
        """The short side of the resized image in pixels."""
        return self.size * 8 // 7 if self.crops == "center" else self.size + self.expand

    def windows(
        self, seed: int, epoch: int, samples: np.ndarray, widths: np.ndarray, heights: np.ndarray
    ) -> Windows | ResizedCrops:
        """Views of ``samples`` [B]; only ``random`` looks at seed, epoch and samples."""
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

    def _random(self, seed: int, epoch: int, samples: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> Windows:
        columns: list[tuple[np.ndarray, ...]] = []
        for view in range(self.n_random):
            window_stream, flip_stream = 2 + 2 * view, 3 + 2 * view
            window = random_resized_crop(
                uniform(seed, epoch, window_stream, samples, 4 * _ATTEMPTS), widths, heights, self.min_scale
            )
            columns.append((*window, uniform(seed, epoch, flip_stream, samples, 1)[:, 0] < 0.5))
        return Windows(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))
