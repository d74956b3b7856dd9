"""Images that two splits share, though not byte for byte: found by the nearest neighbours of two descriptions of each image.

One is the backbone's feature, the other a copy of 8 x 8 pixels of what the model sees. Each has its own threshold, from how near
the images of the training split lie to each other.

Legend: M queries, N keys, D numbers a description; all descriptions are L2-normed, similarity is their product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

COPY_SIDE = 8
COPY_WIDTH = 3 * COPY_SIDE**2
EXPECTED_FALSE = 0.1  # pairs in a whole split, by the tail below
_TAIL = 0.05  # of the neighbours, the nearest: what the tail is fitted on
_LEAST_FOR_TAIL = 100  # images; of fewer no tail can be told
_SAME = 1 - 1e-5  # from here on two descriptions are of the same image: such pairs say nothing about different ones
_BLOCK_BYTES = 32 * 2**20  # of the products at a time


def small_copy(images: Tensor) -> Tensor:
    """What is left of images [B, 3, S, S] at 8 x 8 pixels, each channel without its mean, L2-normed: fp32 [B, 192].

    Light and contrast fall out of it, and so does what another JPEG quality or size of the file changes.
    """
    small = F.adaptive_avg_pool2d(images.float(), COPY_SIDE).flatten(2)
    return F.normalize((small - small.mean(dim=2, keepdim=True)).flatten(1), dim=1)


def mirrored(copies: Tensor) -> Tensor:
    """The small copies [B, 192] of the images seen in a mirror."""
    return copies.unflatten(1, (3, COPY_SIDE, COPY_SIDE)).flip(3).flatten(1)


def nearest(queries: Tensor, keys: Tensor, *, same: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Similarity [M] of each query to its nearest key, and which that is [M]; the first one where several are as near.

    Products are made block by block, so memory does not grow with M x N.

    Args:
        queries, keys: [M, D] and [N, D], fp32, N > 0 (N > 1 with ``same``).
        same: they are the same images, and none is its own neighbour.
    """
    best = torch.full((len(queries),), -math.inf)
    where = torch.zeros(len(queries), dtype=torch.int64)
    side = max(1, math.isqrt(_BLOCK_BYTES // 4))
    for start in range(0, len(queries), side):
        rows = queries[start : start + side]
        for first in range(0, len(keys), side):
            product = rows @ keys[first : first + side].T
            if same and start == first:
                product.fill_diagonal_(-math.inf)
            value, at = product.max(dim=1)
            is_nearer = value > best[start : start + side]
            best[start : start + side][is_nearer] = value[is_nearer]
            where[start : start + side][is_nearer] = at[is_nearer] + first
    return best.numpy(), where.numpy()


def log_distance(similarity: NDArray[np.floating]) -> NDArray[np.float64]:
    """log |a - b| of L2-normed a and b with that product; -14 at least, where rounding leaves nothing to tell."""
    return np.log(np.sqrt(np.maximum(2 - 2 * similarity.astype(np.float64), 1e-12)))


@dataclass(frozen=True)
class Threshold:
    """From which similarity on two images are taken for one.

    Attributes:
        similarity: the least of a pair; None where the training images are too few to tell.
        expected_false: pairs of different images that would pass in the split that is searched, by the fitted tail.
        among_training: training images that have a neighbour as near among the others: copies in the training split itself, or
            how wrong the tail is.
        training: images that it was fitted on.
    """

    similarity: float | None
    expected_false: float
    among_training: int
    training: int


def threshold(neighbours: NDArray[np.float32], searched: int) -> Threshold:
    """From the similarity [N] of each training image to its nearest other one, for a split of ``searched`` images.

    Different images are as near as x = log(distance) says: below its 5 % quantile q, P(x < q - t) = 0.05 exp(-t / b), where b comes
    from the median of that tail, so that copies in the training split, as long as they are few, do not move it. The threshold is where 0.1 false pairs are
    expected in the whole split.
    """
    count = len(neighbours)
    if count < _LEAST_FOR_TAIL or searched < 1:
        return Threshold(None, 0.0, 0, count)
    distances = log_distance(neighbours[neighbours < _SAME])
    if len(distances) < _LEAST_FOR_TAIL:
        return Threshold(None, 0.0, 0, count)
    edge = float(np.quantile(distances, _TAIL))
    scale = float(np.median(edge - distances[distances <= edge])) / math.log(2)
    depth = scale * max(0.0, math.log(_TAIL * searched / EXPECTED_FALSE))
    similarity = 1 - math.exp(2 * (edge - depth)) / 2
    return Threshold(similarity, min(EXPECTED_FALSE, _TAIL * searched), int((neighbours >= similarity).sum()), count)
