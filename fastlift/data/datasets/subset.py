"""A training split cut to at most so many images of each class: drawn by a seed of its own, smaller ones within larger ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from fastlift.data.datasets.cutting import path_hashes
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.settings import SEED, Acts, Between, Settings


@dataclass(frozen=True)
class SubsetSettings(Settings):
    """How many of the training images are trained on."""

    max_per_class: Annotated[int | None, Between(1)] = None
    """Train on at most so many images of each class, drawn by --subset-seed (default: on all). Many, medium and few stay those of the whole training set."""
    subset_seed: Annotated[
        int,
        SEED,
        Acts("the draw of the images that are trained on (--max-per-class)", lambda max_per_class: max_per_class),
    ] = 0
    """Seed of which images these are, apart from --seed. With the same one, the images of a smaller number are among those of a larger one."""

    def build(self, data: DataSet) -> DataSet:
        """``data`` with the training split cut, and a note that says so; as it is where no class has more images.

        The classes' ``group_counts`` stay, so that many, medium and few are the same classes whatever is trained on.
        """
        if self.max_per_class is None or data.train.class_counts().max() <= self.max_per_class:
            return data
        train = at_most(data.train, self.max_per_class, self.subset_seed)
        note = (
            f"{len(train):,} of {len(data.train):,} training images are trained on, at most {self.max_per_class:,} of each "
            f"class (--max-per-class, --subset-seed {self.subset_seed}); many, medium and few are those of the whole set"
        )
        return replace(data, train=train, whole=data.train, notes=(*data.notes, note))


def at_most(index: ImageIndex, number: int, seed: int) -> ImageIndex:
    """At most ``number`` images of each class, in their order.

    They are those whose paths in the data root (for arrays, whose places) have the smallest keyed hashes: so a smaller number
    gives some of a larger one's, and images that come or go change few others. Unusable files, in whose place another of the
    class is shown, come last: one of them is among the images only where all good ones are.
    """
    labels, counts = index.labels, index.class_counts()
    is_bad = np.zeros(len(index), dtype=bool)
    is_bad[[bad.index for bad in index.bad]] = True
    order = np.lexsort((path_hashes(index, seed, b"subset"), is_bad, labels))
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[np.arange(len(index)) - firsts[labels[order]] < number]
    return index.take(np.sort(chosen), index.name)
