"""What a model says of each image of a split: kept on the device batch by batch, and brought together once at the end.

Legend: B images of a batch, N images of the split, n of them kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlift.training.distributed import World, rows_of_all

MOST_KEPT = 1_000_000
_COLUMNS = 3  # the predicted class, and the bits of two probabilities


@dataclass(frozen=True)
class PerImage:
    """The most probable class of each image, in the index's order.

    Images that were shown by a replacement have no answer of their own and are left out; of more than a million images
    every k-th is kept (``every``), so that what is kept stays below a hundred megabytes.
    """

    rows: NDArray[np.int64]  # [n] rows of the index, rising
    labels: NDArray[np.int32]  # [n]
    predicted: NDArray[np.int32]  # [n]; -1 where the logits were NaN or infinite
    confidence: NDArray[np.float32]  # [n] probability of the predicted class, 0..1
    label_probability: NDArray[np.float32]  # [n] probability of the right class, 0..1
    every: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which images were taken for another class, [n]; those without finite logits are not among them."""
        return (self.predicted != self.labels) & (self.predicted >= 0)


class PerImageRecorder:
    """Takes batches without a host sync; 12 bytes an image on the device.

    Args:
        images: N.
    """

    def __init__(self, images: int) -> None:
        self.every = max(1, -(-images // MOST_KEPT))
        self._rows: list[Tensor] = []  # int64 [B] each, on the CPU
        self._parts: list[Tensor] = []  # int32 [B, 3] each

    def add(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch.

        Args:
            indices: int64 [B], rows of the index, on the CPU.
            logits: [B, C], any float dtype; computed on in fp32.
            labels: int64 [B] in 0..C-1, on the device of the logits.
        """
        logits = logits.detach().float()
        top, predicted = logits.max(dim=1)
        log_total = logits.logsumexp(dim=1)
        predicted = torch.where(log_total.isfinite(), predicted, -1)
        own = logits.gather(1, labels.long()[:, None]).squeeze(1)
        columns = [predicted.int(), *(_bits(value - log_total) for value in (top, own))]
        self._rows.append(indices)
        self._parts.append(torch.stack(columns, dim=1))

    def of_all(self, world: World, device: torch.device, labels: np.ndarray, without: set[int]) -> PerImage | None:
        """What the ranks of ``world`` have kept, on the first of them; None on the others. Waits for the device.

        Args:
            device: where collectives work.
            labels: of the whole index, [N].
            without: rows that this rank showed a replacement of.
        """
        mine = torch.empty(0, 1 + _COLUMNS, dtype=torch.int32)
        if self._parts:
            mine = torch.cat([torch.cat(self._rows).int()[:, None], torch.cat(self._parts).cpu()], dim=1)
        kept = (mine[:, 0] % self.every == 0) & ~torch.isin(
            mine[:, 0], torch.tensor(sorted(without), dtype=torch.int32)
        )
        whole = rows_of_all(mine[kept], world, device)
        if whole is None:
            return None
        table = whole.numpy()
        table = table[np.argsort(table[:, 0], kind="stable")]
        rows, predicted = table[:, 0].astype(np.int64), table[:, 1].copy()
        confidence, own = (table[:, column].copy().view(np.float32) for column in (2, 3))
        return PerImage(rows, labels[rows].astype(np.int32), predicted, confidence, own, self.every)


def _bits(log_probability: Tensor) -> Tensor:
    """A probability's bits as int32, so that one tensor holds all columns: [B]; 0 where it is not finite."""
    value = torch.nan_to_num(log_probability.exp(), nan=0.0, posinf=0.0).clamp(0.0, 1.0)
    return value.contiguous().view(torch.int32)


def worst_mistakes(found: PerImage, most: int, of_a_pair: int = 2) -> NDArray[np.int64]:
    """Places [m] in ``found`` of the wrong images that the model was surest of, at most so many a pair of classes."""
    wrong = np.flatnonzero(found.wrong)
    order = wrong[np.argsort(-(found.confidence[wrong] - found.label_probability[wrong]), kind="stable")]
    chosen: list[int] = []
    seen: dict[tuple[int, int], int] = {}
    for place in order.tolist():
        if len(chosen) == most:
            break
        pair = int(found.labels[place]), int(found.predicted[place])
        seen[pair] = seen.get(pair, 0) + 1
        if seen[pair] <= of_a_pair:
            chosen.append(place)
    return np.array(chosen, dtype=np.int64)


def of_rarest_classes(
    found: PerImage, class_counts: Sequence[int], classes: int, of_a_class: int
) -> list[NDArray[np.int64]]:
    """Places in ``found`` of images of the classes with the fewest training images, rarest first, as a list a class.

    The images are spread evenly over those of the class, not chosen by what the model says of them.
    """
    tested = np.bincount(found.labels, minlength=len(class_counts))
    rarest = [c for c in np.argsort(np.asarray(class_counts), kind="stable").tolist() if tested[c]][:classes]
    by_class = np.argsort(found.labels, kind="stable")
    starts = np.searchsorted(found.labels[by_class], rarest)
    ends = np.searchsorted(found.labels[by_class], rarest, side="right")
    spread = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        places = np.unique(np.linspace(start, end - 1, min(of_a_class, end - start)).round().astype(np.int64))
        spread.append(by_class[places])
    return spread
