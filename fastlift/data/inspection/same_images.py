"""Images that two splits, or two classes, both hold: found by their content, however their files are called.

Images are compared in four steps, each of those alone that were alike in the one before: width and height, which the index has;
bytes of the file; a digest of some KiB from its middle; a digest of the whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from fastlift.data.datasets.dataset import SPLITS
from fastlift.data.index.doubles import rows_in_both
from fastlift.data.index.header_scan import Progress
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.objects import ObjectImages
from fastlift.data.loading.reading import DecodeError, open_file
from fastlift.data.stores.url import Url
from fastlift.system.machine import cpus

_PIECE_BYTES = 4096
_DIGEST_BYTES = 16
_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))


@dataclass(frozen=True)
class _Rows:
    """Rows of the splits, one after another."""

    indices: tuple[ImageIndex, ...]
    splits: np.ndarray  # int64 [N], the place in ``indices``
    rows: np.ndarray  # int64 [N], the row there
    labels: np.ndarray  # int64 [N]
    contents: np.ndarray  # [N, K], equal for rows that are alike as far as is known

    def alike(self) -> _Rows:
        """Those that are alike to one of another split or class."""
        group = np.unique(self.contents, axis=0, return_inverse=True)[1].reshape(-1)
        of = self.labels * len(self.indices) + self.splits
        lowest, highest = np.full(len(group), np.iinfo(np.int64).max), np.full(len(group), -1)
        np.minimum.at(lowest, group, of)
        np.maximum.at(highest, group, of)
        return self._kept(lowest[group] < highest[group])

    def by(self, contents: Callable[[ImageIndex, int], bytes], progress: Callable[[int, int], None]) -> _Rows:
        """The rows by bytes that are known of each, as many for all; those of which none are known are left out."""
        found = np.zeros((len(self.rows), _DIGEST_BYTES), dtype=np.uint8)
        good = np.ones(len(self.rows), dtype=bool)

        def one(k: int) -> None:
            try:
                data = contents(self.indices[self.splits[k]], int(self.rows[k]))
            except DecodeError:
                good[k] = False
            else:
                found[k] = np.frombuffer(data, dtype=np.uint8)

        with ThreadPoolExecutor(cpus()) as pool:
            for done, _ in enumerate(pool.map(one, range(len(self.rows))), start=1):
                if done % 1000 == 0 or done == len(self.rows):
                    progress(done, len(self.rows))
        contents_now = np.concatenate([self.contents, found.view(np.int64)], axis=1)
        return _Rows(self.indices, self.splits, self.rows, self.labels, contents_now)._kept(good)

    def name(self, k: int) -> str:
        """Which image it is, for messages."""
        index, row = self.indices[self.splits[k]], int(self.rows[k])
        return index.label_of(row) if index.root is None else index.file_name(row)

    def _kept(self, mask: np.ndarray) -> _Rows:
        columns = (self.splits, self.rows, self.labels, self.contents)
        return _Rows(self.indices, *(column[mask] for column in columns))


def told_same_images(splits: Mapping[str, ImageIndex], progress: Progress | None = None) -> list[str]:
    """A sentence for each two splits that share images, and one for images that are in several classes; empty where none are.

    Images in a store are not compared, nor those that a Python object gives without digests; nor are images of one path in two
    splits told here (``note_shared`` does).
    """
    found = _of_one_content(splits, progress)
    return _sentences(found, tuple(splits))


def pairs_of_one_content(
    train: ImageIndex, other: ImageIndex, progress: Progress | None = None
) -> list[tuple[int, int]]:
    """(row of ``train``, row of ``other``) of images with the same content or the same path, rising in the latter, each of it once.

    Images in a store are compared by their paths alone, and so are those that a Python object gives without digests.
    """
    found = _of_one_content({"train": train, "other": other}, progress)
    first: dict[tuple[int, ...], int] = {}
    pairs: dict[int, int] = {}
    for k in np.lexsort((found.rows, found.splits)).tolist():  # all of the training split first
        content = tuple(found.contents[k].tolist())
        if found.splits[k] == 0:
            first.setdefault(content, int(found.rows[k]))
        elif content in first:
            pairs[int(found.rows[k])] = first[content]
    if train.arrays is None and train.spans is None and other.arrays is None and other.spans is None:
        pairs |= {int(there): int(row) for row, there in rows_in_both(train.paths, other.paths)}
    return sorted(((row, there) for there, row in pairs.items()), key=lambda pair: pair[1])


def _of_one_content(splits: Mapping[str, ImageIndex], progress: Progress | None) -> _Rows:
    """The rows that have the content of another split's or class's."""

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(what, done, total) if progress else None

    found = _by_size(splits).alike()
    found = found.by(_piece, told("compare")).alike()
    return found.by(_whole, told("compare contents")).alike()


def _by_size(splits: Mapping[str, ImageIndex]) -> _Rows:
    """The rows that can be compared, by width, height and bytes; with bytes asked for of those alone that are alike without."""
    columns = []
    for number, (split, index) in enumerate(splits.items()):
        is_there = np.full(len(index), not isinstance(index.root, Url))
        if isinstance(index.arrays, ObjectImages):
            is_there[:] = index.arrays.digests is not None
        is_there[[bad.index for bad in index.bad]] = False  # they show another image of the split
        if split != "train" and index.arrays is None and index.spans is None:
            is_there[[row for _, row in rows_in_both(splits["train"].paths, index.paths)]] = False
        rows = np.flatnonzero(is_there)
        sizes = np.stack([index.widths[rows], index.heights[rows]], axis=1).astype(np.int64)
        columns.append((np.full(len(rows), number), rows, index.labels[rows], sizes))
    joined = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    found = _Rows(tuple(splits.values()), *joined).alike()
    of_files = [_bytes(found.indices[split], int(row)) for split, row in zip(found.splits, found.rows, strict=True)]
    contents = np.concatenate([found.contents, np.array(of_files, dtype=np.int64).reshape(-1, 1)], axis=1)
    return _Rows(found.indices, found.splits, found.rows, found.labels, contents)


def _bytes(index: ImageIndex, row: int) -> int:
    """Of the encoded image; 0 where that is no file, or is gone."""
    if index.spans is not None:
        return int(index.spans[row, 1])
    if index.arrays is None:
        with suppress(OSError):
            return os.stat(index.path(row)).st_size
    return 0


def _piece(index: ImageIndex, row: int) -> bytes:
    """A digest of the middle of a file; of other images that of the whole."""
    if index.arrays is not None:
        return _whole(index, row)
    with open_file(index, row) as file:
        offset, count = file.place(file.condition())
        piece = memoryview(bytearray(min(count, _PIECE_BYTES)))
        file.read_into(offset + (count - len(piece)) // 2, piece)
    return _digest(piece)


def _whole(index: ImageIndex, row: int) -> bytes:
    if isinstance(index.arrays, ObjectImages):
        assert index.arrays.digests is not None
        return index.arrays.digests[row].tobytes()
    if index.arrays is not None:
        return _digest(np.ascontiguousarray(index.arrays[row]).data)
    with open_file(index, row) as file:
        return _digest(memoryview(file.read()))


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _sentences(found: _Rows, names: tuple[str, ...]) -> list[str]:
    """What is told of rows that are the same image as one of another split or class."""
    order = np.lexsort((found.rows, found.splits, *found.contents.T))
    ends = np.flatnonzero((np.diff(found.contents[order], axis=0) != 0).any(axis=1)) + 1
    groups = [group.tolist() for group in np.split(order, ends)] if len(order) else []
    groups.sort(key=lambda group: (found.splits[group[0]], found.rows[group[0]]))
    told = []
    for one, other in _PAIRS:
        both = [
            (in_one[0], in_other)
            for group in groups
            if one in names
            and other in names
            and (in_one := [k for k in group if names[found.splits[k]] == one])
            and (in_other := [k for k in group if names[found.splits[k]] == other])
        ]
        if both:
            count, total = sum(len(rows) for _, rows in both), len(found.indices[names.index(other)])
            told.append(
                f"{count:,} of {total:,} {SPLITS[other]} images have the content of {SPLITS[one]} images, such as "
                f"{found.name(both[0][1][0])} that of {found.name(both[0][0])}: figures will be too good"
            )
    mixed = [group for group in groups if len({int(found.labels[k]) for k in group}) > 1]
    if mixed:
        first = mixed[0][0]
        second = next(k for k in mixed[0] if found.labels[k] != found.labels[first])
        classes = found.indices[0].class_names
        shown = " and ".join(f"{found.name(k)} ({classes[found.labels[k]]})" for k in (first, second))
        told.append(
            f"{sum(map(len, mixed)):,} images have the content of one in another class, such as {shown}: of such labels at "
            "most one is right"
        )
    return told
