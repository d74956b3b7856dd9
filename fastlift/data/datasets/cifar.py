"""CIFAR-10-LT and CIFAR-100-LT at any ratio, drawn as the papers draw them, from torchvision's files or class folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.folder import list_split
from fastlift.data.datasets.layout import class_folder_names
from fastlift.data.datasets.long_tail import TailSettings, head_tail_counts
from fastlift.data.datasets.splits import finish, index_listings
from fastlift.data.index.index import array_index
from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import Problems
from fastlift.data.stores.client import StoreError
from fastlift.data.stores.download import Mirror, download
from fastlift.errors import UserError

_FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
_ARCHIVES = {10: "cifar-10-python.tar.gz", 100: "cifar-100-python.tar.gz"}
_NAME = re.compile(r"cifar(10|100)_ir(\d+)")
_RATIO_OF_GROUPS = 100  # many, medium and few of CIFAR-100-LT with any ratio are those of ratio 100


@dataclass(frozen=True)
class Cifar(Source):
    """CIFAR with so many classes, largest to smallest class ``ratio`` to 1. Goes by ``cifar100_ir20`` and the like."""

    classes: int
    ratio: int

    takes_urls = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"cifar{self.classes}_ir{self.ratio}"

    def named(self, name: str) -> Cifar | None:
        match = _NAME.fullmatch(name)
        return Cifar(int(match[1]), int(match[2])) if match else None

    def how_to_get(self) -> str:
        return (
            f"\nGet https://www.cs.toronto.edu/~kriz/{_ARCHIVES[self.classes]} and give the folder that holds it as "
            f"--data-root. Accepted there: {_ARCHIVES[self.classes]}; the unpacked {_FOLDERS[self.classes]}/; or class "
            f"folders train/CLASS/*.jpg and test/CLASS/*.jpg (or PNG) with all {self.classes} classes."
        )

    def counts(self, tail: TailSettings) -> np.ndarray:
        return long_tail_counts(self.classes, 50_000 // self.classes, self.ratio, tail.head_share)

    def load(self, request: Request) -> DataSet:
        if self.ratio < 1:
            raise UserError(f"{request.name}: the imbalance ratio must be at least 1")
        share = request.tail.head_share
        # A head of its own size is a head by the counts that it makes.
        groups = long_tail_counts(100, 500, _RATIO_OF_GROUPS) if self.classes == 100 and share is None else None
        root, problems = request.local_root, Problems(request.name)
        if root is not None and self._has_folders(root):
            names = class_folder_names(root / "train")
            return index_listings(request, self._listings(root, names, share, problems), tuple(names), problems, groups)
        train, test = self._torchvision_sets(root) if root is not None else self._downloaded(request)
        labels, test_labels = (np.array(split.targets, dtype=np.int64) for split in (train, test))
        kept = draw_long_tail(labels, self.ratio, share)
        images, test_images = np.ascontiguousarray(train.data[kept]), np.ascontiguousarray(test.data)
        arrays = {
            "train": array_index(f"{request.name}/train", images, labels[kept], train.classes),
            "test": array_index(f"{request.name}/test", test_images, test_labels, train.classes),
        }
        return finish(request, arrays, problems, groups)

    def _has_folders(self, root: Path) -> bool:
        """Whether it holds train/CLASS and test/CLASS for all classes."""
        splits = (root / "train", root / "test")
        return all(split.is_dir() and len(class_folder_names(split)) == self.classes for split in splits)

    def _listings(self, root: Path, names: list[str], share: float | None, problems: Problems) -> dict[str, Listing]:
        """Long-tailed training listing and test listing of class folders; raises UnusableData where images are missing."""
        train, test = (list_split(root, split, names, problems) for split in ("train", "test"))
        for split, listing, images in (("train", train, 50_000), ("test", test, 10_000)):
            counts, expected = np.bincount(listing.labels, minlength=self.classes), images // self.classes
            for label in np.flatnonzero(counts != expected):
                problems.add(f"{root / split / names[label]}: {counts[label]} images, expected {expected}")
        problems.raise_if_any()
        kept = draw_long_tail(train.labels, self.ratio, share)
        return {"train": Listing(train.paths.take(kept), train.labels[kept]), "test": test}

    def _downloaded(self, request: Request) -> list[Any]:
        """Both splits in the cache, downloaded where they are not there; raises StoreError where they cannot be had."""
        root, kind = request.cache_dir / "cifar", self._kind()
        archive = root / _ARCHIVES[self.classes]
        if not archive.is_file() and not (root / _FOLDERS[self.classes]).is_dir():
            try:
                download((Mirror(kind.url, f"md5:{kind.tgz_md5}"),), archive, request.progress)
            except StoreError as error:
                raise StoreError(f"{error}.{self.how_to_get()}") from None
        return self._torchvision_sets(root)

    def _torchvision_sets(self, root: Path) -> list[Any]:
        """Both splits by torchvision, which unpacks an archive and checks the files' hashes."""
        kind = self._kind()
        if root.name == _FOLDERS[self.classes]:
            root = root.parent
        unpack = not (root / _FOLDERS[self.classes]).is_dir() and (root / _ARCHIVES[self.classes]).is_file()
        try:
            return [kind(str(root), train=train, download=unpack) for train in (True, False)]
        except (OSError, RuntimeError) as error:
            raise UserError(f"CIFAR-{self.classes} is not usable in {root} ({error}).{self.how_to_get()}") from error

    def _kind(self) -> Any:
        from torchvision.datasets import CIFAR10, CIFAR100

        return {10: CIFAR10, 100: CIFAR100}[self.classes]


def long_tail_counts(num_classes: int, largest: int, ratio: float, head_share: float | None = None) -> np.ndarray:
    """n_i = int(largest * (1 / ratio) ** (i / (C - 1))), or with a head of its own size ``head_tail_counts``: int64 [C]."""
    if head_share is not None:
        return head_tail_counts(num_classes, largest, ratio, head_share)
    counts = [int(largest * (1.0 / ratio) ** (i / (num_classes - 1.0))) for i in range(num_classes)]
    return np.array(counts, dtype=np.int64)


def draw_long_tail(labels: np.ndarray, ratio: float, head_share: float | None = None) -> np.ndarray:
    """Which samples of the balanced training split stay: int64 indices, class after class.

    One ``RandomState(0)`` shuffles the samples of each class in order; the first n_i stay (``long_tail_counts``).
    """
    random = np.random.RandomState(0)  # the papers' programs draw from the legacy generator
    num_classes = int(labels.max()) + 1
    counts = long_tail_counts(num_classes, len(labels) // num_classes, ratio, head_share)
    kept = []
    for label in range(num_classes):
        indices = np.flatnonzero(labels == label)
        random.shuffle(indices)
        kept.append(indices[: counts[label]])
    return np.concatenate(kept)


CIFAR = tuple(Cifar(classes, ratio) for classes in (100, 10) for ratio in (100, 50, 10))
