"""Test and validation splits that are cut off from the training images: stratified, and the same again for the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

import numpy as np

from fastlift.data.index.index import ImageIndex
from fastlift.errors import UserError
from fastlift.settings import SEED, Acts, Between, Settings

TEST_SHARE = 0.2
MAY_LACK_TEST = ("folder", "list", "huggingface")  # data sets by name; hf://... too
_ONE_OF = 3  # a class of so many images gives one at least
_NAMED = 3  # classes that a message names


def _cuts(dataset: str, val_share: float, test_share: float | None) -> bool:
    return val_share > 0 or test_share is not None or dataset in MAY_LACK_TEST or dataset.startswith("hf://")


@dataclass(frozen=True)
class CutSettings(Settings):
    """What is cut off from the training images."""

    test_share: Annotated[float | None, Between(0, 1, "()")] = None
    """Share of each class's images that is cut off as the test split, for sets of your own without one (default: 0.2)."""
    val_share: Annotated[float, Between(0, 1, "[)")] = 0.0
    """Share of each class's training images that is cut off as the validation split, for sets without one."""
    split_seed: Annotated[int, SEED, Acts("what is cut off depends on it (--test-share, --val-share)", _cuts)] = 0
    """Seed of what is cut off, apart from --seed: runs with different seeds are tested with the same images."""

    def cut_test(self, name: str, splits: Mapping[str, ImageIndex]) -> tuple[dict[str, ImageIndex], str]:
        """The splits with a test split, and what is to be said of it: nothing where they have had one.

        Raises UserError where a share is asked for beside a test split, or where there are too few images to cut one off.
        """
        if "test" in splits:
            if self.test_share is not None:
                raise UserError(f"--test-share: {name} has a test split of its own: leave it out")
            return dict(splits), ""
        share = TEST_SHARE if self.test_share is None else self.test_share
        train, test = cut_off(splits["train"], share, self.split_seed, f"{name}/test")
        if not len(test):
            where = "" if train.root is None else f" in {train.root}"
            raise UserError(
                f"{name} has no test split{where}, and no class has two images, one of which could be cut off: give one"
            )
        whole = [train.class_names[k] for k in np.flatnonzero(test.class_counts() == 0)]
        note = (
            f"no test split is given: {100 * share:g} % of each class's images are cut off as one "
            f"(--test-share, --split-seed {self.split_seed})"
        )
        if whole:
            more = f" and {len(whole) - _NAMED:,} more" if len(whole) > _NAMED else ""
            note += f"; too small for that, and in training alone: {', '.join(whole[:_NAMED])}{more}"
        return {**splits, "train": train, "test": test}, note

    def cut_val(self, name: str, splits: Mapping[str, ImageIndex]) -> dict[str, ImageIndex]:
        """The splits with a validation split where one is asked for.

        Raises UserError where they have had one, or where there are too few images to cut one off.
        """
        if not self.val_share:
            return dict(splits)
        if "val" in splits:
            raise UserError(f"--val-share: {name} has a validation split of its own: leave it out")
        train, val = cut_off(splits["train"], self.val_share, self.split_seed, f"{name}/val")
        if not len(val):
            raise UserError(f"--val-share: no class of {name} has two training images, so none can be cut off")
        return {**splits, "train": train, "val": val}


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
    order = np.lexsort((path_hashes(index, seed), stay, labels))  # class by class, those that stay last
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    is_cut = np.zeros(len(index), dtype=bool)
    is_cut[order[np.arange(len(index)) - firsts[labels[order]] < taken[labels[order]]]] = True
    return index.take(np.flatnonzero(~is_cut), index.name), index.take(np.flatnonzero(is_cut), name)


def path_hashes(index: ImageIndex, seed: int, use: bytes = b"") -> np.ndarray:
    """A number for each sample that its path and the seed decide (for arrays, its place): uint64 [N].

    Args:
        use: keeps draws of another kind apart, at most 16 bytes.
    """
    key = seed.to_bytes(8, "little")
    named = (str(i) if index.root is None else index.file_name(i) for i in range(len(index)))
    digests = (
        blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key, person=use).digest() for name in named
    )
    return np.frombuffer(b"".join(digests), dtype="<u8")
