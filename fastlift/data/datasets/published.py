"""The published sets that come as list files: found, checked against the known counts, and loaded as lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastlift.data.datasets import inaturalist
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.list_files import is_json, load_lists, read_class_names
from fastlift.data.index.lines import read_text
from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import Problems
from fastlift.data.stores.client import StoreError
from fastlift.data.stores.url import Url, local_copy
from fastlift.errors import UserError

OLTR = "https://github.com/zhmiao/OpenLongTailRecognition-OLTR"  # where the lists of ImageNet-LT and Places-LT are


@dataclass(frozen=True)
class Published(Source):
    """What is known of a published data set. File names may have ``.gz`` behind them on disk."""

    name: str
    title: str
    train_files: tuple[str, ...]  # any of these
    test_files: tuple[str, ...]
    names_files: tuple[str, ...]
    classes: int
    train: int  # lines
    test: tuple[int, ...]  # lines of the test list, and of the validation list where that is another
    largest: int  # training images of a class
    smallest: int
    image_folders: tuple[str, ...]  # under the data root
    where: str  # to get it
    known_names: Callable[[], tuple[str, ...]] | None = None  # of the classes, where there is no file of them

    takes_lists = takes_class_names = True
    last_step = "index"

    def how_to_get(self) -> str:
        return f"\nHow to get {self.title}:\n{self.where}"

    def load(self, request: Request) -> DataSet:
        root = request.data_root
        if root is None:
            raise UserError(f"{self.title} needs --data-root, the folder of its images.{self.how_to_get()}")
        cache = request.cache_dir
        train_list = request.train_list or local_copy(self.find_file(root, self.train_files), cache)
        test_list = request.test_list or local_copy(self.find_file(root, self.test_files), cache)
        names_file = request.class_names or self._find_names(root, train_list, cache)
        problems = Problems(self.title, self.how_to_get().strip())
        if names_file is None:
            assert self.known_names is not None
            class_names = self.known_names()
        else:
            class_names = read_class_names(train_list, names_file)
        if len(class_names) != self.classes:
            problems.add(f"{names_file}: {len(class_names)} class names, {self.title} has {self.classes}")
            problems.raise_if_any()
        lists = {"train": train_list, "val": request.val_list, "test": test_list}
        data = load_lists(request, lists, class_names, problems, self._check_counts)
        if names_file is not None and is_json(names_file):
            categories = inaturalist.parse_categories(read_text(names_file), str(names_file))
            data = replace(data, ranks=inaturalist.ranks_of(categories))
        return data

    def find_file(self, root: Path | Url, files: tuple[str, ...], beside: Path | None = None) -> Path | Url:
        """The first of ``files`` in the data root, its ``splits``, or ``beside``, plain or gzipped; UserError where none is."""
        places: dict[Path | Url, None] = dict.fromkeys([root, root / "splits", beside or root])
        for candidate in (folder / f"{file}{end}" for folder in places for file in files for end in ("", ".gz")):
            if candidate.is_file():
                return candidate
        looked = " and ".join(str(folder) for folder in places)
        raise UserError(f"{' or '.join(files)} (or with .gz) is not in {looked}.{self.how_to_get()}")

    def _find_names(self, root: Path | Url, train_list: Path, cache: Path) -> Path | None:
        """The class-name file; None where there is none and the names are known; raises StoreError."""
        try:
            return local_copy(self.find_file(root, self.names_files, beside=train_list.parent), cache)
        except StoreError:  # there may be one
            raise
        except UserError:
            if self.known_names is None:
                raise
            return None

    def _check_counts(self, split: str, listing: Listing, source: str, problems: Problems) -> None:
        """Compare a list with the numbers that the set is known to have."""
        if split == "val":  # of the user's own
            return
        expected = (self.train,) if split == "train" else self.test
        if len(listing.paths) not in expected:
            wanted = " or ".join(f"{count:,}" for count in expected)
            problems.add(f"{source}: {len(listing.paths):,} lines, {self.title} has {wanted}")
        if split == "train":
            counts = np.bincount(listing.labels, minlength=self.classes)
            if (counts.max(), counts.min()) != (self.largest, self.smallest):
                problems.add(
                    f"{source}: largest and smallest class have {counts.max()} and {counts.min()} images, "
                    f"{self.title} has {self.largest} and {self.smallest}"
                )
