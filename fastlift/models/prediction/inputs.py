"""The images in what a user gives: one, or many in some container or place."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from fastlift.data.image_sources import FoundImage, ImageSources, is_one_url
from fastlift.data.index.headers import READ_FLAGS, is_shortage
from fastlift.data.loading.decode import decode
from fastlift.data.loading.reading import DecodeError, ImageFile
from fastlift.data.stores import client
from fastlift.data.stores.url import Url
from fastlift.errors import UserError, is_out_of_memory

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # 8 bits a channel, as of files
_FIELDS = ("images", "image", "pixel_values")  # of a batch that is a mapping
_TAKEN = (
    "a PIL image, a path, encoded bytes, an array [H, W, 3], a tensor [3, H, W], or a list, folder, pattern, data set or "
    "loader of images"
)


class OneImage(NamedTuple):
    """An image that is still to be read or converted."""

    name: str
    load: Callable[[], np.ndarray]  # uint8 [H, W, 3]; raises DecodeError with the reason


class Ready(NamedTuple):
    """A loader's batch, which is what a model takes: float [B, 3, S, S] or [B, V, 3, S, S]."""

    images: Tensor


Unit = OneImage | Ready


def is_single(given: Any) -> bool:
    """Whether one image is given, not several."""
    if isinstance(given, (np.ndarray, Tensor)):
        return given.ndim < 4
    if isinstance(given, (str, os.PathLike)):
        place = os.fspath(given)
        return is_one_url(given) or (os.path.isfile(place) and not place.lower().endswith(".tar"))
    return isinstance(given, (Image.Image, bytes, bytearray, memoryview))


def units(given: Any) -> Iterator[Unit]:
    """The images of what is given, one after another.

    Raises:
        UserError: here, before anything is read, for places that do not exist; while iterating, for what is no image.
    """
    if isinstance(given, (str, os.PathLike)):
        sources = ImageSources([given])
        return (_of_place(found) for found in sources)
    if hasattr(given, "epoch") and hasattr(given, "steps_per_epoch"):  # a loader of fastlift.data
        given = given.epoch(0)
    if is_single(given):
        return iter([_one(given, 0)])
    if isinstance(given, Mapping) or (not isinstance(given, Iterable) and not hasattr(given, "__getitem__")):
        raise UserError(f"images: expected {_TAKEN}; got {type(given).__name__}")
    return _each(given)


def _each(items: Iterable[Any]) -> Iterator[Unit]:
    number = 0
    is_pixels = isinstance(items, (np.ndarray, Tensor))
    for item in _given(items):
        batch = None if is_pixels else _batch_in(item)
        if batch is not None and batch.is_floating_point():
            yield Ready(batch)
            number += len(batch)
            continue
        for image in [item] if batch is None else batch:
            image = _without_label(image)
            if isinstance(image, (str, os.PathLike)):
                for found in ImageSources([image]):
                    yield _of_place(found)
                    number += 1
            else:
                yield _one(image, number)
                number += 1


def _given(items: Any) -> Iterator[Any]:
    """The items of what a user gives, whose own errors are told with the place; UserError for them, but fastlift's own pass."""
    by_index = not isinstance(items, Iterable) and hasattr(items, "__len__")
    number = 0
    try:
        # Iterating by Python's older protocol, an IndexError amid a data set would pass for its end.
        for item in map(items.__getitem__, range(len(items))) if by_index else items:
            yield item
            number += 1
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        told = f"{type(error).__name__}: {error}"
        raise UserError(f"images: {type(items).__name__} raised, after {number:,} items, {told}") from error


def _batch_in(item: Any) -> Tensor | None:
    """The images of a loader's batch: a tensor, the first of several, or the field of a mapping or of fastlift's ``Batch``."""
    if isinstance(item, Mapping):
        item = next((item[name] for name in _FIELDS if name in item), None)
    elif isinstance(item, (tuple, list)):
        item = item[0] if item else None
    else:
        item = getattr(item, "images", item)
    return item if isinstance(item, Tensor) and item.ndim >= 4 else None


def _without_label(item: Any) -> Any:
    """The image of a data set's sample (image, label)."""
    is_pair = (
        isinstance(item, (tuple, list)) and len(item) > 1 and not isinstance(item[1], (str, Image.Image, np.ndarray))
    )
    return item[0] if is_pair else item


def _one(image: Any, number: int) -> OneImage:
    name = f"image {number}"
    if isinstance(image, Image.Image):
        return OneImage(str(getattr(image, "filename", "") or name), partial(_of_pil, image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return OneImage(name, partial(decode, bytes(image)))
    if isinstance(image, Tensor):
        return OneImage(name, partial(_of_tensor, image, name))
    if isinstance(image, np.ndarray):
        return OneImage(name, partial(_of_array, image, name))
    raise UserError(f"{name}: expected {_TAKEN}; got {type(image).__name__}")


def _of_place(found: FoundImage) -> OneImage:
    return OneImage(found.name, partial(load_found, found))


def load_found(found: FoundImage) -> np.ndarray:
    """The pixels of an image by its place: uint8 [H, W, 3].

    Raises:
        DecodeError: it cannot be used, with the reason.
        OSError: a shortage, of open files say.
        StoreError: of a URL, whatever its store fails at.
    """
    if found.problem:
        raise DecodeError(found.problem)
    try:
        if found.store:
            return decode(client.read(Url(found.store).below(found.path)))
        descriptor = os.open(found.path, READ_FLAGS)
    except FileNotFoundError:
        raise DecodeError("is missing") from None
    except ValueError:
        raise DecodeError("cannot be opened (a null character in its path)") from None
    except OSError as error:
        raise _reason(error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DecodeError("is no regular file")
        return decode(ImageFile(descriptor, found.span).read())
    except OSError as error:
        raise _reason(error) from error
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> Exception:
    return error if is_shortage(error) else DecodeError(f"cannot be read ({error.strerror})")


def _of_pil(image: Image.Image) -> np.ndarray:
    if image.mode not in _MODES:
        raise DecodeError(f"has pixels of kind {image.mode}, not 8 bits a channel (convert it)")
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # a file that is read only now, and nearly everything on damaged ones
        raise DecodeError(f"cannot be decoded ({error})") from error


def _of_tensor(image: Tensor, name: str) -> np.ndarray:
    if image.ndim == 3 and len(image) not in (1, 3, 4):
        told = "x".join(map(str, image.shape))
        raise UserError(f"{name}: expected a tensor [3, H, W] (or 1 or 4 channels), got {told}; see Tensor.permute")
    image = image.detach().cpu()
    image = image.float() if image.is_floating_point() else image
    return _of_array((image.permute(1, 2, 0) if image.ndim == 3 else image).numpy(), name)


def _of_array(image: np.ndarray, name: str) -> np.ndarray:
    """uint8, or floats from 0 to 1; without a last dimension grey; of four channels the last is left out, as Pillow does."""
    image = image[:, :, None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        told = "x".join(map(str, image.shape))
        raise UserError(f"{name}: expected an array [H, W, 3] (or 1 or 4 channels, or [H, W]), got {told}")
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise UserError(
                f"{name}: pixels as floats are from 0 to 1, got {low:g} to {high:g}; give uint8 from 0 to 255. What is normalised "
                "already goes to the model itself: model(images)"
            )
        image = np.rint(image * 255)
    elif image.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{name}: expected uint8 from 0 to 255 or floats from 0 to 1, got {image.dtype}")
    elif image.dtype == np.bool_:
        image = image * np.uint8(255)
    image = image[:, :, :3] if image.shape[2] == 4 else image
    # Of its own, where others could not be written to: torch would warn of those.
    return np.require(np.broadcast_to(image, (*image.shape[:2], 3)), np.uint8, ["C", "W"])
