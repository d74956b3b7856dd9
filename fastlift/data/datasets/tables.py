"""Images by tables: CSV, TSV, JSON lines or parquet with a column of paths and one of labels, given in place of list files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fastlift.data.datasets.class_names import check_names
from fastlift.data.datasets.dataset import DataSet, Request
from fastlift.data.datasets.label_texts import Labels, as_label
from fastlift.data.datasets.splits import check_classes, index_listings, note_shared
from fastlift.data.index.doubles import rows_twice
from fastlift.data.index.index import PathTable
from fastlift.data.index.lists import Listing, class_folders
from fastlift.data.index.multi_label import refuse
from fastlift.data.index.problems import SHOWN, Problems
from fastlift.data.index.table_files import kind_of, read_table, told_columns
from fastlift.data.index.tables import Table, common_folder, relative_paths
from fastlift.data.stores.url import Url
from fastlift.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Images of one split: their labels as texts, and where they stand, for messages."""

    place: str
    paths: PathTable
    labels: np.ndarray  # int64 [N], the place in ``texts``
    texts: tuple[str, ...]
    numbers: np.ndarray  # int64 [N]: line or row in the place


def load_tables(request: Request, lists: Mapping[str, Path | None]) -> DataSet:
    """The data set of table files, one a split, or one with a column of splits; raises UserError for what is wrong in them."""
    given = {split: file for split, file in lists.items() if file is not None}
    if others := [file for file in given.values() if not kind_of(file)]:
        raise UserError(f"{others[0]} is no table as the other lists are: give all splits in one way")
    problems, splits = Problems(request.name), {}
    for split, file in given.items():
        table, numbers, columns = read_table(file, request.columns, problems)
        problems.notes.append(f"{file}: {told_columns(columns)} (--image-column, --label-column, --split-column)")
        if columns.split is None:
            splits[split] = rows_of(file.name, table, numbers)
        elif len(given) == 1:
            splits.update(split_rows(file.name, table, numbers))
        else:
            raise UserError(
                f"{file} has a column of splits ({columns.split!r}), and lists of other splits are given: leave them out"
            )
    problems.raise_if_any()
    return data_of_rows(request, splits, problems, given["train"].absolute().parent)


def rows_of(place: str, table: Table, numbers: np.ndarray) -> Rows:
    """All rows of a table as one split."""
    return Rows(place, table.paths, table.labels, table.texts, numbers)


def split_rows(place: str, table: Table, numbers: np.ndarray) -> dict[str, Rows]:
    """The rows of each split of a table; raises UserError where none is for training."""
    if "train" not in table.splits and len(table.paths):
        raise UserError(f"{place}: no row is of the split train")
    return {
        split: Rows(place, table.paths.take(rows), table.labels[rows], table.texts, numbers[rows])
        for split, rows in table.splits.items()
    }


def data_of_rows(request: Request, splits: Mapping[str, Rows], problems: Problems, beside: Path) -> DataSet:
    """The data set of rows of tables; relative paths start from the data root, or from the folder ``beside`` without one.

    Without a data root, absolute paths decide it: the folder that all of them lie in.
    """
    root: Path | Url | None = request.data_root
    if root is None:
        absolute = {split: common_folder(rows.paths) for split, rows in splits.items()}
        folders = [folder for folder in absolute.values() if folder is not None]
        root = Path(os.path.commonpath(folders)) if folders else beside
        request = replace(request, data_root=root)
    start = root.text if isinstance(root, Url) else str(root.absolute())
    splits = {
        split: replace(rows, paths=relative_paths(rows.paths, start, rows.place, rows.numbers, problems))
        for split, rows in splits.items()
    }
    problems.raise_if_any()
    for rows in splits.values():
        _refuse_two_labels(rows)
    labels = Labels.of(_used(splits["train"]), request.class_names, lambda: _names_of_numbers(splits["train"]))
    check_names(labels.class_names, splits["train"].place, problems, given=request.class_names is not None)
    listings = {split: _listing(rows, labels, problems) for split, rows in splits.items()}
    problems.raise_if_any()
    check_classes(listings["train"].labels, labels.class_names, splits["train"].place, problems)
    note_shared({split: listing.paths for split, listing in listings.items()}, problems)
    return index_listings(request, listings, labels.class_names, problems)


def _used(rows: Rows) -> set[str]:
    return {rows.texts[code] for code in np.unique(rows.labels).tolist()}


def _refuse_two_labels(rows: Rows) -> None:
    """An image with two labels is several labels; the same line twice is let be."""
    for first, second in rows_twice(rows.paths):
        labels = [rows.texts[rows.labels[row]] for row in (first, second)]
        if labels[0] != labels[1]:
            lines = " and ".join(f"{rows.numbers[row]:,}" for row in (first, second))
            raise refuse(f"{rows.place} lines {lines}", f"{rows.paths[first]}: {', '.join(labels)}")


def _names_of_numbers(rows: Rows) -> tuple[str, ...]:
    """The folders that the classes' files lie in; UserError where these do not tell names."""
    values = np.array([as_label(text) for text in rows.texts], dtype=np.int64)[rows.labels]
    count = int(values.max(initial=-1)) + 1
    if values.min(initial=0) >= 0 and count <= len(values):
        found = [folder for folder in class_folders(Listing(rows.paths, values), count) if folder is not None]
        if found and len(found) == count:
            return tuple(found)
    raise UserError(
        f"the labels in {rows.place} are numbers, and no folder for each class tells its name: give --class-names, a file with "
        "a line for each class in the order of the labels, from 0, or --label-column, a column of names"
    )


def _listing(rows: Rows, labels: Labels, problems: Problems) -> Listing:
    classes = np.array([labels.label(text) for text in rows.texts], dtype=np.int64)[rows.labels]
    unknown = np.flatnonzero(classes < 0)
    for code in np.unique(rows.labels[unknown])[:SHOWN].tolist():
        row = int(unknown[rows.labels[unknown] == code][0])
        what = "is out of range" if labels.of_text is None else "is no class of the training images"
        problems.add(f"{rows.place} line {rows.numbers[row]}: label {rows.texts[code][:100]!r} {what}")
    return Listing(rows.paths, classes)
