"""Thumbnails of a few test images: made once, from wherever the images lie, so that the page of a run needs them no more."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image

from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.decode import has_scales, load_image
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.data.loading.render import resize
from fastlift.data.stores.client import StoreError
from fastlift.evaluation.per_image import PerImage, of_rarest_classes, worst_mistakes
from fastlift.settings import Between, May, Settings

SIDE = 128  # pixels of the longer side
MOST_BYTES = 8192  # of each: what a page of them weighs is bounded by their number
OF_A_RARE_CLASS = 4
_QUALITIES = (82, 60, 35, 15)


@dataclass(frozen=True)
class ThumbnailSettings(Settings):
    """How many test images a run keeps small copies of."""

    thumbnails: Annotated[int, Between(0, 500), May.CHANGE] = 96
    """Test images that the run folder keeps 128 pixels large for its page: half the worst mistakes, half of the rarest classes
    (0: none, where images must not leave)."""

    def choose(self, found: PerImage, class_counts: Sequence[int]) -> np.ndarray:
        """Places [m] in ``found`` of the images to keep, each once."""
        return np.unique(np.concatenate([self.worst(found), *self.rarest(found, class_counts)]))

    def worst(self, found: PerImage) -> np.ndarray:
        """Places of the worst mistakes, the worst first."""
        return worst_mistakes(found, self.thumbnails - self.thumbnails // 2)

    def rarest(self, found: PerImage, class_counts: Sequence[int]) -> list[np.ndarray]:
        """Places of images of the rarest classes, a list a class, the rarest first."""
        return of_rarest_classes(found, class_counts, self.thumbnails // 2 // OF_A_RARE_CLASS, OF_A_RARE_CLASS)


def make_thumbnails(index: ImageIndex, rows: Sequence[int], tell: Callable[[str], None]) -> dict[int, bytes]:
    """JPEG files by row of an index; rows whose image cannot be read now are left out.

    Args:
        tell: told once where images are left out, and why.
    """
    made: dict[int, bytes] = {}
    missing, why = 0, ""
    for row in rows:
        try:
            made[row] = _encoded(_small(index, row))
        except (DecodeError, StoreError, OSError) as error:
            missing, why = missing + 1, why or f"{index.label_of(row)} {error}"
            if isinstance(error, StoreError):  # the next one would wait as long
                missing = len(rows) - len(made)
                break
    if missing:
        tell(f"the page shows {missing} of {len(rows)} chosen images without a thumbnail: {why}")
    return made


def _small(index: ImageIndex, row: int) -> np.ndarray:
    """The whole image, its longer side at most ``SIDE``: uint8 [h, w, 3]."""
    if index.arrays is not None:
        pixels = index.arrays[row]
    else:
        data = read_encoded(index, row)
        times = min(int(index.widths[row]), int(index.heights[row])) // SIDE
        scale = next(scale for scale in (8, 4, 2, 1) if scale <= max(times, 1)) if has_scales(data) else 1
        pixels = load_image(index, row, data, scale).values
    height, width = pixels.shape[:2]
    shrink = min(1.0, SIDE / max(height, width))
    return resize(pixels, max(1, round(width * shrink)), max(1, round(height * shrink)), "bilinear")


def _encoded(pixels: np.ndarray) -> bytes:
    """A JPEG file of at most ``MOST_BYTES``, as good as fits."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()
