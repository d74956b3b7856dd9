"""Copies of images as people make them: what a search for copies is tried on, to tell how many it finds."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

Pixels = NDArray[np.uint8]
_KEPT = 0.9  # of each side, by a crop


def _smaller(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Resized to 70 % of each side and stored again as JPEG of quality 40."""
    small = image.resize(
        (max(1, round(0.7 * image.width)), max(1, round(0.7 * image.height))), Image.Resampling.BILINEAR
    )
    stored = io.BytesIO()
    small.save(stored, "JPEG", quality=40)
    return Image.open(stored).convert("RGB")


def _cropped(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """90 % of each side, at a random place."""
    width, height = max(1, round(_KEPT * image.width)), max(1, round(_KEPT * image.height))
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _mirrored(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _lighter(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A quarter brighter, with less colour."""
    return ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1.25)).enhance(0.8)


ALTERATIONS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "smaller, stored again": _smaller,
    "cropped to 90 %": _cropped,
    "mirrored": _mirrored,
    "lighter": _lighter,
}


def altered(pixels: Pixels, kind: str, seed: int) -> Pixels:
    """An image, uint8 [H, W, 3], altered as ``ALTERATIONS`` names it; the same for the same seed."""
    generator = np.random.default_rng(seed)
    return np.array(ALTERATIONS[kind](Image.fromarray(np.ascontiguousarray(pixels)), generator))
