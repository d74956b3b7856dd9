"""The JPEG files that ``fastlift bench data`` reads: those of a data set, or drawn ones of ImageNet's sizes."""

import os
from pathlib import Path

import numpy as np

from fastlift.data.index.header_scan import Progress, scan_files
from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.data.index.jpeg import plain_parts
from fastlift.data.loading.reading import DecodeError, read_encoded
from fastlift.errors import UserError

# Common sizes among ImageNet's images, by about their share: 212,000 pixels on average (100 real ones: 219,000).
_IMAGENET_SIZES = (
    [(500, 375)] * 10 + [(375, 500)] * 3 + [(500, 333)] * 3 + [(333, 500), (640, 480), (1024, 768), (250, 188)]
)
_MOST_DRAWN = 200


def files_to_read(
    index: ImageIndex | None, count: int, folder: Path, progress: Progress | None
) -> tuple[list[str], str]:
    """The first ``count`` JPEG files of an index, or drawn ones; and what they are.

    Drawn ones and those of shards and stores are written to ``folder``.

    Raises:
        UserError: the index has no JPEG files.
    """
    if index is None:
        count = min(count, _MOST_DRAWN)
        for i in range(count):
            draw_image(folder / f"{i}.jpg", i)
            if progress:
                progress("draw images", i + 1, count)
        return [str(folder / f"{i}.jpg") for i in range(count)], f"{count} drawn JPEGs of ImageNet's sizes"
    files, are_files = [], index.spans is None and isinstance(index.root, Path)
    for i in range(len(index)):
        try:
            encoded = read_encoded(index, i)
        except DecodeError:
            continue  # gone since the headers were read
        if plain_parts(encoded, int(index.widths[i]), int(index.heights[i])) is None:
            continue  # torchvision.io reads JPEG alone, and no way may stop the others
        files.append(index.file(i) if are_files else folder / str(i))
        if not are_files:
            files[-1].write_bytes(encoded)
        if len(files) == count:
            break
    if not files:
        raise UserError(f"{index.name} has no JPEG files: nothing to compare")
    copied = "" if are_files else ", copied"
    return [str(file) for file in files], f"the first {len(files)} JPEGs of {index.name}{copied}"


def draw_image(file: Path, seed: int) -> None:
    """A JPEG with a photograph's share of detail: 4.4 bits a pixel, as 100 real ones have."""
    from PIL import Image

    random = np.random.default_rng(seed)
    width, height = _IMAGENET_SIZES[seed % len(_IMAGENET_SIZES)]
    pixels = np.zeros((height, width, 3), dtype=np.float32)
    for cell, strength in ((64, 100.0), (16, 50.0), (4, 26.0), (1, 17.0)):
        coarse = random.normal(0.0, strength, (height // cell + 2, width // cell + 2, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(layer, dtype=np.float32) - 128
    Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)


def index_of(files: list[str]) -> ImageIndex:
    """An index of files, all of class 0; one that cannot be used is refused."""
    paths = PathTable.from_strings(file.lstrip("/") for file in map(os.path.abspath, files))
    root = Path(os.path.abspath(os.sep))
    widths, heights, reasons = scan_files(root, paths)
    if reasons:
        i, reason = next(iter(reasons.items()))
        raise UserError(f"{files[i]} {reason}")
    labels = np.zeros(len(paths), dtype=np.int64)
    return ImageIndex("bench", root, paths, labels, widths, heights, ("image",), "")
