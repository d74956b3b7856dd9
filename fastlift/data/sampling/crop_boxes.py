"""Which part of an image is seen: crop boxes and flips as integer arrays, computed ahead of any decoding.

Legend of shapes: B samples, V crops a sample. Coordinates are pixels of the stored (not EXIF-rotated) image.
Geometry and rounding are torchvision's (Python's ``round`` and NumPy's ``rint`` both round half to even).
"""

from dataclasses import dataclass

import numpy as np

ATTEMPTS = 10
_RATIO = (3.0 / 4.0, 4.0 / 3.0)


@dataclass(frozen=True)
class CropBoxes:
    """Boxes that are each resized to size x size, then mirrored where ``flip`` says so. All [B, V]."""

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


def _integers(u: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) to uniform integers in [0, high)."""
    return np.minimum((u * high).astype(np.int64), high - 1)


def random_resized_crop(
    u: np.ndarray, widths: np.ndarray, heights: np.ndarray, min_scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """torchvision's RandomResizedCrop from given uniform numbers: ten attempts, then the centre of allowed shape.

    Args:
        u: float64 [B, 40], four numbers (area, aspect, y, x) an attempt.
        widths, heights: int [B].

    Returns:
        x, y, w, h: int64 [B].
    """
    u = u.reshape(len(u), ATTEMPTS, 4)
    width, height = widths[:, None].astype(np.int64), heights[:, None].astype(np.int64)
    area = width * height * (min_scale + (1.0 - min_scale) * u[..., 0])  # [B, attempts]
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
