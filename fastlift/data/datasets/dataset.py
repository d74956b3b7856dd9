"""What a data set is, splits with the same classes; and what the catalogue asks of one: its name, its files, its loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.replacements import BadImages
from fastlift.data.index.tables import Columns
from fastlift.data.stores.url import Url
from fastlift.errors import UserError
from fastlift.system.html_table import html_table


@dataclass(frozen=True)
class Rank:
    """The classes grouped at a higher rank (iNaturalist: kingdom to genus)."""

    names: tuple[str, ...]  # of the G groups
    of_class: np.ndarray  # int64 [C], the group of each class


_ANY_COLUMNS = Columns()
_USUAL_TAIL = TailSettings()
SPLITS = {"train": "training", "val": "validation", "test": "test"}  # by name, and as messages call them


@dataclass(frozen=True)
class DataSet:
    """A training and a test split with the same classes, and a validation split where there is one."""

    name: str
    train: ImageIndex
    test: ImageIndex
    class_names: tuple[str, ...]
    group_counts: np.ndarray  # int64 [C]: the training counts that define many, medium and few
    ranks: dict[str, Rank] = field(default_factory=dict)  # by name, from the highest to the lowest
    val: ImageIndex | None = None  # given, or cut off from the training split
    whole: ImageIndex | None = None  # the training split, where ``train`` is at most so many of each class
    cut: tuple[str, ...] = ()  # splits that were cut off from the training images
    settings: dict[str, Any] | None = None  # which load it again; None for one that came from Python
    notes: tuple[str, ...] = ()  # what was chosen for the user, to be said once: which lists, which folders

    @property
    def splits(self) -> dict[str, ImageIndex]:
        """The splits that there are, by name: train, val, test."""
        val = {} if self.val is None else {"val": self.val}
        return {"train": self.train, **val, "test": self.test}

    def changed(self, change: Callable[[ImageIndex], ImageIndex]) -> DataSet:
        """The set with each split as ``change`` makes it."""
        val = None if self.val is None else change(self.val)
        return replace(self, train=change(self.train), val=val, test=change(self.test))

    def one_class(self) -> str:
        """Why nothing can be trained on it: it has one class. Empty where it has more."""
        if len(self.class_names) > 1:
            return ""
        root = "" if self.train.root is None else f" in {self.train.root}"
        return (
            f"{self.name} has one class{root} ({self.class_names[0]}), so there is nothing to tell apart: each class needs a "
            "folder, or a label, of its own"
        )

    def __repr__(self) -> str:
        return f"DataSet({self.name}: {self.told_images()}, {len(self.class_names):,} classes)"

    def _repr_html_(self) -> str:
        """The splits as a table, for notebooks."""
        rows = []
        for name, index in self.splits.items():
            counts = index.class_counts()
            rows.append((SPLITS[name], len(index), int((counts > 0).sum()), int(counts.max()), int(counts.min())))
        headings = ("split", "images", "classes", "largest class", "smallest class")
        return html_table(f"{self.name}: {len(self.class_names):,} classes", headings, rows)

    def told_images(self) -> str:
        """Such as ``1,200 training, 100 validation and 300 test images``."""
        return told_images({split: len(index) for split, index in self.splits.items()})


def told_images(numbers: Mapping[str, int]) -> str:
    """How many images each split has, in words."""
    *first, last = (f"{count:,} {SPLITS[split]}" for split, count in numbers.items())
    return f"{', '.join(first)} and {last} images"


@dataclass(frozen=True)
class Request:
    """What the user gave, with ``~`` expanded, lists of stores fetched, and the defaults filled in."""

    name: str
    cache_dir: Path
    bad_images: BadImages
    rescan: bool  # look at all files again instead of trusting the cached sizes
    progress: Progress | None
    cut: CutSettings
    tail: TailSettings = _USUAL_TAIL
    columns: Columns = _ANY_COLUMNS  # of tables
    data_root: Path | Url | None = None
    train_list: Path | None = None
    val_list: Path | None = None
    test_list: Path | None = None
    class_names: Path | None = None
    # Split -> its shards, where the set takes such in place of lists.
    patterns: dict[str, str] = field(default_factory=dict)

    @property
    def local_root(self) -> Path | None:
        """The data root of a set that takes none in a store."""
        assert not isinstance(self.data_root, Url)
        return self.data_root


class Source(ABC):
    """A data set by name. A subclass loads it; its file makes an instance, which has a line in the catalogue."""

    name: str
    takes_lists = False  # --train-list, --val-list and --test-list
    takes_class_names = False  # --class-names
    takes_urls = True  # a data root in a store
    lists_are_patterns = False  # they name shards
    last_step = "files found or downloaded, index"  # of ``fastlift data prepare``

    def named(self, name: str) -> Source | None:
        """The set of this name; None where it is none of this kind."""
        return self if name == self.name else None

    def how_to_get(self) -> str:
        """A hint that follows a message about a missing data root; empty where there is none."""
        return ""

    def counts(self, tail: TailSettings) -> np.ndarray | None:
        """Training images of each class that a set has whose tail is chosen: int64 [C]; None for sets that are as they are."""
        return None

    @abstractmethod
    def load(self, request: Request) -> DataSet:
        """The splits, checked; raises UserError where something is missing, or for problems in lists and images."""


def no_data_set(given: object) -> UserError:
    """The error for what is given in place of a ``DataSet``."""
    return UserError(
        f"expected the name of a data set, or one of fastlift.data (from_folder, from_dataset ...), not {type(given).__name__}"
    )
