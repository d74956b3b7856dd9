"""Loaders of small images by each backend. DALI's makes batches on a CPU here too, by its operators for CPUs and the same
graph, feed, runner and repair as on a GPU; outside of tests it is for GPUs alone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.batch import Batch, Loader
from fastlift.data.loading.collate import Normalise
from fastlift.data.loading.dali.graph import DaliDecoding
from fastlift.data.loading.dali.loader import DaliLoader
from fastlift.data.loading.dali.trial import trouble
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.crop_boxes import CropBoxes, ResizedCrops
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
NEEDS_DALI = pytest.mark.skipif(trouble(None) != "", reason="no DALI")
WITH_HELPERS = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # of a process that imports this file
BACKENDS = ["torchvision", pytest.param("dali", marks=NEEDS_DALI)]
# Every kind of crop, with both interpolations.
by_crops = pytest.mark.parametrize(
    "crops",
    [
        TrainCrops(32),
        TrainCrops(32, kind="minimalist", epochs=4, interpolation="bicubic"),
        EvalCrops(32),
        EvalCrops(32, interpolation="bicubic"),
        EvalCrops(32, crops="five", interpolation="bicubic"),
        EvalCrops(32, crops="ten"),
        EvalCrops(32, crops="random", n_random=3, interpolation="bicubic"),
    ],
    ids=lambda crops: f"{getattr(crops, 'kind', None) or crops.crops}-{crops.interpolation}",
)

BACKENDS_AND_CACHES = [("torchvision", 0), ("torchvision", 2**29), pytest.param("dali", 0, marks=NEEDS_DALI)]
with_and_without_cache = pytest.mark.parametrize(("backend", "cache_bytes"), BACKENDS_AND_CACHES)


def make_loader(
    index: ImageIndex,
    crops: TrainCrops | EvalCrops,
    backend: str = "torchvision",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int | None = None,
    bad_images: Any = "stop",
    on_bad: Callable[[BadImage], None] | None = None,
    cache_bytes: int = 2**29,
    decoding: DaliDecoding | None = None,
    **stream: Any,
) -> Loader:
    """Batches of 4 with seed 1, unless ``stream`` says otherwise (the fields of ``Stream``)."""
    batches = Stream(index, crops, **{"batch_size": 4, "seed": 1, **stream})
    normalise = Normalise(MEAN, STD, dtype, torch.device(device))
    replacements = BadImageSettings(bad_images).build(index, on_bad)
    if backend == "dali":
        return DaliLoader(batches, replacements, normalise, workers, decoding)
    return LoaderSettings("torchvision", workers).build(batches, normalise, replacements, cache_bytes)


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Grey levels between two batches of normalised images, on average over each: [B]."""
    std = torch.tensor(STD).view(3, 1, 1)
    return ((a.cpu().float() - b.cpu().float()).abs() * 255 * std).flatten(1).mean(1)


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches have the same bits."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def all_same(a: Iterator[Batch], b: Iterator[Batch]) -> bool:
    """As ``same``, of all batches; both have as many."""
    return all(same(left, right) for left, right in zip(a, b, strict=True))


def levels(images: torch.Tensor) -> torch.Tensor:
    """Normalised images back to grey levels 0..255."""
    return (images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def pillow_crop(
    image: Image.Image, plan: CropBoxes | ResizedCrops, row: int, crop: int, size: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """A crop made by Pillow, step by step: the definition that both backends approximate."""
    kind = Image.Resampling[interpolation.upper()]
    if isinstance(plan, CropBoxes):
        x, y, w, h = (int(c[row, crop]) for c in (plan.x, plan.y, plan.w, plan.h))
        made = image.crop((x, y, x + w, y + h)).resize((size, size), kind)
    else:
        resized = image.resize((int(plan.width[row]), int(plan.height[row])), kind)
        x, y = int(plan.x[row, crop]), int(plan.y[row, crop])
        made = resized.crop((x, y, x + size, y + size))
    pixels = np.asarray(made, dtype=np.float32)
    return pixels[:, ::-1] if plan.flip[row, crop] else pixels
