"""Mixed images and their labels, as tensors: what ``sampling.mixing`` says in numbers, carried out on the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastlift.data.sampling.mixing import Mixes


class Mixed(NamedTuple):
    """What the labels [B] of mixed images are beside the one of the larger share.

    The label of an image is ``share`` of its label, and 1 - ``share`` of its ``other`` one.
    """

    other: Tensor  # int64 [B]
    share: Tensor  # float32 [B], from 0.5 to 1

    def of(self, rows: slice) -> Mixed:
        """That of some images."""
        return Mixed(self.other[rows], self.share[rows])

    def mean(self, of_labels: Tensor, of_others: Tensor) -> Tensor:
        """The mean by shares of what belongs to the labels, [B], and of what belongs to the others."""
        share = self.share.to(of_labels.dtype)
        return share * of_labels + (1 - share) * of_others

    def soft(self, labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
        """Probabilities [B, C] of ``labels`` int64 [B] and these."""
        share = self.share.to(dtype)[:, None]
        none = torch.zeros(len(labels), classes, dtype=dtype, device=labels.device)
        return none.scatter(1, labels[:, None], share) + none.scatter(1, self.other[:, None], 1 - share)


def mixed_labels(labels: np.ndarray, mixes: Mixes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of images with ``labels`` int64 [B], mixed: labels of the larger share, the other labels, and the larger shares float32."""
    partners = labels.copy()
    pairs = 2 * len(mixes.share)
    partners[:pairs] = labels[:pairs].reshape(-1, 2)[:, ::-1].reshape(-1)
    share = mixes.shares(len(labels))
    is_larger = share >= 0.5
    larger, other = np.where(is_larger, labels, partners), np.where(is_larger, partners, labels)
    return larger, other, np.where(is_larger, share, 1 - share).astype(np.float32)


def mix_(images: Tensor, weight: Tensor, box: Tensor) -> None:
    """Mix pairs of ``images`` [B, 3, S, S], normalised, where they lie.

    Args:
        weight: float32 [K], of each image of pair k in its own outside the box.
        box: int64 [K, 4], as ``Mixes`` has it: inside, each image shows the other.
    """
    pairs, side = len(weight), images.shape[-1]
    along = torch.arange(side, device=images.device)
    inside = (along >= box[:, None, :2].transpose(1, 2)) & (along < box[:, None, 2:].transpose(1, 2))  # [K, 2, S]
    is_in_box = inside[:, 1, :, None] & inside[:, 0, None, :]  # [K, S, S]
    own = torch.where(is_in_box, 0.0, weight[:, None, None])[:, None].to(images.dtype)  # [K, 1, S, S]
    first, second = images[0 : 2 * pairs : 2], images[1 : 2 * pairs : 2]
    of_first = torch.lerp(second, first, own)
    second.copy_(torch.lerp(first, second, own))
    first.copy_(of_first)
