"""How accuracy grows with a class's images: the classifier refitted on nested subsets, and counted on images that it has not seen.

Legend: N images, C classes, L levels (all of a class's images, a half, a quarter, ...), H held-out images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlift.advice.probe import Probe, folds_of, predicted

LEVELS = 5  # all, 1/2, 1/4, 1/8, 1/16
DRAWS = 5  # folds of the training split, or orders of its images where there is a validation split


@dataclass(frozen=True)
class Counts:
    """What was right at each level.

    Attributes:
        images: [C, L] of the class that the classifier was fitted on, at this level, on average over the draws; the full number first.
        right: [C, L] of ``held`` images.
        held: [C] held-out images, each seen once at each level.
        gained, lost: [C, L] of the held-out images, right at the full number and wrong at this level, and the other way round.
        apart: whether the held-out images are a validation split, of which the backbone has seen none either.
    """

    images: NDArray[np.float64]
    right: NDArray[np.int64]
    held: NDArray[np.int64]
    gained: NDArray[np.int64]
    lost: NDArray[np.int64]
    apart: bool


def fits(*, levels: int = LEVELS, draws: int = DRAWS) -> int:
    """How many classifiers are fitted."""
    return levels * draws


def measure(
    probe: Probe,
    features: Tensor,
    labels: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    seed: int,
    on_fit: Callable[[], None] = lambda: None,
) -> Counts:
    """Fit on subsets and count.

    In each draw every class passes all levels once, in an order of its own. So at each level of a class the others have, on average, the same
    images, and the difference between two levels is what its own images do. The smaller subset lies within the larger one.

    Args:
        features, labels: of the training images, [N, D] and int64 [N].
        held_out: features and labels of a validation split; without one a fifth of the training images at a time.
    """
    classes, given = probe.classes, labels.cpu().numpy()
    images = np.zeros((classes, LEVELS))
    right = np.zeros((LEVELS, 0), dtype=bool)
    of_class = np.zeros(0, dtype=np.int64)
    for draw, (pool, tests, own) in enumerate(_draws(features, labels, held_out, seed)):
        ranks, sizes = _ranks(given, pool, classes, seed, draw)
        columns = np.zeros((LEVELS, len(own)), dtype=bool)
        shift = np.random.default_rng([seed, 4, draw]).permuted(
            np.tile(np.arange(LEVELS), (classes, 1)), axis=1
        )  # [C, L]: the level of each class at each step
        of_level = np.stack([_images_at(sizes, level) for level in range(LEVELS)], axis=1)
        images += of_level / DRAWS
        for step in range(LEVELS):
            level = shift[:, step]
            taken = pool[ranks < of_level[np.arange(classes), level][given[pool]]]
            rows = torch.from_numpy(taken).to(features.device)
            weight = probe.fit(features[rows], labels[rows])
            is_right = predicted(weight, tests).cpu().numpy() == own
            columns[level[own], np.arange(len(own))] = is_right
            on_fit()
        right, of_class = np.concatenate([right, columns], axis=1), np.concatenate([of_class, own])

    def by_class(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.stack([np.bincount(of_class[row], minlength=classes) for row in mask], axis=1).astype(np.int64)

    held = np.bincount(of_class, minlength=classes).astype(np.int64)
    full = right[:1]
    return Counts(images, by_class(right), held, by_class(full & ~right), by_class(~full & right), held_out is not None)


def _draws(
    features: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor] | None, seed: int
) -> Iterator[tuple[NDArray[np.int64], Tensor, NDArray[np.int64]]]:
    """Rows to fit on, features of held-out images and their labels, for each draw."""
    if held_out is not None:
        for _ in range(DRAWS):
            yield np.arange(len(labels)), held_out[0], held_out[1].cpu().numpy()
        return
    fold = folds_of(labels.cpu().numpy(), DRAWS, seed)
    for draw in range(DRAWS):
        out = np.flatnonzero(fold == draw)
        rows = torch.from_numpy(out).to(features.device)
        yield np.flatnonzero(fold != draw), features[rows], labels[rows].cpu().numpy()


def _ranks(
    labels: NDArray[np.int64], pool: NDArray[np.int64], classes: int, seed: int, draw: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each row of the pool in a random order of its class, and the images of each class in the pool [C]."""
    order = np.random.default_rng([seed, 3, draw]).permutation(len(pool))
    by_class = order[np.argsort(labels[pool][order], kind="stable")]
    sizes = np.bincount(labels[pool], minlength=classes)
    ranks = np.empty(len(pool), dtype=np.int64)
    ranks[by_class] = np.arange(len(pool)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks, sizes.astype(np.int64)


def _images_at(sizes: NDArray[np.int64], level: int) -> NDArray[np.int64]:
    """Images of each class at a level, at least one of a class that has any."""
    return np.maximum(np.rint(sizes / 2**level).astype(np.int64), np.minimum(sizes, 1))
