"""The index of a map-style data set of (image, label): each item is looked at once, and decoded when it is needed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import numpy as np

from fastlift.data.index.index import ImageIndex, PathTable, fingerprint
from fastlift.data.index.multi_label import refuse
from fastlift.data.index.objects import ObjectImages
from fastlift.data.index.problems import Problems
from fastlift.data.loading.reading import DecodeError
from fastlift.errors import UserError
from fastlift.system.machine import cpus

_SEVERAL = (list, tuple, dict)
_SAMPLED = 16  # images whose pixels are in the fingerprint; to decode all would take as long as an epoch


def index_of_items(
    name: str, items: Any, class_names: tuple[str, ...], one_at_a_time: bool, problems: Problems
) -> ImageIndex:
    """The index of ``items[0]``, ``items[1]``, ..., pairs of a PIL image (or uint8 [H, W, 3]) and a label.

    Raises UserError for the first item that is none, or that raises, with its index.
    """
    try:
        count = len(items)
    except Exception as error:  # TypeError where there is none, or the object's own
        raise UserError(
            f"{name}: expected a map-style data set, with len(...) and [i], not {type(items).__name__} ({error})"
        ) from error
    if not count:
        raise UserError(f"{name}: the data set is empty")
    lock = threading.Lock() if one_at_a_time else nullcontext()
    pixels_of: dict[int, bytes] = dict.fromkeys(np.linspace(0, count - 1, _SAMPLED).astype(int).tolist(), b"")

    def look(row: int) -> tuple[int, int, int]:
        image, label = _pair(items, row, name)
        width, height = _size(image, f"{name}: item {row}")
        number = _label(label, len(class_names), f"{name}: item {row}")
        if row in pixels_of:
            pixels_of[row] = _digest(lambda: image)
        return number, width, height

    with ThreadPoolExecutor(1 if one_at_a_time else cpus()) as pool:
        found = np.array(list(pool.map(look, range(count))), dtype=np.int64)
    # Where they are others at a second look, as with random transforms, no start of the run would have those of another.
    again = [_digest(partial(_image, items, row)) for row in pixels_of]
    content = b"".join(again) if again == list(pixels_of.values()) else b""
    labels, widths, heights = found[:, 0], found[:, 1].astype(np.int32), found[:, 2].astype(np.int32)

    def load(row: int) -> np.ndarray:
        try:
            with lock:
                pixels = _pixels(items[row][0])
        except Exception as error:  # the object's own, and Pillow's
            raise DecodeError(f"is item {row} of the data set, which raised {type(error).__name__}: {error}") from error
        if pixels.shape[:2] != (heights[row], widths[row]):
            now = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise DecodeError(
                f"is item {row} of the data set, {now} now, and was {widths[row]} x {heights[row]}: give the data set "
                "without its random transforms"
            )
        return pixels

    return object_index(name, load, labels, widths, heights, class_names, content)


def object_index(
    name: str,
    load: Callable[[int], np.ndarray],
    labels: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    class_names: tuple[str, ...],
    content: bytes,
    digests: np.ndarray | None = None,
) -> ImageIndex:
    """The index of images that ``load`` gives.

    ``content`` is what is known of their contents, for the fingerprint; ``digests``, uint8 [N, 16], are of them all, where
    these are known.
    """
    digest = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
    hashed = fingerprint(PathTable(digest, np.zeros(1, dtype=np.int64)), labels, widths, heights, class_names)
    paths = PathTable(np.zeros(0, dtype=np.uint8), np.zeros(len(labels) + 1, dtype=np.int64))
    images = ObjectImages(load, np.arange(len(labels)), digests)
    return ImageIndex(name, None, paths, labels, widths, heights, class_names, hashed, arrays=images)


def _image(items: Any, row: int) -> Any:
    return items[row][0]


def _digest(image: Callable[[], Any]) -> bytes:
    with suppress(Exception):  # the object's own, and Pillow's: told when the image is needed
        return hashlib.sha256(_pixels(image()).data).digest()
    return b"broken"


def _pixels(image: Any) -> np.ndarray:
    return np.ascontiguousarray(image) if isinstance(image, np.ndarray) else np.array(image.convert("RGB"))


def _pair(items: Any, row: int, name: str) -> tuple[Any, Any]:
    try:
        item = items[row]
    except Exception as error:  # the object's own
        raise UserError(f"{name}: item {row} of the data set raised {type(error).__name__}: {error}") from error
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise UserError(f"{name}: item {row} of the data set is no pair of (image, label), but {type(item).__name__}")
    return item[0], item[1]


def _size(image: Any, where: str) -> tuple[int, int]:
    from PIL import Image

    size: tuple[int, int] | None = None
    if isinstance(image, Image.Image):
        size = image.size
    elif isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        size = image.shape[1], image.shape[0]
    if size is not None and min(size) > 0:
        return size
    if size is not None:
        raise UserError(f"{where} of the data set is an image without pixels ({size[0]} x {size[1]})")
    raise UserError(
        f"{where} of the data set has {type(image).__name__} as its image: give a data set of PIL images (without transforms; "
        "fastlift crops and normalises itself), or of uint8 arrays [H, W, 3]"
    )


def _label(label: Any, classes: int, where: str) -> int:
    if isinstance(label, _SEVERAL) or getattr(label, "ndim", 0) > 0:
        raise refuse(where, label)
    try:
        number = int(label)
        is_whole = number == label
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where} of the data set has the label {label!r}: expected a number from 0 to {classes - 1}"
        ) from None
    if not is_whole or not 0 <= number < classes:
        raise UserError(f"{where} of the data set has the label {label!r}: expected a number from 0 to {classes - 1}")
    return number
