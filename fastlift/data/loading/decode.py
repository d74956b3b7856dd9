"""Encoded bytes to RGB pixels, the same ones as ``PIL.Image.open(...).convert("RGB")`` gives (EXIF rotation ignored)."""

import functools
import warnings
from typing import Any

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


def decode(data: bytes) -> np.ndarray:
    """Any accepted format: uint8 [H, W, 3].

    libjpeg-turbo decodes JPEG of one or three channels by itself, a fifth faster than under Pillow, to the same pixels. What
    it warns of goes to Pillow, which has the last word on what is usable; so does everything where simplejpeg is missing.

    Raises DecodeError with the reason.
    """
    if data[:3] == b"\xff\xd8\xff":
        frame = read_frame(data)
        fits = frame.channels in (1, 3) and frame.width * frame.height <= MAX_PIXELS
        if fits and (decoder := jpeg_decoder()) is not None:
            try:
                return decoder.decode_jpeg(data, "RGB")
            except ValueError:
                pass
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    if reason := refusal(data):  # Pillow knows formats that no other decoder here does, some by starting programs
        raise DecodeError(reason)
    try:
        with open_image(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"is too large ({image.width} x {image.height})")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except DecodeError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        raise DecodeError(read_header_bytes(data).reason or f"cannot be decoded ({plain_words(error)})") from error


def load_image(index: ImageIndex, i: int, data: bytes | None = None) -> np.ndarray:
    """The pixels of sample ``i``, uint8 [H, W, 3], of the size that the index promises; from its bytes, where they are read.

    Raises DecodeError with the reason.
    """
    pixels = decode(read_encoded(index, i) if data is None else data)
    expected = (int(index.heights[i]), int(index.widths[i]))
    if pixels.shape[:2] != expected:
        cure = "run `fastlift data check`" if index.spans is None else "make the pack again"
        raise DecodeError(
            f"is {pixels.shape[1]} x {pixels.shape[0]} now, but was {expected[1]} x {expected[0]} when it was "
            f"indexed ({cure})"
        )
    return pixels
