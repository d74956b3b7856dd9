"""Which classes are taken for which, from the answers to each image: pairs, an order that puts like beside like, and groups.

Legend: C classes, P pairs of classes with a mistake between them. Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MOST_ORDERED = 2000  # classes; a matrix of likenesses of them has 32 MB
_BEST_ORDER = 400  # up to so many classes the leaves of the tree are turned for the best order, which takes C^2 log C
GROUP_SIZE = 12  # classes: what a reader takes in at a glance
_GROUP_HEIGHT = 0.95  # of 1, where nothing connects two classes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Confusions:
    """The mistakes of one evaluation.

    Attributes:
        images: [C] tested images of each class, those without finite logits too.
        right: [C].
        label, predicted, count: [P], the most frequent pairs first, ties in the order of the classes.
    """

    images: Ints
    right: Ints
    label: Ints
    predicted: Ints
    count: Ints

    @classmethod
    def of(cls, labels: NDArray[np.int32], predicted: NDArray[np.int32], classes: int) -> Confusions:
        """From labels and predicted classes of images, [n] each; -1 where nothing was predicted."""
        images = np.bincount(labels, minlength=classes).astype(np.int64)
        right = np.bincount(labels[predicted == labels], minlength=classes).astype(np.int64)
        wrong = (predicted != labels) & (predicted >= 0)
        pairs, count = np.unique(labels[wrong].astype(np.int64) * classes + predicted[wrong], return_counts=True)
        order = np.argsort(-count, kind="stable")
        return cls(images, right, pairs[order] // classes, pairs[order] % classes, count[order].astype(np.int64))

    @property
    def classes(self) -> int:
        """C."""
        return len(self.images)

    @cached_property
    def share(self) -> NDArray[np.float64]:
        """[P] of the images of the label's class."""
        return self.count / self.images[self.label]

    def among(self, group: Ints) -> Ints:
        """How many images of each class of a group, [G], were taken for another class of it."""
        inside = np.isin(self.label, group) & np.isin(self.predicted, group)
        return np.bincount(self.label[inside], self.count[inside], self.classes).astype(np.int64)[group]

    def matrix(self) -> Ints:
        """[C, C]: row = label, column = prediction, the right ones too."""
        whole = np.diag(self.right)
        whole[self.label, self.predicted] = self.count
        return whole

    def binned(self, order: Ints, bins: int) -> NDArray[np.float64]:
        """Mistakes alone, of neighbours in an order of the classes together: [b, b] share of the row's images, b <= ``bins``."""
        size = min(bins, len(order))
        bin_of = np.empty(len(order), dtype=np.int64)
        bin_of[order] = np.arange(len(order)) * size // len(order)
        sums = np.zeros((size, size))
        np.add.at(sums, (bin_of[self.label], bin_of[self.predicted]), self.count)
        images = np.bincount(bin_of, weights=self.images, minlength=size)
        return sums / np.maximum(images, 1)[:, None]


@dataclass(frozen=True)
class Likeness:
    """An order of the classes in which those that are taken for each other stand together, and the groups among them.

    Attributes:
        order: [C] class numbers.
        groups: classes of each group of two or more, the group with the most mistakes inside first.
    """

    order: Ints
    groups: tuple[Ints, ...]


def likeness(confusions: Confusions) -> Likeness | None:
    """Average-linkage clustering of classes by what they are taken for; None of very many classes, or without a mistake.

    Two classes are alike as far as the cosine of their rows of shares (of the images of a class, by what they were taken for,
    rows and columns together) is near 1.
    """
    if not 2 <= confusions.classes <= MOST_ORDERED or not len(confusions.count):
        return None
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = confusions.matrix() / np.maximum(confusions.images, 1)[:, None]
    both = shares + shares.T
    norms = np.linalg.norm(both, axis=1, keepdims=True)
    rows = np.divide(both, norms, out=np.zeros_like(both), where=norms > 0)
    distance = np.clip(1.0 - rows @ rows.T, 0.0, 1.0)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average", confusions.classes <= _BEST_ORDER)
    groups = [group for group in _small_branches(tree) if len(group) > 1]
    mistakes = [confusions.among(group).sum() for group in groups]
    order = [at for at in np.argsort(-np.array(mistakes), kind="stable").tolist() if mistakes[at]]
    return Likeness(leaves_list(tree).astype(np.int64), tuple(groups[at] for at in order))


def _small_branches(tree: NDArray[np.float64]) -> list[Ints]:
    """The largest branches of a tree (rows of two parts, height, leaves) that are neither too large nor too unlike."""
    leaves = len(tree) + 1
    members = {leaf: [leaf] for leaf in range(leaves)}
    for node, (one, other, height, size) in enumerate(tree.tolist(), start=leaves):
        if size <= GROUP_SIZE and height <= _GROUP_HEIGHT:  # then its parts are such branches too
            members[node] = members.pop(int(one)) + members.pop(int(other))
    return [np.array(sorted(group), dtype=np.int64) for group in members.values()]
