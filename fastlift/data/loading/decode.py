"""Encoded bytes to RGB pixels, the same ones as ``PIL.Image.open(...).convert("RGB")`` gives (EXIF rotation ignored).

JPEGs can also be decoded at 1/2, 1/4 or 1/8 of their size, by a smaller inverse cosine transform of each block.
"""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from fastlift.data.index.headers import MAX_PIXELS, read_header_bytes, refusal
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.jpeg import read_frame
from fastlift.data.index.pillow import open_image, plain_words
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.errors import FastliftWarning


@functools.cache
def jpeg_decoder() -> Any:
    """The module ``simplejpeg``; None, with a warning, where it cannot be imported, as may be beside a checkout."""
    try:
        import simplejpeg
    except Exception as error:  # it is not there, or was built for another NumPy
        told = f"simplejpeg cannot be imported ({error}): Pillow decodes JPEGs, to the same pixels but slower"
        warnings.warn(told, FastliftWarning, stacklevel=3)
        return None
    return simplejpeg


class Pixels(NamedTuple):
    """A decoded image."""

    values: np.ndarray  # uint8 [ceil(H / scale), ceil(W / scale), 3] of an image of H x W pixels
    scale: int  # 1, 2, 4 or 8


def has_scales(data: bytes) -> bool:
    """Whether ``decode`` makes an image smaller: a JPEG of one or three channels."""
    return data[:3] == b"\xff\xd8\xff" and read_frame(data).channels in (1, 3)


def decode(data: bytes, scale: int = 1) -> np.ndarray:
    """Any accepted format: uint8 [H, W, 3], or [ceil(H / scale), ceil(W / scale), 3] of what ``has_scales``.

    libjpeg-turbo decodes JPEG of one or three channels by itself, a fifth faster than under Pillow, to the same pixels. What
    it warns of goes to Pillow, which has the last word on what is usable; so does everything where simplejpeg is missing.

    Raises DecodeError with the reason.
    """
    if data[:3] == b"\xff\xd8\xff":
        frame = read_frame(data)
        fits = frame.channels in (1, 3) and frame.width * frame.height <= MAX_PIXELS
        if fits and (decoder := jpeg_decoder()) is not None:
            try:
                width, height = (-(-side // scale) if scale > 1 else 0 for side in (frame.width, frame.height))
                return decoder.decode_jpeg(data, "RGB", min_height=height, min_width=width)
            except ValueError:
                pass
    return _decode_with_pillow(data, scale if has_scales(data) else 1)


def _decode_with_pillow(data: bytes, scale: int) -> np.ndarray:
    if reason := refusal(data):  # Pillow knows formats that no other decoder here does, some by starting programs
        raise DecodeError(reason)
    try:
        with open_image(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"is too large ({image.width} x {image.height})")
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except DecodeError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        raise DecodeError(read_header_bytes(data).reason or f"cannot be decoded ({plain_words(error)})") from error


def load_image(index: ImageIndex, i: int, data: bytes | None = None, scale: int = 1) -> Pixels:
    """The pixels of sample ``i``, of the size that the index promises; from its bytes, where they are read.

    Args:
        scale: 2, 4 or 8 to decode at a half, a quarter or an eighth where the format allows it.

    Raises DecodeError with the reason.
    """
    data = read_encoded(index, i) if data is None else data
    scale = scale if scale > 1 and has_scales(data) else 1
    pixels = decode(data, scale)
    height, width = (int(side[i]) for side in (index.heights, index.widths))
    if pixels.shape[:2] != (-(-height // scale), -(-width // scale)):
        cure = "run `fastlift data check`" if index.spans is None else "make the pack again"
        now = pixels if scale == 1 else decode(data)
        raise DecodeError(
            f"is {now.shape[1]} x {now.shape[0]} now, but was {width} x {height} when it was indexed ({cure})"
        )
    return Pixels(pixels, scale)
