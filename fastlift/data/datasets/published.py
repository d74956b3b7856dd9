"""The published sets that come as list files: found or fetched, checked against the known counts, and loaded as lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fastlift.data.datasets import inaturalist
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.laid_out import ONE_FOLDER_HIGHER, Move, found_elsewhere
from fastlift.data.datasets.list_files import is_json, load_lists, read_class_names
from fastlift.data.datasets.published_lists import come_by_itself, told_place
from fastlift.data.index.header_scan import Progress
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
    moves: tuple[Move, ...] = (ONE_FOLDER_HIGHER,)  # other layouts that are understood

    takes_lists = takes_class_names = True
    last_step = "index"

    def how_to_get(self) -> str:
        return f"\nHow to get {self.title}:\n{self.where}"

    def load(self, request: Request) -> DataSet:
        root = request.data_root
        if root is None:
            raise UserError(f"{self.title} needs --data-root, the folder of its images.{self.how_to_get()}")
        find = partial(self.find_list, root=root, cache=request.cache_dir, progress=request.progress)
        train_list = request.train_list or find("train_list")
        test_list = request.test_list or find("test_list")
        names_file = request.class_names or find("class_names", beside=train_list.parent)
        problems = Problems(self.title, self.how_to_get().strip())
        class_names = read_class_names(train_list, names_file)
        if len(class_names) != self.classes:
            problems.add(f"{names_file}: {len(class_names)} class names, {self.title} has {self.classes}")
            problems.raise_if_any()
        lists = {"train": train_list, "val": request.val_list, "test": test_list}
        data = load_lists(request, lists, class_names, problems, self._check, partial(self._elsewhere, root))
        if is_json(names_file):
            categories = inaturalist.parse_categories(read_text(names_file), str(names_file))
            data = replace(data, ranks=inaturalist.ranks_of(categories))
        used = ", ".join(map(told_place, (train_list, test_list, names_file)))
        return replace(data, notes=(*data.notes, f"lists of {self.title}: {used}"))

    def find_list(
        self,
        flag: str,
        root: Path | Url | None,
        cache: Path,
        progress: Progress | None = None,
        beside: Path | None = None,
    ) -> Path:
        """The user's own file in the data root, its ``splits`` or ``beside``; else the one that comes by itself.

        Args:
            flag: ``train_list``, ``test_list`` or ``class_names``.

        Raises:
            StoreError: it is nowhere, and could not be downloaded; or the store of the data root fails.
        """
        files = {"train_list": self.train_files, "test_list": self.test_files, "class_names": self.names_files}[flag]
        places = [] if root is None else [root, root / "splits", *([beside] if beside else [])]
        if (own := find_file(places, files)) is not None:
            return local_copy(own, cache)
        try:
            return come_by_itself(files, cache, progress)
        except StoreError as error:
            place = f"into {root or 'DATA_ROOT'}, or give it by --{flag.replace('_', '-')}"
            raise StoreError(f"{self.title}: {error} {place}") from None

    def _elsewhere(self, root: Path | Url, file: Path) -> Move | None:
        if not isinstance(root, Path) or is_json(file):
            return None
        return found_elsewhere(root, file, self.moves)

    def _check(self, split: str, listing: Listing, source: str, problems: Problems) -> None:
        """Compare a list with the numbers that the set is known to have, and look for images that are listed twice."""
        if doubles := [path for path, count in Counter(listing.paths).items() if count > 1]:
            problems.add(f"{source}: {len(doubles):,} images are listed more than once: {doubles[0]}")
        if split == "val":  # of the user's own
            return
        expected = (self.train,) if split == "train" else self.test
        if len(listing.paths) not in expected:
            wanted = " or ".join(f"{count:,}" for count in expected)
            other = {"train": self.test, "test": (self.train,)}[split]
            hint = f" (is it the list of {'test' if split == 'train' else 'training'} images?)"
            told = f"{source}: {len(listing.paths):,} lines, {self.title} has {wanted}"
            problems.add(told + hint * (len(listing.paths) in other))
        if split == "train":
            counts = np.bincount(listing.labels, minlength=self.classes)
            if (counts.max(), counts.min()) != (self.largest, self.smallest):
                problems.add(
                    f"{source}: largest and smallest class have {counts.max()} and {counts.min()} images, "
                    f"{self.title} has {self.largest} and {self.smallest}"
                )


def find_file(places: Iterable[Path | Url], files: tuple[str, ...]) -> Path | Url | None:
    """The first of ``files`` in one of the folders, plain or gzipped; None where there is none. Raises StoreError."""
    folders = dict.fromkeys(places)
    candidates = (folder / f"{file}{end}" for folder in folders for file in files for end in ("", ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
