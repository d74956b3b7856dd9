"""What a loader yields, and what every backend's loader can do."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from fastlift.data.loading.mixed import Mixed


@dataclass(frozen=True)
class Batch:
    """Crops of B samples: this rank's share of a step. Unpacks as ``images, labels, indices``."""

    images: torch.Tensor  # [B, 3, S, S], or [B, V, 3, S, S] for five, ten and random crops; normalised
    labels: torch.Tensor  # int64 [B], on the device of images; of mixed images those of the larger shares
    indices: torch.Tensor  # int64 [B], rows of the index, on the CPU
    whole: torch.Tensor  # int64 [W], labels of the step over all ranks, on the device of images
    mixed: Mixed | None = None  # the rest of the labels of mixed images, on the device of images

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.images, self.labels, self.indices))


class Loader(Protocol):
    """Makes the batches of any epoch, from any step on."""

    steps_per_epoch: int
    backend: str  # "torchvision" or "dali"

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of ``epoch`` from ``start_step`` on: bit-identical to the end of the whole epoch's stream.

        Raises UserError, while iterating, for an image that is broken and may not be replaced.
        """
        ...

    def close(self) -> None:
        """Stop threads and free buffers; the loader is of no use afterwards."""
        ...
