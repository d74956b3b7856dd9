"""The torchvision executor: threads read, decode, crop and resize; normalisation is one operation a batch.

Pictures of sets that are small when decoded are decoded once and kept.
Threads, not processes: decoding and resizing release the interpreter lock, nothing is copied between processes, and
nothing has to start.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from fastlift.data.decode import DecodeError, Decoder, decode_with_pillow, fastest_decoder, load_picture
from fastlift.data.loader import Batch
from fastlift.data.render import render_views
from fastlift.data.stream import StandIns, Step, Stream

_PREFETCH = 3  # batches in the making
_MAX_CHUNK = 16  # samples a task


def default_workers() -> int:
    """The cores that this process may use, at most 16."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 16)


class Normalise:
    """uint8 pixels to (pixel / 255 - mean) / std.

    On a GPU: bytes cross the bus, and one pass there makes floats of them. On a CPU the workers do it with NumPy, since
    torch's own threads would compete with those of the training step.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device) -> None:
        std_ = np.array(std, dtype=np.float64).reshape(3, 1, 1)
        self._scale = (1.0 / (255.0 * std_)).astype(np.float32)
        self._shift = (-np.array(mean, dtype=np.float64).reshape(3, 1, 1) / std_).astype(np.float32)
        self._dtype, self._device = dtype, device
        self.in_workers = device.type == "cpu"
        self._tensors = [torch.from_numpy(array).to(device) for array in (self._scale, self._shift)]

    def in_worker(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """uint8 [..., 3, S, S] into float32 of the same shape."""
        np.multiply(pixels, self._scale, out=out)
        out += self._shift

    def finish(self, batch: torch.Tensor) -> torch.Tensor:
        """What the workers made, float32 or uint8, to the compute dtype on the device."""
        if self.in_workers:
            return batch.to(self._dtype)
        scale, shift = self._tensors
        return (batch.to(self._device, non_blocking=True).to(torch.float32) * scale).add_(shift).to(self._dtype)


@dataclass
class _Pending:
    """A batch in the making."""

    step: Step
    images: torch.Tensor  # [B, V, 3, S, S], uint8 or, on CPUs, float32 and normalised
    tasks: list[Future[None]]


class TorchLoader:
    """See ``loader.Loader``."""

    executor = "torchvision"

    def __init__(
        self,
        stream: Stream,
        stand_ins: StandIns,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        device: torch.device,
        workers: int | None,
        keep: bool,
    ) -> None:
        """``keep`` decoded pictures in memory; arrays are there anyway."""
        self.steps_per_epoch = stream.steps_per_epoch
        self._stream, self._stand_ins = stream, stand_ins
        self._normalise = Normalise(mean, std, dtype, device)
        self._device = device
        self._workers = workers or default_workers()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fastlift-data")
        self._keep = keep and stream.index.arrays is None
        self._kept: dict[int, np.ndarray] = {}
        # Small pictures decode as fast with Pillow, and torchvision takes a second to import.
        self._decoder: Decoder = (
            decode_with_pillow if self._keep or stream.index.arrays is not None else fastest_decoder()
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on."""
        order = self._stream.order(epoch)
        pending: deque[_Pending] = deque()
        try:
            for step in range(start_step, self.steps_per_epoch):
                pending.append(self._submit(order, epoch, step))
                if len(pending) == _PREFETCH:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:
            for batch in pending:
                for task in batch.tasks:
                    task.cancel()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._kept.clear()

    def _submit(self, order: np.ndarray, epoch: int, number: int) -> _Pending:
        step = self._stream.step(order, epoch, number, self._stand_ins)
        count, size = len(step.samples), self._stream.views.size
        shape = (count, self._stream.views.views, 3, size, size)
        kind = torch.float32 if self._normalise.in_workers else torch.uint8
        images = torch.empty(shape, dtype=kind, pin_memory=self._device.type == "cuda")
        chunk = max(1, min(_MAX_CHUNK, count // (2 * self._workers)))
        tasks = [
            self._pool.submit(self._render, step, epoch, range(first, min(first + chunk, count)), images.numpy())
            for first in range(0, count, chunk)
        ]
        return _Pending(step, images, tasks)

    def _finish(self, batch: _Pending) -> Batch:
        for task in batch.tasks:
            task.result()
        images = batch.images if self._stream.views.stacked else batch.images.squeeze(1)
        labels = torch.from_numpy(self._stream.index.labels[batch.step.samples])
        indices = torch.from_numpy(batch.step.samples.copy())
        return Batch(self._normalise.finish(images), labels.to(self._device, non_blocking=True), indices)

    def _render(self, step: Step, epoch: int, rows: range, out: np.ndarray) -> None:
        """A worker's task: the views of some of a batch's pictures."""
        part = out[rows.start : rows.stop]
        views = np.empty(part.shape, dtype=np.uint8) if self._normalise.in_workers else part
        for row, view in zip(rows, views, strict=True):
            try:
                pixels = self._picture(int(step.sources[row]))
            except DecodeError as error:
                self._render_stand_in(step, epoch, row, str(error), view)
            else:
                render_views(pixels, step.views, row, view)
        if views is not part:
            self._normalise.in_worker(views, part)

    def _render_stand_in(self, step: Step, epoch: int, row: int, reason: str, out: np.ndarray) -> None:
        sample, source = int(step.samples[row]), int(step.sources[row])
        while True:
            source = self._stand_ins.replace(sample, source, reason)
            try:
                pixels = self._picture(source)
            except DecodeError as error:
                reason = str(error)
            else:
                views = self._stream.of(step.samples[row : row + 1], epoch, self._stand_ins).views
                render_views(pixels, views, 0, out)
                return

    def _picture(self, source: int) -> np.ndarray:
        arrays = self._stream.index.arrays
        if arrays is not None:
            return arrays[source]
        kept = self._kept.get(source)
        if kept is None:
            kept = load_picture(self._stream.index, source, self._decoder)
            if self._keep:
                self._kept[source] = kept
        return kept
