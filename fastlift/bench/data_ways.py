"""The ways to make training crops that ``fastlift bench data`` compares, and the stages of fastlift's own."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.bench.data_images import index_of
from fastlift.data.loading.decode import Pixels, decode
from fastlift.data.sampling.crops import TrainCrops

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 64

Epoch = Callable[[int], Iterator[Any]]


def _torch_data_loader(decode: Any, files: list[str], crops: TrainCrops, workers: int) -> Epoch:
    """What most training programs do: torchvision's transforms in the worker processes of torch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        decode(files, crops), batch_size=BATCH, shuffle=True, num_workers=workers, multiprocessing_context="fork"
    )
    return lambda epoch: iter(loader)


class _PilDataset:
    """PIL and torchvision.transforms, as LIFT's and most programs have it."""

    def __init__(self, files: list[str], crops: TrainCrops) -> None:
        from torchvision import transforms as tv

        self._files = files
        crop = tv.RandomResizedCrop(crops.size, interpolation=tv.InterpolationMode(crops.interpolation))
        self._transform = tv.Compose([crop, tv.RandomHorizontalFlip(), tv.ToTensor(), tv.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        with Image.open(self._files[i]) as image:
            return self._transform(image.convert("RGB"))


class _IoDataset:
    """torchvision.io and the tensor transforms of torchvision.transforms.v2."""

    def __init__(self, files: list[str], crops: TrainCrops) -> None:
        import torch
        from torchvision.transforms import v2

        torch.set_num_threads(1)  # in this measuring process and its forked workers
        self._files = files
        kind = v2.InterpolationMode(crops.interpolation)
        crop = v2.RandomResizedCrop(crops.size, interpolation=kind, antialias=True)
        to_float = v2.ToDtype(torch.float32, scale=True)
        self._transform = v2.Compose([crop, v2.RandomHorizontalFlip(), to_float, v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> Any:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        return self._transform(decode_jpeg(read_file(self._files[i]), mode=ImageReadMode.RGB))


def _fastlift(scaled_decode: bool, files: list[str], crops: TrainCrops, workers: int) -> Epoch:
    """``build_loader``, for batches on a CPU."""
    from fastlift.data.loading.loader import build_loader

    index, crops = index_of(files), replace(crops, scaled_decode=scaled_decode)
    loader = build_loader(
        index, crops, batch_size=BATCH, mean=MEAN, std=STD, executor="torchvision", workers=workers, cache_bytes=0
    )
    return loader.epoch


# Way -> (files, crops, workers) to a function that makes the batches of an epoch.
WAYS: dict[str, Callable[[list[str], TrainCrops, int], Epoch]] = {
    "torchvision-pil": partial(_torch_data_loader, _PilDataset),
    "torchvision-io": partial(_torch_data_loader, _IoDataset),
    "fastlift-torchvision": partial(_fastlift, False),
    "fastlift-scaled-decode": partial(_fastlift, True),
}


def missing(way: str) -> str:
    """Why a way cannot run here; empty where it can."""
    if way == "torchvision-io":
        try:
            from torchvision.io import decode_jpeg  # noqa: F401 - deprecated in 0.29, to be removed some day
        except (ImportError, RuntimeError):
            return "this torchvision has no JPEG decoder"
    return ""


def stages_ms(files: list[str], crops: TrainCrops) -> dict[str, float]:
    """CPU ms an image of each stage in one thread of fastlift's way; the least of three passes."""
    from fastlift.data.loading.render import render_crops

    index = index_of(files)
    rows = np.arange(len(files))
    boxes = crops.boxes(0, 0, rows, index.widths, index.heights)
    out = np.empty((1, 3, crops.size, crops.size), dtype=np.uint8)
    normalised = np.empty(out.shape, dtype=np.float32)
    best: dict[str, float] = {}
    for _ in range(3):
        spent = dict.fromkeys(("read", "decode", "resize", "normalise"), 0.0)
        for i, file in enumerate(files):
            marks = [time.thread_time()]
            data = Path(file).read_bytes()
            marks.append(time.thread_time())
            pixels = decode(data)
            marks.append(time.thread_time())
            render_crops(Pixels(pixels, 1), boxes, i, crops.interpolation, out)
            marks.append(time.thread_time())
            np.multiply(out, np.float32(1 / 64), out=normalised)
            normalised -= np.float32(2)
            marks.append(time.thread_time())
            for stage, begin, end in zip(spent, marks, marks[1:], strict=False):
                spent[stage] += (end - begin) * 1000 / len(files)
        best = {stage: min(ms, best.get(stage, ms)) for stage, ms in spent.items()}
    return best
