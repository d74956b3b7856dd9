"""A validation split that is cut off from the training split: stratified, and the same again for the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated

import numpy as np

from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.errors import UserError
from fastlift.settings import SEED, Acts, Between, Settings

_ONE_OF = 3  # a class of so many images gives one at least


@dataclass(frozen=True)
class CutSettings(Settings):
    """What is cut off from the training images."""

    val_share: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of each class's training images that is cut off as the validation split, for sets without one."""
    split_seed: Annotated[
        int, SEED, Acts("what is cut off depends on it (--val-share)", lambda val_share: val_share > 0)
    ] = 0
    """Seed of what is cut off, apart from --seed: runs with different seeds are tested with the same images."""

    def build(self, data: DataSet) -> DataSet:
        """The set with a validation split; its groups (many, medium, few) stay those of all training images.

        Raises UserError where it has a validation split already, or too few images to cut one off.
        """
        if not self.val_share:
            return data
        if data.val is not None:
            raise UserError(f"--val-share: {data.name} has a validation split of its own: leave it out")
        train, val = cut_off(data.train, self.val_share, self.split_seed, f"{data.name}/val")
        if not len(val):
            raise UserError(f"--val-share: no class of {data.name} has two training images, so none can be cut off")
        return replace(data, train=train, val=val)


def cut_off(index: ImageIndex, share: float, seed: int, name: str) -> tuple[ImageIndex, ImageIndex]:
    """What stays of a split, and what is cut off as the split ``name``.

    Of a class of n images round(share n) are cut off, at least one of three or more, and never the last one. They are those
    whose paths in the data root have the smallest keyed hashes, so that images that come or go later move few others from
    one side to the other. An unusable file and the image that is shown in its place stay.
    """
    labels, counts = index.labels, index.class_counts()
    stay = np.zeros(len(index), dtype=bool)
    stay[[row for bad in index.bad for row in (bad.index, bad.replacement)]] = True
    free = np.bincount(labels[~stay], minlength=index.num_classes)
    wanted = np.minimum(np.maximum(np.rint(share * counts), counts >= _ONE_OF), counts - 1)
    taken = np.minimum(wanted, free).astype(np.int64)
    order = np.lexsort((_hashes(index, seed), stay, labels))  # class by class, those that stay last
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    is_cut = np.zeros(len(index), dtype=bool)
    is_cut[order[np.arange(len(index)) - firsts[labels[order]] < taken[labels[order]]]] = True
    return index.take(np.flatnonzero(~is_cut), index.name), index.take(np.flatnonzero(is_cut), name)


def _hashes(index: ImageIndex, seed: int) -> np.ndarray:
    """A number for each sample that its path and the seed decide (for arrays, its place): uint64 [N]."""
    key = seed.to_bytes(8, "little")
    named = (str(i) if index.root is None else index.file_name(i) for i in range(len(index)))
    digests = (blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key).digest() for name in named)
    return np.frombuffer(b"".join(digests), dtype="<u8")
