"""What both backends make batches with: parts for threads, normalisation, the way to the device, labels."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from fastlift.data.loading.batch import Batch
from fastlift.data.loading.mixed import Mixed, mix_, mixed_labels
from fastlift.data.sampling.stream import Step, Stream
from fastlift.errors import UserError

_MAX_CHUNK = 16  # samples a task


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

    def to_device(self, batch: torch.Tensor) -> torch.Tensor:
        """What the workers made, float32 or uint8, to the compute dtype on the device."""
        if self.in_workers:
            return batch.to(self.dtype)
        scale, shift = self._on_device
        return (moved(batch, self.device) * scale).add_(shift).to(self.dtype)  # uint8 times fp32 is fp32

    def all_of(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8 [..., 3, S, S] that no worker has seen, to the compute dtype on the device."""
        if not self.in_workers:
            return self.to_device(torch.from_numpy(pixels))
        images = torch.empty(pixels.shape)
        self.in_worker(pixels, images.numpy())
        return self.to_device(images)


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on the device.

    The host does not wait: torch keeps pinned memory until it is copied; with any other, CUDA may wait for running work.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def labelled(stream: Stream, step: Step, images: torch.Tensor) -> Batch:
    """The images of a step with the labels and rows of its samples; mixed, where the step says so."""

    def on_device(values: np.ndarray) -> torch.Tensor:
        return moved(torch.from_numpy(values), images.device)

    of_samples, mixed = stream.index.labels[step.samples], None
    if step.mixes is not None:
        of_samples, other, share = mixed_labels(of_samples, step.mixes)
        mixed = Mixed(on_device(other), on_device(share))
        mix_(images, on_device(step.mixes.weight.astype(np.float32)), on_device(step.mixes.box))
    labels = whole = on_device(of_samples)
    if len(step.whole) > len(step.samples) or mixed is not None:
        whole = on_device(stream.index.labels[step.whole])
    return Batch(images, labels, torch.from_numpy(step.samples.copy()), whole, mixed)
