"""The index of one split: path, label, width and height of every sample as columns.

Built once from a list of (path, label), checked, cached; see ``scan.py`` for the header scan.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np


class PathTable(Sequence[str]):
    """Half a million relative paths as one byte string and offsets: a tenth of a list's memory, no objects to load."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data = data  # uint8, the UTF-8 paths one after another
        self.offsets = offsets  # int64 [N + 1]
        self._view = data.data

    @classmethod
    def from_strings(cls, paths: Iterable[str]) -> "PathTable":
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(path) for path in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        if item < 0:
            item += len(self)
        if not 0 <= item < len(self):
            raise IndexError(item)
        return bytes(self._view[self.offsets[item] : self.offsets[item + 1]]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, indices: np.ndarray) -> "PathTable":
        return PathTable.from_strings(self[int(i)] for i in indices)


@dataclass(frozen=True)
class BadImage:
    """A sample whose file cannot be used, and the sample of its class that stands in for it (-1: none)."""

    index: int
    path: str
    reason: str
    replacement: int


@dataclass(frozen=True)
class ImageIndex:
    """One split of a data set.

    ``widths`` and ``heights`` are those of the stored image, as the decoder gives it (not rotated by EXIF).
    Files of ``root / paths[i]``; or, for sets that come as arrays (CIFAR), ``arrays`` and no root; or members of tar
    shards, where ``paths[i]`` is the shard and ``spans[i]`` the member's (offset, bytes).
    """

    name: str  # such as "imagenet_lt/train"
    root: Path | None
    paths: PathTable
    labels: np.ndarray  # int64 [N]
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    fingerprint: str  # of paths, labels, sizes and class names; the same on every machine
    arrays: np.ndarray | None = None  # uint8 [N, H, W, 3]
    spans: np.ndarray | None = None  # int64 [N, 2]
    bad: tuple[BadImage, ...] = ()  # found by the header scan and replaced (``bad_images="skip"``)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def class_counts(self) -> np.ndarray:
        """Samples of each class: int64 [C]."""
        return np.bincount(self.labels, minlength=self.num_classes).astype(np.int64)

    def file(self, i: int) -> Path:
        """Where sample ``i`` lies (the shard, for tar shards)."""
        if self.root is None:
            raise ValueError(f"{self.name} has no files, it comes as arrays")
        return self.root / self.paths[i]

    def file_name(self, i: int) -> str:
        """A sample's path in the data root (for tar shards, the shard and the place in it)."""
        return self.paths[i] if self.spans is None else f"{self.paths[i]} at byte {self.spans[i, 0]}"

    def label_of(self, i: int) -> str:
        """A sample's name for messages."""
        if self.arrays is not None:
            return f"{self.name}[{i}]"
        if self.spans is not None:
            return f"{self.file(i)} at byte {self.spans[i, 0]}"
        return str(self.file(i))

    def decoded_bytes(self) -> int:
        """Memory of all samples as uint8 RGB."""
        return int((self.widths.astype(np.int64) * self.heights).sum()) * 3


def fingerprint(
    paths: PathTable, labels: np.ndarray, widths: np.ndarray, heights: np.ndarray, class_names: Sequence[str]
) -> str:
    """Content hash of an index, independent of where the files lie."""
    digest = hashlib.sha256()
    for column in (paths.data, paths.offsets, labels, widths, heights):
        digest.update(np.ascontiguousarray(column).tobytes())
        digest.update(b"|")
    digest.update("\n".join(class_names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def array_index(name: str, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ImageIndex:
    """The index of a set that comes as one array, uint8 [N, H, W, 3]."""
    n, height, width, _ = images.shape
    widths, heights = np.full(n, width, dtype=np.int32), np.full(n, height, dtype=np.int32)
    pixels = np.frombuffer(hashlib.sha256(np.ascontiguousarray(images).tobytes()).digest(), dtype=np.uint8)
    paths = PathTable(np.zeros(0, dtype=np.uint8), np.zeros(n + 1, dtype=np.int64))
    labels = labels.astype(np.int64)
    hashed = fingerprint(PathTable(pixels, np.zeros(1, dtype=np.int64)), labels, widths, heights, class_names)
    return ImageIndex(name, None, paths, labels, widths, heights, tuple(class_names), hashed, arrays=images)
