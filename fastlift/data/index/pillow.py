"""How Pillow is used: opened on bytes in memory, without a word to the terminal, and its errors in the same words each time."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_OBJECT = re.compile(r" ?<[^<>]* at 0x[0-9a-fA-F]+>")  # how Python shows an object, with the place of this one


def open_image(data: bytes) -> Image:
    """``PIL.Image.open`` of a file in memory; raises nearly everything on damaged ones."""
    from PIL import Image

    if data[:2] in (b"II", b"MM"):
        _silence_libtiff()
    return Image.open(io.BytesIO(data))


def plain_words(error: Exception) -> str:
    """What an error says, the same words for the same bytes: without the address of what was read from."""
    return _OBJECT.sub("", str(error)) or type(error).__name__


@functools.cache
def _silence_libtiff() -> None:
    """libtiff writes to the terminal what it thinks of a file; what matters comes as an error too."""
    import PIL

    for library in (Path(PIL.__file__).parent.parent / "pillow.libs").glob("libtiff-*"):  # where Linux wheels have it
        with contextlib.suppress(OSError, AttributeError):
            tiff = ctypes.CDLL(os.fspath(library))  # the same one that Pillow has loaded
            tiff.TIFFSetErrorHandler(None)
            tiff.TIFFSetWarningHandler(None)
