"""A loader of normalised crops: which backend makes its batches (torchvision on any device, DALI on GPUs), and the loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.index.replacements import BadImages, BadImageSettings, Replacements
from fastlift.data.sampling.augmentations import Augment, AugmentSettings
from fastlift.data.sampling.class_draws import Sampling
from fastlift.data.sampling.crops import EvalCrops, TrainCrops
from fastlift.data.sampling.stream import Stream
from fastlift.errors import UserError
from fastlift.settings import MOST_THREADS, Acts, Between, May, Settings, check_rules

if TYPE_CHECKING:
    import torch

    from fastlift.data.loading.batch import Loader
    from fastlift.data.loading.collate import Normalise

# Sets that are not larger than this when decoded are decoded once and kept by the torchvision backend.
MAX_CACHED_BYTES = 512 * 2**20
_CURE = "pip install 'fastlift[dali]' for drivers of CUDA 13, 'fastlift[dali-cuda12]' for CUDA 12, on Linux; or "

Executor = Literal["auto", "dali", "torchvision"]
_WITH_DALI = Acts("how DALI decodes (executor dali or auto)", lambda executor: executor != "torchvision")


@dataclass(frozen=True)
class LoaderSettings(Settings):
    """What decodes and crops the images. Nothing here changes a batch but by rounding."""

    executor: Annotated[Executor, May.CHANGE | May.DIFFER] = "auto"
    """Backend that decodes and crops. 'auto': DALI on GPUs where it is installed and images are decoded every epoch, else torchvision."""
    workers: Annotated[int | None, Between(1, MOST_THREADS), May.CHANGE | May.DIFFER] = None
    """Threads for decoding (default: the CPUs that this process may use, at most 16)."""
    host_decode: Annotated[float, Between(0, 1), _WITH_DALI, May.CHANGE | May.DIFFER] = 0.0
    """Of DALI's images, the share that the decoding threads crop instead of the GPU: drawn anew for each image and epoch."""
    hw_decoder_load: Annotated[float, Between(0, 1), _WITH_DALI, May.CHANGE | May.DIFFER] = 0.65
    """Of what DALI decodes on a GPU with a hardware JPEG decoder, the share that this gets; the rest is the GPU's cores'."""

    def backend_for(
        self,
        index: ImageIndex,
        device: str | torch.device = "cpu",
        cache_bytes: int = MAX_CACHED_BYTES,
        augment: Augment = "none",
    ) -> tuple[Literal["dali", "torchvision"], str]:
        """The backend that will make batches of ``index`` on a device, and why; raises UserError for one that cannot.

        Where something is done to the pixels of training crops (``augment``), threads make them.
        """
        check_rules(AugmentSettings, {"augment": augment, "executor": self.executor})
        if self.executor == "torchvision":
            return "torchvision", "asked for"
        if self.executor == "dali":
            if index.arrays is not None:
                raise UserError(
                    f"{index.name} comes as arrays, which need no decoding: use torchvision instead of DALI"
                )
            if why := without_dali(device):
                cure = _CURE if str(device).startswith("cuda") else ""
                raise UserError(f"{why}: {cure}use torchvision")
            return "dali", "asked for"
        if index.arrays is not None:
            whole = isinstance(index.arrays, np.ndarray)
            return (
                "torchvision",
                "the set comes as arrays, nothing to decode" if whole else "they come from Python objects",
            )
        if augment != "none":
            return "torchvision", f"--augment {augment} changes pixels that the threads make"
        if index.decoded_bytes() <= cache_bytes:
            return "torchvision", f"decoded once and kept in memory ({index.decoded_bytes() / 2**20:.0f} MiB)"
        if why := without_dali(device):
            return "torchvision", why
        return "dali", "DALI is installed"

    def build(
        self,
        stream: Stream,
        normalise: Normalise,
        replacements: Replacements,
        cache_bytes: int = MAX_CACHED_BYTES,
        once: bool = False,
    ) -> Loader:
        """The loader of a stream of batches, on the device and in the dtype of ``normalise``; see ``build_loader``.

        With ``once`` there is one epoch, and what is decoded is not kept for another.
        """
        augment = stream.crops.augment if isinstance(stream.crops, TrainCrops) else "none"
        backend, _ = self.backend_for(stream.index, normalise.device, cache_bytes, augment)
        if backend == "dali":
            from fastlift.data.loading.dali.graph import DaliDecoding
            from fastlift.data.loading.dali.loader import DaliLoader

            decoding = DaliDecoding(self.host_decode, self.hw_decoder_load)
            return DaliLoader(stream, replacements, normalise, self.workers, decoding)
        from fastlift.data.loading.torch_loader import TorchLoader

        keep = not once and stream.index.decoded_bytes() <= cache_bytes
        return TorchLoader(stream, replacements, normalise, self.workers, keep)


def without_dali(device: str | torch.device) -> str:
    """Why DALI does not make batches for a device; empty where it does. Imports it where it is installed, and tries it.

    On CPUs it would save a seventh of the CPU time of an image, while training waits for the model (docs/results.md).
    """
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return f"DALI is only used for GPUs, and the batches are for {device}"
    from fastlift.data.loading.dali.trial import device_id_of, trouble

    return trouble(device_id_of(device))


def build_loader(
    index: ImageIndex,
    views: TrainCrops | EvalCrops,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    shuffle: bool = True,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    shuffle_shards: int | None = None,
    sampling: Sampling = "shuffle",
    executor: Executor = "auto",
    workers: int | None = None,
    bad_images: BadImages = "stop",
    on_bad: Callable[[BadImage], None] | None = None,
    cache_bytes: int = MAX_CACHED_BYTES,
    host_decode: float = 0.0,
    hw_decoder_load: float = 0.65,
) -> Loader:
    """A loader of crops (``views``) of ``index``: its ``epoch(n)`` gives the batches of epoch n, ``(images, labels, indices)``.

    Args:
        index, views: a split of ``load_data_set``, and ``TrainViews`` or ``EvalViews``.
        batch_size: samples of a step. In training all ranks share them, in evaluation each has batches of its own.
        mean, std: of the normalisation (pixel / 255 - mean) / std, three numbers each.
        seed: of order and crops; the same on all ranks.
        dtype, device: of the images, [B, 3, S, S], or [B, V, 3, S, S] for several crops of each; default float32, on the CPU.
        shuffle: True for training: a new order every epoch, the same steps on all ranks; of a short last batch a rank may
            get one sample less than others, or none. False for evaluation: the index's order, each sample once over all
            ranks, in the same batches for any number of them; ranks may differ by one batch.
        rank, world_size: which process this is, and of how many.
        shuffle_shards: in training of sets in shards, so many shards at a time in a random order, their samples shuffled
            together; default all at once.
        sampling: in training, how often each class comes: "shuffle", "square_root", "balanced", or "progressive" over the
            ``epochs`` of ``views``; ``fastlift train --help`` has the formulas.
        drop_last: leave out a last batch that is not full.
        executor: the backend; "auto" takes DALI on GPUs where it is installed and there is something to decode in every epoch.
        workers: threads that decode; default: the cores of this process, at most 16.
        bad_images: what happens when an image breaks on decoding: "stop" raises, "skip" shows the next good one of
            its class and calls ``on_bad`` (from any thread, once an image).
        cache_bytes: sets up to this size when decoded are kept in memory by the torchvision backend; 0 for none.
        host_decode, hw_decoder_load: how DALI's images are shared, as the settings of these names say.

    Raises:
        UserError: values out of range, a backend that cannot be used; while iterating, a broken image.
    """
    import torch

    from fastlift.data.loading.collate import Normalise

    return LoaderSettings(executor, workers, host_decode, hw_decoder_load).build(
        Stream(index, views, batch_size, seed, shuffle, drop_last, rank, world_size, shuffle_shards, sampling),
        Normalise(mean, std, dtype or torch.float32, torch.device(device)),
        BadImageSettings(bad_images).build(index, on_bad),
        cache_bytes,
    )
