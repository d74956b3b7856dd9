"""Batches of normalised views: one interface, two executors (torchvision here and everywhere, DALI where installed)."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.sampling.crops import EvalViews, TrainViews
from fastlift.data.sampling.stream import StandIns, Stream
from fastlift.errors import UserError

# Sets that are not larger than this when decoded are decoded once and kept by the torchvision executor.
MAX_CACHED_BYTES = 512 * 2**20
EXECUTORS = ("auto", "dali", "torchvision")


@dataclass(frozen=True)
class Batch:
    """Views of B samples: this rank's share of a step. Unpacks as ``images, labels, indices``."""

    images: torch.Tensor  # [B, 3, S, S], or [B, V, 3, S, S] for five, ten and random crops; normalised
    labels: torch.Tensor  # int64 [B], on the device of images
    indices: torch.Tensor  # int64 [B], rows of the index, on the CPU
    whole: torch.Tensor  # int64 [W], labels of the step over all ranks, on the device of images

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.labels, self.indices))


class Loader(Protocol):
    """Makes the batches of any epoch, from any step on."""

    steps_per_epoch: int
    executor: str  # "torchvision" or "dali"

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on: bit-identical to the end of the whole epoch's stream."""
        ...

    def close(self) -> None:
        """Stop threads and free buffers; the loader is of no use afterwards."""
        ...


def without_dali(device: str | torch.device = "cpu") -> str:
    """Why DALI cannot be used for batches on a device; empty where it can. Imports it where it is installed, and tries it."""
    try:
        if importlib.util.find_spec("nvidia.dali") is None:
            return "DALI is not installed"
    except (ImportError, ValueError):
        return "DALI is not installed"
    try:
        import nvidia.dali  # noqa: F401
    except Exception as error:  # a library of it that does not load, a NumPy that it does not know
        return f"DALI is installed but cannot be imported ({error})"
    from fastlift.data.loading.dali.trial import device_id_of, trial

    return trial(device_id_of(torch.device(device)))


def choose_executor(
    index: ImageIndex,
    executor: str = "auto",
    cache_bytes: int = MAX_CACHED_BYTES,
    device: str | torch.device = "cpu",
) -> tuple[str, str]:
    """The executor that will be used for batches on a device, and why.

    Raises:
        UserError: an unknown executor, or one that cannot be used for this set on this machine.
    """
    if executor not in EXECUTORS:
        raise UserError(f"unknown executor {executor!r}: {', '.join(EXECUTORS)}")
    if executor == "torchvision":
        return "torchvision", "asked for"
    if executor == "dali":
        if index.arrays is not None:
            raise UserError(f"{index.name} comes as arrays, which DALI has nothing to decode of: use torchvision")
        if why := without_dali(device):
            cure = "pip install 'fastlift[dali]' for drivers of CUDA 13, 'fastlift[dali-cuda12]' for CUDA 12, on Linux"
            raise UserError(f"{why}: {cure}; or use torchvision")
        return "dali", "asked for"
    if index.arrays is not None:
        return "torchvision", "the set comes as arrays, nothing to decode"
    if index.decoded_bytes() <= cache_bytes:
        return "torchvision", f"decoded once and kept in memory ({index.decoded_bytes() / 2**20:.0f} MiB)"
    if why := without_dali(device):
        return "torchvision", why
    return "dali", "DALI is installed"


def build_loader(
    index: ImageIndex,
    views: TrainViews | EvalViews,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    shuffle: bool = True,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    executor: str = "auto",
    workers: int | None = None,
    bad_images: str = "stop",
    on_bad: Callable[[BadImage], None] | None = None,
    cache_bytes: int = MAX_CACHED_BYTES,
) -> Loader:
    """A loader of ``views`` of ``index``.

    Args:
        batch_size: samples of a step. In training all ranks share them, in evaluation each has batches of its own.
        mean, std: of the normalisation (pixel / 255 - mean) / std, three numbers each.
        seed: of order and views; the same on all ranks.
        dtype, device: of the images.
        shuffle: True for training: a new order every epoch, the same steps on all ranks; of a short last batch a rank may
            get one sample less than others, or none. False for evaluation: the index's order, each sample once over all
            ranks, in the same batches for any number of them; ranks may differ by one batch.
        drop_last: leave out a last batch that is not full.
        executor: "auto" takes DALI where it is installed and there is something to decode in every epoch.
        workers: threads that decode; default: the cores of this process, at most 16.
        bad_images: what happens when a picture breaks on decoding: "stop" raises, "skip" shows the next good one of
            its class and calls ``on_bad`` (from any thread, once a picture).
        cache_bytes: sets up to this size when decoded are kept in memory by the torchvision executor; 0 for none.

    Raises:
        UserError: values out of range, an executor that cannot be used; while iterating, a broken picture.
    """
    chosen, _ = choose_executor(index, executor, cache_bytes, device)
    stream = Stream(index, views, batch_size, seed, shuffle, drop_last, rank, world_size)
    stand_ins = StandIns(index, bad_images, on_bad)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"mean and std must be three numbers each, std positive; got {mean} and {std}")
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    if chosen == "dali":
        from fastlift.data.loading.dali.loader import DaliLoader

        return DaliLoader(stream, stand_ins, mean, std, dtype, torch.device(device), workers)
    from fastlift.data.loading.torch_loader import TorchLoader

    keep = index.decoded_bytes() <= cache_bytes
    return TorchLoader(stream, stand_ins, mean, std, dtype, torch.device(device), workers, keep)
