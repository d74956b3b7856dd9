"""``scaled``: what ``--scaled-decode`` saves and which pixels it changes, by the size of crops and of images."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastlift.bench import data as bench
from fastlift.bench.data_images import index_of
from fastlift.data.index.index import ImageIndex
from fastlift.data.loading.decode import decode
from fastlift.data.loading.render import decode_scale, resize
from fastlift.data.sampling.crop_boxes import CropBoxes
from fastlift.data.sampling.crops import Interpolation, TrainCrops

WAYS = ("fastlift-torchvision", "fastlift-scaled-decode")
# Crops in pixels, and the images' long side: None for the files as they are, else they are resized and encoded anew.
CASES: tuple[tuple[int, int | None], ...] = ((224, None), (160, None), (128, None), (224, 800), (224, 1600))
MOST_PIXELS_COMPARED = 100  # images


def run(images: list[str], rounds: int, files: int) -> dict[str, Any]:
    """Every case: images/s and CPU time with and without, in alternated rounds; and how far the crops' pixels are apart."""
    found: dict[str, Any] = {}
    for size, long_side in CASES:
        with tempfile.TemporaryDirectory() as folder:
            used = images if long_side is None else _resized(images, long_side, Path(folder))
            index = index_of([used[i % len(used)] for i in range(files)])
            measured = bench.run(index, image_size=size, images=files, rounds=rounds, workers=[1], ways=WAYS)
            name = f"crops of {size} px, {'files as they are' if long_side is None else f'long side {long_side} px'}"
            found[name] = {
                "rows": [row.__dict__ for row in measured.rows],
                "bytes_per_image": sum(Path(file).stat().st_size for file in used) / len(used),
                "pixels": {kind: _apart(index_of(used[:MOST_PIXELS_COMPARED]), size, kind) for kind in ("bilinear", "bicubic")},
            }  # fmt: skip
    return found


def _resized(images: list[str], long_side: int, folder: Path) -> list[str]:
    """The images at another size, as JPEGs of quality 90 with 4:2:0 chroma."""
    made = []
    for number, file in enumerate(images[:200]):
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        times = long_side / max(image.size)
        sides = round(image.width * times), round(image.height * times)
        made.append(str(folder / f"{number}.jpg"))
        image.resize(sides, Image.Resampling.BICUBIC).save(made[-1], quality=90)
    return made


def _apart(index: ImageIndex, size: int, interpolation: Interpolation) -> dict[str, Any]:
    """Grey levels between crops of reduced and of full pixels, of the box as it is cut and of the box as it was drawn.

    As a yardstick, also between the two interpolations of full pixels.
    """
    crops = TrainCrops(size, interpolation=interpolation, scaled_decode=True)
    other: Interpolation = "bicubic" if interpolation == "bilinear" else "bilinear"
    rows = np.arange(len(index))
    boxes = crops.boxes(1, 0, rows, index.widths, index.heights)
    same, drawn, yardstick, largest = [], [], [], 0.0
    for row in rows:
        scale = decode_scale(crops, boxes, row)
        if scale == 1:
            continue
        data = index.file(int(row)).read_bytes()
        full, reduced = decode(data), decode(data, scale)
        x, y, x_end, y_end = _corners(boxes, row)
        left, top, right, bottom = ((edge + scale // 2) // scale for edge in (x, y, x_end, y_end))

        def crop(pixels: np.ndarray, kind: Interpolation = interpolation) -> np.ndarray:
            return resize(pixels, size, size, kind).astype(float)

        found = crop(reduced[top:bottom, left:right])
        cut = np.abs(found - crop(full[top * scale : bottom * scale, left * scale : right * scale]))
        wanted = full[y:y_end, x:x_end]
        same.append(cut.mean())
        largest = max(largest, cut.max())
        drawn.append(np.abs(found - crop(wanted)).mean())
        yardstick.append(np.abs(crop(wanted) - crop(wanted, other)).mean())
    means = {"same_box": same, "box_as_drawn": drawn, "other_interpolation": yardstick}
    return {
        "reduced": len(same),
        "of": len(index),
        **{name: float(np.mean(levels)) if levels else None for name, levels in means.items()},
        "same_box_worst_image": max(same, default=None),
        "same_box_largest": largest,
    }


def _corners(boxes: CropBoxes, row: int) -> tuple[int, int, int, int]:
    x, y, w, h = (int(column[row, 0]) for column in (boxes.x, boxes.y, boxes.w, boxes.h))
    return x, y, x + w, y + h
