"""From decoded images to batches, in threads: crop, resize, mirror, normalise.

Threads, not processes: resizing and normalising release the interpreter lock, nothing is copied between processes, and
nothing has to start.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fastlift.data.loading.batch import Batch
from fastlift.data.sampling.stream import Step, Stream
from fastlift.errors import UserError

_MAX_CHUNK = 16  # samples a task

Draw = Callable[[int, np.ndarray], None]  # row of the step, its crops to fill in: uint8 [V, 3, S, S]


def chunks(count: int, workers: int) -> list[range]:
    """The rows of a batch in parts, one a task of a thread."""
    size = max(1, min(_MAX_CHUNK, count // (2 * workers)))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


class Normalise:
    """uint8 pixels to (pixel / 255 - mean) / std.

    On a GPU: bytes cross the bus, and one pass there makes floats of them. On a CPU the workers do it with NumPy, since
    torch's own threads would compete with those of the training step.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device) -> None:
        """For images in a dtype on a device; raises UserError for what is no mean and deviation of three channels."""
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(f"mean and std must be three numbers each, std positive; got {mean} and {std}")
        self.mean, self.std = tuple(mean), tuple(std)
        std_ = np.array(std, dtype=np.float64).reshape(3, 1, 1)
        self._scale = (1.0 / (255.0 * std_)).astype(np.float32)
        self._shift = (-np.array(mean, dtype=np.float64).reshape(3, 1, 1) / std_).astype(np.float32)
        self.dtype, self.device = dtype, device
        self.in_workers = device.type == "cpu"

    @cached_property
    def _on_device(self) -> list[torch.Tensor]:
        return [torch.from_numpy(array).to(self.device) for array in (self._scale, self._shift)]

    def in_worker(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """uint8 [..., 3, S, S] into float32 of the same shape."""
        np.multiply(pixels, self._scale, out=out)
        out += self._shift

    def finish(self, batch: torch.Tensor) -> torch.Tensor:
        """What the workers made, float32 or uint8, to the compute dtype on the device."""
        if self.in_workers:
            return batch.to(self.dtype)
        scale, shift = self._on_device
        return (moved(batch, self.device) * scale).add_(shift).to(self.dtype)  # uint8 times fp32 is fp32

    def all_of(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8 [..., 3, S, S] that no worker has seen, to the compute dtype on the device."""
        if not self.in_workers:
            return self.finish(torch.from_numpy(pixels))
        images = torch.empty(pixels.shape)
        self.in_worker(pixels, images.numpy())
        return self.finish(images)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device.

    The host does not wait: torch keeps pinned memory until it is copied; with any other, CUDA may wait for running work.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def labelled(stream: Stream, step: Step, images: torch.Tensor) -> Batch:
    """The images of a step with the labels and rows of its samples."""
    labels = moved(torch.from_numpy(stream.index.labels[step.samples]), images.device)
    whole = labels
    if len(step.whole) > len(step.samples):
        whole = moved(torch.from_numpy(stream.index.labels[step.whole]), images.device)
    return Batch(images, labels, torch.from_numpy(step.samples.copy()), whole)


@dataclass
class Pending:
    """A batch in the making."""

    step: Step
    images: torch.Tensor  # [B, V, 3, S, S], uint8 or, on CPUs, float32 and normalised
    tasks: list[Future[None]]

    def cancel(self) -> None:
        """Leave what has not begun."""
        for task in self.tasks:
            task.cancel()


class Collator:
    """Fills batches in threads, by functions that draw the crops of one image."""

    def __init__(self, stream: Stream, normalise: Normalise, workers: int) -> None:
        self._stream, self._normalise, self._workers = stream, normalise, workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fastlift-data")

    def start(self, step: Step, draw: Draw) -> Pending:
        """Begin to draw the rows of ``step``; ``draw`` is called from several threads."""
        count, crops = len(step.samples), self._stream.crops
        kind = torch.float32 if self._normalise.in_workers else torch.uint8
        shape = (count, crops.per_image, 3, crops.size, crops.size)
        images = torch.empty(shape, dtype=kind, pin_memory=self._normalise.device.type == "cuda")
        tasks = [self._pool.submit(self._fill, draw, rows, images.numpy()) for rows in chunks(count, self._workers)]
        return Pending(step, images, tasks)

    def finish(self, pending: Pending) -> Batch:
        """The batch; raises what ``draw`` raised."""
        for task in pending.tasks:
            task.result()
        images = pending.images if self._stream.crops.stacked else pending.images.squeeze(1)
        return labelled(self._stream, pending.step, self._normalise.finish(images))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, draw: Draw, rows: range, out: np.ndarray) -> None:
        part = out[rows.start : rows.stop]
        crops = np.empty(part.shape, dtype=np.uint8) if self._normalise.in_workers else part
        for row, of_row in zip(rows, crops, strict=True):
            draw(row, of_row)
        if crops is not part:
            self._normalise.in_worker(crops, part)
