"""Tables of images in columns: paths, and labels and splits as numbers of texts, gathered some thousand rows at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastlift.data.index.index import PathTable
from fastlift.data.index.lists import MOST_BAD, leaves_root
from fastlift.data.index.multi_label import refuse, several_in
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError

# In the order in which they are looked for.
IMAGE_NAMES = (
    *("path", "filepath", "file_path", "image_path", "img_path", "relative_path", "file_name", "filename", "file"),
    *("image", "img", "image_file", "image_name"),
)
LABEL_NAMES = (
    *("label", "class", "class_name", "classname", "category", "category_name", "label_name", "species", "target"),
    *("labels", "fine_label", "y"),
)
SPLIT_NAMES = ("split", "subset", "set", "partition")
_SPLITS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "dev"], "val"),
    **dict.fromkeys(["test", "testing"], "test"),
}
_ORDER = ("train", "val", "test")
# What R, pandas and SQL write where a value is missing. A class may well be called None, so that is none of them.
_MISSING = frozenset(("NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NaT", "NULL", "null"))
_SEVERAL = (list, tuple, dict, set, np.ndarray)


class Columns(NamedTuple):
    """The columns of a table by name; None for one that is to be guessed, or is not there."""

    image: str | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Table:
    """What a table says, before any file is looked at."""

    paths: PathTable
    labels: np.ndarray  # int64 [N], the place in ``texts``
    texts: tuple[str, ...]
    splits: dict[str, np.ndarray]  # by name, the rows: int64


def choose_columns(names: Sequence[str], asked: Columns, place: str) -> Columns:
    """The columns to read: those that are asked for, else by the common names; the split only where there is one.

    Raises UserError where one is not there, or cannot be guessed.
    """
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise UserError(f"{place}: two columns are called {twice!r}: give them names that differ")
    known = (
        ("image", asked.image, IMAGE_NAMES),
        ("label", asked.label, LABEL_NAMES),
        ("split", asked.split, SPLIT_NAMES),
    )
    found: dict[str, str | None] = {}
    for kind, wanted, common in known:
        if wanted is not None and wanted not in names:
            raise UserError(f"{place}: no column {wanted!r} (--{kind}-column); there are {', '.join(map(repr, names))}")
        by_name = {name.strip().lower(): name for name in reversed(names) if name not in found.values()}
        found[kind] = wanted or next((by_name[name] for name in common if name in by_name), None)
    for kind in ("image", "label"):
        if found[kind] is None:
            raise UserError(
                f"{place}: which column holds the {'paths of the images' if kind == 'image' else 'labels'}? There are "
                f"{', '.join(map(repr, names))}: give --{kind}-column"
            )
    return Columns(**found)


class Gathered:
    """A table in the making."""

    def __init__(self, place: str, problems: Problems) -> None:
        self._place, self._problems = place, problems
        self._most = problems.total + MOST_BAD
        self._parts: list[PathTable] = []
        self._labels: list[np.ndarray] = []
        self._splits: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._label_codes: dict[Any, int] = {}  # by the value as it came
        self._split_codes: dict[Any, int] = {}
        self._texts: dict[str, int] = {}

    def add(
        self, images: Sequence[Any], labels: Sequence[Any], splits: Sequence[Any] | None, numbers: np.ndarray
    ) -> None:
        """Some rows, with their numbers in messages, int64 [N]; those without a path, a label or a split are problems."""
        label_codes = self._codes(labels, self._label_codes, self._label_code)
        split_codes = (
            np.zeros(len(images), dtype=np.int64)
            if splits is None
            else self._codes(splits, self._split_codes, _split_code)
        )
        good = (label_codes >= 0) & (split_codes >= 0)
        for row in np.flatnonzero(~good).tolist():
            if label_codes[row] < 0:
                self._tell(numbers[row], _no_label(labels[row], images[row]))
            else:
                assert splits is not None
                self._tell(numbers[row], f"split {str(splits[row])[:40]!r} is none of train, val and test")
        paths = _plain_paths(images)
        if paths is None:
            paths = self._cleaned(images, good, numbers)
        rows = np.flatnonzero(good)
        self._parts.append(paths if good.all() else paths.take(rows))
        self._labels.append(label_codes[rows])
        self._splits.append(split_codes[rows])
        self._numbers.append(numbers[rows])
        if self._problems.total > self._most:
            self._problems.add(f"{self._place}: more than {MOST_BAD:,} rows are bad; the others were not read")
            self._problems.raise_if_any()

    def _cleaned(self, images: Sequence[Any], good: np.ndarray, numbers: np.ndarray) -> PathTable:
        """The paths one by one, without spaces around them; those that are none are told, and empty."""
        cleaned = []
        for row, image in enumerate(images):
            path = os.fspath(image) if isinstance(image, os.PathLike) else image
            is_path = isinstance(path, str) and bool(path.strip())
            cleaned.append(path.strip() if is_path else "")
            if not is_path and good[row]:
                self._tell(numbers[row], "no path")
            good[row] &= is_path
        return PathTable.from_strings(cleaned)

    def table(self) -> tuple[Table, np.ndarray]:
        """All rows, and their numbers in messages: int64 [N]. Raises UserError for several labels an image."""
        if text := several_in(self._texts.keys()):
            raise refuse(self._place, text)
        nothing = np.zeros(0, dtype=np.int64)
        codes = np.concatenate([nothing, *self._splits])
        splits = {name: np.flatnonzero(codes == code) for code, name in enumerate(_ORDER)}
        labels, numbers = np.concatenate([nothing, *self._labels]), np.concatenate([nothing, *self._numbers])
        kept = {name: rows for name, rows in splits.items() if len(rows)}
        return Table(PathTable.joined(self._parts), labels, tuple(self._texts), kept), numbers

    def _codes(self, values: Sequence[Any], known: dict[Any, int], code_of: Any) -> np.ndarray:
        """The code of each value, -1 for none: int64."""
        try:
            for value in set(values) - known.keys():
                known[value] = code_of(value)
        except TypeError:  # lists are no keys
            raise refuse(self._place, next(value for value in values if isinstance(value, _SEVERAL))) from None
        return np.fromiter(map(known.__getitem__, values), dtype=np.int64, count=len(values))

    def _label_code(self, value: Any) -> int:
        if isinstance(value, _SEVERAL):
            raise refuse(self._place, value)
        text = label_text(value)
        text = "" if text in _MISSING else text
        return self._texts.setdefault(text, len(self._texts)) if text else -1

    def _tell(self, number: int, what: str) -> None:
        self._problems.add(f"{self._place} line {number}: {what}")


def _plain_paths(images: Sequence[Any]) -> PathTable | None:
    """A table of texts that are ASCII, none empty, none with spaces around it; None where one is otherwise."""
    try:
        joined = "".join(images)
    except TypeError:
        return None
    lengths = np.fromiter(map(len, images), dtype=np.int64, count=len(images))
    if not joined.isascii() or not lengths.all():
        return None
    paths = PathTable.of_lengths(np.frombuffer(joined.encode(), dtype=np.uint8), lengths)
    edges = np.concatenate([paths.data[paths.offsets[:-1]], paths.data[paths.offsets[1:] - 1]])
    return None if (edges <= ord(" ")).any() else paths


def label_text(value: Any) -> str:
    """A label as text, whole numbers as such; empty for a missing one (None, NaN, pandas.NA, spaces)."""
    try:
        missing = value is None or bool(value != value)  # NaN
    except TypeError:  # pandas.NA says neither
        missing = True
    if missing:
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _no_label(value: Any, image: Any) -> str:
    text, where = label_text(value), f"({str(image)[:200]})"
    return (
        f"no label: {text!r} stands for a missing one; a class needs another name {where}"
        if text
        else f"no label {where}"
    )


def _split_code(value: Any) -> int:
    name = _SPLITS.get(str(value).strip().lower())
    return -1 if name is None else _ORDER.index(name)


def relative_paths(paths: PathTable, root: str, place: str, numbers: np.ndarray, problems: Problems) -> PathTable:
    """Paths from ``root`` on: absolute ones (or URLs) below it are cut, others are problems."""
    start = root.rstrip("/") + "/"

    def one(path: str) -> str:
        return path[len(start) :] if path.startswith(start) else path.replace("\\", "/")

    if not _is_odd(paths):
        return paths
    cut = [one(path) for path in paths]
    for row, path in enumerate(cut):
        if "\0" in path or leaves_root(path) or "://" in path:
            problems.add(
                f"{place} line {numbers[row]}: {path[:200]} does not lie in the data root {root} (--data-root)"
            )
            if problems.total > MOST_BAD:
                break
    return PathTable.from_strings(cut)


def common_folder(paths: PathTable) -> str | None:
    """The folder that all absolute paths lie in; None where there are none."""
    found: str | None = None
    for path in paths:
        if path.startswith("/"):
            folder = os.path.dirname(path)
            if found is None or not f"{folder}/".startswith(f"{found}/"):
                found = folder if found is None else os.path.commonpath([found, folder])
    return found


def _is_odd(paths: PathTable) -> bool:
    """Whether any path has what a plain relative path has not."""
    data = paths.data
    starts = paths.offsets[:-1][paths.lengths > 0]
    dots = (data[1:] == ord(".")) & (data[:-1] == ord("."))
    return bool(
        (data[starts] == ord("/")).any() or ((data == ord("\\")) | (data == ord(":")) | (data == 0)).any() or dots.any()
    )
