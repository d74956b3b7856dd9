"""The torchvision backend: threads read, decode, crop, resize, mirror and normalise.

Threads, not processes: resizing and normalising release the interpreter lock, nothing is copied between processes, and
nothing has to start. Images of sets that are small when decoded are decoded once and kept.
"""

from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from fastlift.data.index.replacements import Replacements
from fastlift.data.loading.batch import Batch
from fastlift.data.loading.collate import Normalise, chunks, labelled
from fastlift.data.loading.decode import Pixels, jpeg_decoder, load_image
from fastlift.data.loading.fetching import Fetches
from fastlift.data.loading.reading import DecodeError
from fastlift.data.loading.render import decode_scale, render_crops
from fastlift.data.loading.shards_ahead import ShardsAhead
from fastlift.data.sampling.augmentations import Augmentations
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.orders import Orders
from fastlift.data.sampling.stream import Step, Stream
from fastlift.system.machine.threads import decode_threads

_PREFETCH = 3  # batches in the making


class _Pending(NamedTuple):
    """A batch in the making."""

    step: Step
    images: torch.Tensor  # [B, V, 3, S, S], uint8 or, on CPUs, float32 and normalised
    tasks: list[Future[None]]


class TorchLoader:
    """See ``batch.Loader``."""

    backend = "torchvision"

    def __init__(
        self, stream: Stream, replacements: Replacements, normalise: Normalise, workers: int | None, keep: bool
    ) -> None:
        """``keep`` decoded images in memory, whole and at full scale; arrays are there anyway."""
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._replacements, self._normalise = stream, replacements, normalise
        self._orders = Orders(stream.order)
        self._workers = workers or decode_threads()[0]
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fastlift-data")
        if stream.index.arrays is None:
            jpeg_decoder()  # here rather than in several threads: whether it is missing is said once
        self._augment = _augment(stream.crops)
        self._keep = keep and not isinstance(stream.index.arrays, np.ndarray)
        self._kept: dict[int, Pixels] = {}
        self._fetches = Fetches(stream.index)
        self._shards = ShardsAhead(stream)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        order = self._orders.of(epoch)
        pending: deque[_Pending] = deque()
        self._shards.start(order, epoch, start_step)
        try:
            for number in range(start_step, self.steps_per_epoch):
                self._shards.reach(number)
                pending.append(self._begin(self._stream.step(order, epoch, number, self._replacements)))
                if len(pending) == _PREFETCH:
                    yield self._collate(pending.popleft())
            while pending:
                yield self._collate(pending.popleft())
        finally:
            for batch in pending:
                for task in batch.tasks:
                    task.cancel()
            self._fetches.forget()

    def close(self) -> None:
        """End the threads, and let go of what was kept."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fetches.close()
        self._shards.close()
        self._kept.clear()

    def _begin(self, step: Step) -> _Pending:
        crops = self._stream.crops
        images = torch.empty(
            (len(step.samples), crops.per_image, 3, crops.size, crops.size),
            dtype=torch.float32 if self._normalise.in_workers else torch.uint8,
            pin_memory=self._normalise.device.type == "cuda",
        )
        self._fetches.expect(step.sources if not self._kept else _without(step.sources, self._kept))
        parts = chunks(len(step.samples), self._workers)
        tasks = [self._pool.submit(self._fill, step, rows, images.numpy()) for rows in parts]
        return _Pending(step, images, tasks)

    def _collate(self, pending: _Pending) -> Batch:
        for task in pending.tasks:
            task.result()
        images = pending.images if self._stream.crops.stacked else pending.images.squeeze(1)
        return labelled(self._stream, pending.step, self._normalise.to_device(images))

    def _fill(self, step: Step, rows: range, out: np.ndarray) -> None:
        """Make some rows of a batch."""
        part = out[rows.start : rows.stop]
        crops = np.empty(part.shape, dtype=np.uint8) if self._normalise.in_workers else part
        for row, of_row in zip(rows, crops, strict=True):
            self._draw(step, row, of_row)
        if crops is not part:
            self._normalise.in_worker(crops, part)

    def _draw(self, step: Step, row: int, out: np.ndarray) -> None:
        """The crops of one image, or of its replacement."""
        crops = self._stream.crops
        while True:
            try:
                pixels = self._image(int(step.sources[row]), decode_scale(crops, step.boxes, row))
                break
            except DecodeError as error:
                self._replacements.replace(int(step.samples[row]), int(step.sources[row]), str(error))
                step, row = self._stream.again(step, row, self._replacements), 0
        render_crops(pixels, step.boxes, row, crops.interpolation, out)
        if self._augment is not None and step.augmentations is not None:
            self._augment(out[0], step.augmentations, row)

    def _image(self, source: int, scale: int) -> Pixels:
        if not self._keep:
            return self._loaded(source, scale)
        if (kept := self._kept.get(source)) is None:
            kept = self._kept[source] = self._loaded(source, 1)
        return kept

    def _loaded(self, source: int, scale: int) -> Pixels:
        index = self._stream.index
        if index.arrays is not None:
            return Pixels(index.arrays[source], 1)
        return load_image(index, source, self._fetches.read(source), scale)


def _augment(crops: TrainCrops | EvalCrops) -> Callable[[np.ndarray, Augmentations, int], None] | None:
    """What changes the pixels of a crop; imports torchvision's transforms where they are asked for, before there are threads."""
    if not isinstance(crops, TrainCrops) or crops.augment == "none":
        return None
    from fastlift.data.loading.augment import augment_crop

    kind = crops.augment
    return lambda crop, chosen, row: augment_crop(crop, kind, chosen, row)


def _without(rows: np.ndarray, kept: Container[int]) -> np.ndarray:
    return np.array([row for row in rows.tolist() if row not in kept], dtype=np.int64)
