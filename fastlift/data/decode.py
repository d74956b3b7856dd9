"""Encoded bytes to RGB pixels, the same ones as ``PIL.Image.open(...).convert("RGB")`` gives (EXIF rotation ignored)."""

import io
import os
from collections.abc import Callable

import numpy as np

from fastlift.data.headers import MAX_PIXELS, read_header_bytes
from fastlift.data.index import ImageIndex
from fastlift.data.jpeg import is_whole, read_frame

Decoder = Callable[[bytes], np.ndarray]  # encoded -> uint8 [H, W, 3]
_WEBP_ALPHA = 0x10  # among the flags of an extended file


class DecodeError(Exception):
    """A picture cannot be used; the message is the reason, to follow its path."""


def read_encoded(index: ImageIndex, i: int) -> bytes:
    """The encoded bytes of sample ``i``."""
    path = index.file(i)
    try:
        if index.spans is None:
            return path.read_bytes()
        offset, count = index.spans[i].tolist()
        with path.open("rb") as shard:
            data = os.pread(shard.fileno(), count, offset)
        if len(data) < count:
            raise DecodeError("is truncated")
        return data
    except FileNotFoundError as error:
        raise DecodeError("is missing") from error
    except OSError as error:
        raise DecodeError(f"cannot be read ({error.strerror})") from error


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Any accepted format, uint8 [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(f"is too large ({image.width} x {image.height})")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except DecodeError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged files
        reason = read_header_bytes(data).reason
        raise DecodeError(reason or f"cannot be decoded ({error})") from error


def decode_with_torchvision(data: bytes) -> np.ndarray:
    """JPEG of one or three channels through torchvision's libjpeg-turbo (faster, the same pixels), else Pillow."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if data[:3] != b"\xff\xd8\xff" or read_frame(data).channels not in (1, 3):
        return decode_with_pillow(data)
    try:
        # A bytearray, since torch warns about memory that cannot be written.
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return decode_with_pillow(data)  # for the reason, and the last word on what is usable
    return pixels.permute(1, 2, 0).numpy()


def dali_agrees(encoded: np.ndarray) -> bool:
    """Whether DALI's decoders make Pillow's pixels of these bytes, uint8 [n], and fail where Pillow fails: JPEG of one or
    three channels without damage, PNG, WebP without alpha. Of the rest DALI shows some wrong (CMYK without Adobe's marker
    as its negative, TIFF without its orientation), and damage only where a window reaches it.
    """
    head = encoded[:21].tobytes()
    if head[:3] == b"\xff\xd8\xff":
        frame = read_frame(encoded.data)
        return frame.channels in (1, 3) and is_whole(encoded, frame)
    if head[:4] == b"RIFF":
        return head[12:16] == b"VP8 " or (head[12:16] == b"VP8X" and len(head) > 20 and not head[20] & _WEBP_ALPHA)
    return head[:4] == b"\x89PNG"


def fastest_decoder() -> Decoder:
    """torchvision's decoder (a fifth faster) where this torchvision has it, else Pillow's: the same pixels.

    Imports what the decoder needs, so that threads do not race for it.
    """
    try:
        from torchvision.io import decode_jpeg  # noqa: F401 - deprecated in 0.29, to be removed some day
    except (ImportError, RuntimeError):
        return decode_with_pillow
    return decode_with_torchvision


def load_picture(index: ImageIndex, i: int, decoder: Decoder) -> np.ndarray:
    """The pixels of sample ``i``, uint8 [H, W, 3], of the size that the index promises.

    Raises:
        DecodeError: with the reason.
    """
    pixels = decoder(read_encoded(index, i))
    expected = (int(index.heights[i]), int(index.widths[i]))
    if pixels.shape[:2] != expected:
        cure = "run `fastlift data check`" if index.spans is None else "make the pack again"
        raise DecodeError(
            f"is {pixels.shape[1]} x {pixels.shape[0]} now, but was {expected[1]} x {expected[0]} when it was "
            f"indexed ({cure})"
        )
    return pixels
