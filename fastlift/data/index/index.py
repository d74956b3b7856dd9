"""The index of one split: path, label, width and height of every sample as columns.

Built once from a list of (path, label), checked, cached; see ``header_scan.py`` for the header scan.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastlift.data.index.objects import ObjectImages
from fastlift.data.stores.url import Url

_ROWS_AT_A_TIME = 2**16


class PathTable:
    """Millions of relative paths as one byte string and offsets: a tenth of a list's memory, no objects to load."""

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data = data  # uint8, the UTF-8 paths one after another
        self.offsets = offsets  # int64 [N + 1]
        self._view = data.data

    @classmethod
    def from_strings(cls, paths: Iterable[str]) -> PathTable:
        """A table of these paths, as UTF-8; bytes that are none are kept."""
        data, lengths = bytearray(), array("q")
        for path in paths:
            encoded = path.encode("utf-8", "surrogateescape")
            data += encoded
            lengths.append(len(encoded))
        return cls.of_lengths(np.frombuffer(data, dtype=np.uint8), np.array(lengths, dtype=np.int64))

    @classmethod
    def of_lengths(cls, data: np.ndarray, lengths: np.ndarray) -> PathTable:
        """Of uint8 bytes, and the bytes of each path, int64 [N]."""
        return cls(data, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def joined(cls, tables: Sequence[PathTable]) -> PathTable:
        """The paths of several tables one after another."""
        data = np.concatenate([np.zeros(0, dtype=np.uint8), *(table.data for table in tables)])
        return cls.of_lengths(data, np.concatenate([np.zeros(0, np.int64), *(table.lengths for table in tables)]))

    @classmethod
    def checked(cls, data: np.ndarray, offsets: np.ndarray) -> PathTable:
        """A table from columns of a file, of the right dtypes; raises ValueError where they are not those of one."""
        if data.ndim != 1 or offsets.ndim != 1 or not len(offsets):
            raise ValueError("paths of another kind")
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("paths that are not one after another")
        return cls(data, offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each path: int64 [N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return bytes(self._view[self.offsets[row] : self.offsets[row + 1]]).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def take(self, indices: np.ndarray) -> PathTable:
        """The paths of these rows."""
        return self._parts(self.offsets[:-1][indices], self.lengths[indices])

    def folders(self) -> PathTable:
        """The name of the folder that each file lies in; empty where a path has none."""
        slashes = np.concatenate([[-1, -1], np.flatnonzero(self.data == ord("/"))])
        starts = self.offsets[:-1]
        last = np.searchsorted(slashes, self.offsets[1:]) - 1
        stops = np.maximum(slashes[last], starts)  # before the start is another path's
        begins = np.maximum(slashes[last - 1] + 1, starts)
        return self._parts(begins, np.maximum(stops - begins, 0))

    def equals(self, other: PathTable) -> bool:
        """Whether both hold the same paths in the same order."""
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)

    def _parts(self, starts: np.ndarray, lengths: np.ndarray) -> PathTable:
        """A table of pieces of the byte string, gathered some thousand at a time."""
        pieces = [np.zeros(0, dtype=np.uint8)]
        for first in range(0, len(starts), _ROWS_AT_A_TIME):
            begin, long = starts[first : first + _ROWS_AT_A_TIME], lengths[first : first + _ROWS_AT_A_TIME]
            ends = np.cumsum(long)
            pieces.append(self.data[np.arange(ends[-1]) + np.repeat(begin - (ends - long), long)])
        return PathTable.of_lengths(np.concatenate(pieces), lengths)


@dataclass(frozen=True)
class BadImage:
    """A sample whose file cannot be used, and the sample of its class that is shown instead (-1: none)."""

    index: int
    path: str
    reason: str
    replacement: int


@dataclass(frozen=True)
class ImageIndex:
    """One split of a data set.

    ``widths`` and ``heights`` are those of the stored image, as the decoder gives it (not rotated by EXIF).
    Files of ``root / paths[i]``, where ``root`` may be a place in a store; or, for sets that come as arrays (CIFAR),
    ``arrays`` and no root; or members of tar shards, where ``paths[i]`` is the shard and ``spans[i]`` the member's (offset,
    bytes).
    """

    name: str  # such as "imagenet_lt/train"
    root: Path | Url | None
    paths: PathTable
    labels: np.ndarray  # int64 [N]
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    class_names: tuple[str, ...]
    fingerprint: str  # of paths, labels, sizes and class names; the same on every machine
    arrays: np.ndarray | ObjectImages | None = None  # uint8 [N, H, W, 3], or what gives such one at a time
    spans: np.ndarray | None = None  # int64 [N, 2]
    shards: np.ndarray | None = None  # int32 [N], the number of each member's shard: the same for the same path
    bad: tuple[BadImage, ...] = ()  # found by the header scan and replaced (``bad_images="skip"``)
    cache: Path | None = None  # where what is learnt of its files may be kept for later runs

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C; classes without a sample count too."""
        return len(self.class_names)

    def class_counts(self) -> np.ndarray:
        """Samples of each class: int64 [C]."""
        return np.bincount(self.labels, minlength=self.num_classes).astype(np.int64)

    def file(self, i: int) -> Path:
        """Where sample ``i`` lies (the shard, for tar shards)."""
        return Path(self.path(i))

    def path(self, i: int) -> str:
        """The same as text: pathlib takes longer than the system call that opens a file."""
        if self.root is None:
            raise ValueError(f"{self.name} has no files, it comes as arrays")
        if isinstance(self.root, Url):
            return self.root.below(self.paths[i])
        return f"{self.root}{os.sep}{self.paths[i]}"

    def file_name(self, i: int) -> str:
        """A sample's path in the data root (for tar shards, the shard and the place in it)."""
        return self.paths[i] if self.spans is None else f"{self.paths[i]} at byte {self.spans[i, 0]}"

    def label_of(self, i: int) -> str:
        """A sample's name for messages."""
        return f"{self.name}[{i}]" if self.root is None else str(self.root / self.file_name(i))

    def take(self, rows: np.ndarray, name: str) -> ImageIndex:
        """The samples of these rows, int64, rising and each once, as a split of that name.

        A row whose file was replaced needs the row of the replacement beside it.
        """
        numbers = np.full(len(self), -1, dtype=np.int64)
        numbers[rows] = np.arange(len(rows))
        kept = (bad for bad in self.bad if numbers[bad.index] >= 0)
        bad = [replace(b, index=int(numbers[b.index]), replacement=int(numbers[b.replacement])) for b in kept]
        paths, labels, widths, heights = self.paths.take(rows), self.labels[rows], self.widths[rows], self.heights[rows]
        if self.arrays is None and self.spans is None:  # as of a list of these files
            hashed = fingerprint(paths, labels, widths, heights, self.class_names)
        else:
            content = self.fingerprint.encode() + np.ascontiguousarray(rows, dtype=np.int64).data
            hashed = hashlib.sha256(content).hexdigest()[: len(self.fingerprint)]
        return replace(
            self,
            name=name,
            paths=paths,
            labels=labels,
            widths=widths,
            heights=heights,
            fingerprint=hashed,
            arrays=None if self.arrays is None else self.arrays[rows],
            spans=None if self.spans is None else self.spans[rows],
            shards=None if self.shards is None else self.shards[rows],
            bad=tuple(bad),
        )

    def decoded_bytes(self) -> int:
        """Memory of all samples as uint8 RGB."""
        return int((self.widths.astype(np.int64) * self.heights).sum()) * 3


def fingerprint(
    paths: PathTable, labels: np.ndarray, widths: np.ndarray, heights: np.ndarray, class_names: Sequence[str]
) -> str:
    """Content hash of an index, independent of where the files lie."""
    digest = hashlib.sha256()
    for column in (paths.data, paths.offsets, labels, widths, heights):
        digest.update(np.ascontiguousarray(column).data)
        digest.update(b"|")
    digest.update("\n".join(class_names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def array_index(name: str, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ImageIndex:
    """The index of a set that comes as one array, uint8 [N, H, W, 3]."""
    n, height, width, _ = images.shape
    widths, heights = np.full(n, width, dtype=np.int32), np.full(n, height, dtype=np.int32)
    pixels = np.frombuffer(hashlib.sha256(np.ascontiguousarray(images).data).digest(), dtype=np.uint8)
    paths = PathTable(np.zeros(0, dtype=np.uint8), np.zeros(n + 1, dtype=np.int64))
    labels = labels.astype(np.int64)
    hashed = fingerprint(PathTable(pixels, np.zeros(1, dtype=np.int64)), labels, widths, heights, class_names)
    return ImageIndex(name, None, paths, labels, widths, heights, tuple(class_names), hashed, arrays=images)
