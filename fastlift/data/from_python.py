"""Data sets from what Python programs have: folders, tables, DataFrames, torchvision's and Hugging Face's data sets, any other.

What can be named, folders, tables and shards, is loaded by the same settings as on the command line, and a run of it says so in
its ``config.json``. The rest goes by the name ``python`` there, and is handed over again to resume or evaluate a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.datasets.catalogue import PYTHON, load_data_set
from fastlift.data.datasets.class_names import check_names
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import SPLITS, DataSet, Request
from fastlift.data.datasets.hub import named_on_hub
from fastlift.data.datasets.splits import finish, index_listings
from fastlift.data.datasets.tables import data_of_rows, rows_of, split_rows
from fastlift.data.huggingface import Asked, encoded_splits
from fastlift.data.index.index import PathTable
from fastlift.data.index.lists import Listing
from fastlift.data.index.problems import SHOWN, Problems
from fastlift.data.index.tables import Columns, Gathered, choose_columns, common_folder
from fastlift.data.map_style import index_of_items
from fastlift.errors import UserError
from fastlift.system.files import cache_folder

_ROWS = 2**14


def from_folder(root: str | Path, **options: Any) -> DataSet:
    """Class folders, with or without folders of splits: ``fastlift train --data-root ROOT``.

    Args:
        root: ``CLASS/image.jpg``, or ``train/CLASS/image.jpg`` with ``test`` and ``val``; a folder, or its URL.
        options: of ``load_data_set``: ``class_names``, ``test_share``, ``val_share``, ``split_seed``, ``bad_images`` ...

    Raises:
        UserError: no such layout, or problems in the images.
    """
    return load_data_set("folder", data_root=root, **options)


def from_table(table: str | Path, **options: Any) -> DataSet:
    """A table of paths and labels (CSV, TSV, JSON lines, parquet), or a list file: ``fastlift train --train-list TABLE``.

    Args:
        table: of the training split, or of all with a column of splits.
        options: of ``load_data_set``: ``data_root``, ``test_list``, ``image_column``, ``label_column``, ``split_column`` ...

    Raises:
        UserError: columns that are not found, several labels an image, or problems in rows and images.
    """
    return load_data_set("list", train_list=table, **options)


def from_webdataset(root: str | Path, train: str | None = None, **options: Any) -> DataSet:
    """WebDataset shards: ``fastlift train --dataset webdataset --data-root ROOT``.

    Args:
        root: the folder of the shards, or its URL.
        train: a pattern of the training shards, where their names do not tell; ``test_list`` then too.
        options: of ``load_data_set``: ``class_names``, ``test_list``, ``val_list`` ...

    Raises:
        UserError: no shards, or problems in them.
    """
    return load_data_set("webdataset", data_root=root, train_list=train, **options)


def from_dataframe(
    frame: Any,
    *,
    root: str | Path | None = None,
    image_column: str | int | None = None,
    label_column: str | int | None = None,
    split_column: str | int | None = None,
    class_names: str | Path | None = None,
    test_share: float | None = None,
    val_share: float = 0.0,
    split_seed: int = 0,
) -> DataSet:
    """Images by the rows of a pandas (or polars) DataFrame of paths and labels, with the rules of tables.

    Args:
        frame: a row for each image.
        root: where relative paths start; default the working folder, or the folder that all absolute paths lie in.
        image_column, label_column, split_column: where the names of the columns do not tell; numbers where these are their names.
        class_names: a file of them, for labels that are numbers.
        test_share, val_share, split_seed: what is cut off; see ``load_data_set``.

    Raises:
        UserError: no DataFrame, columns that are not found, missing values with their row (from 0), or problems in the images.
    """
    if "DataFrame" not in (kind.__name__ for kind in type(frame).__mro__):
        cure = ": give frame.collect()" if type(frame).__name__ == "LazyFrame" else ""
        raise UserError(f"expected a DataFrame of pandas or polars, not {type(frame).__name__}{cure}")
    place, by_name = "the DataFrame", {str(name): name for name in frame.columns}
    asked = Columns(*(None if name is None else str(name) for name in (image_column, label_column, split_column)))
    columns = choose_columns([str(name) for name in frame.columns], asked, place)
    problems = Problems(place)
    gathered = Gathered(place, problems)
    values = [None if name is None else frame[by_name[name]].to_list() for name in columns]
    images, labels, splits = values
    assert images is not None
    assert labels is not None
    numbers = np.arange(len(images))
    for first in range(0, len(images), _ROWS):
        part = slice(first, first + _ROWS)
        gathered.add(images[part], labels[part], None if splits is None else splits[part], numbers[part])
    table, numbers = gathered.table()
    problems.raise_if_any()
    if not len(table.paths):
        raise UserError(f"{place} has no rows")
    found = {"train": rows_of(place, table, numbers)} if splits is None else split_rows(place, table, numbers)
    request = _request(test_share, val_share, split_seed, root, class_names)
    return data_of_rows(request, found, problems, Path.cwd())


def from_imagefolder(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    test_share: float | None = None,
    val_share: float = 0.0,
    split_seed: int = 0,
) -> DataSet:
    """The files of torchvision's ``ImageFolder`` (or ``DatasetFolder``): read by fastlift, without the object's transforms.

    Args:
        train, val, test: of each split; they need the same ``classes``.
        test_share, val_share, split_seed: what is cut off; see ``load_data_set``.

    Raises:
        UserError: splits of other classes, or problems in the images.
    """
    given = {"train": train, "val": val, "test": test}
    there = {split: one for split, one in given.items() if one is not None or split == "train"}
    for split, one in there.items():
        if not hasattr(one, "classes") or not hasattr(one, "samples"):
            raise UserError(
                f"expected an ImageFolder, not {type(one).__name__}: other data sets are read by from_dataset"
            )
        if not len(one.samples):
            raise UserError(f"the ImageFolder for {SPLITS[split]} has no images")
    if any(list(one.classes) != list(train.classes) for one in there.values()):
        raise UserError("the ImageFolders have other classes: give those of one data set")
    paths = {
        split: PathTable.from_strings(os.path.abspath(path) for path, _ in one.samples) for split, one in there.items()
    }
    folders = [folder for table in paths.values() if (folder := common_folder(table)) is not None]
    root, problems = os.path.commonpath(folders), Problems("the ImageFolder")
    listings = {
        split: Listing(
            PathTable.from_strings(path[len(root) :].lstrip("/") for path in paths[split]),
            np.array([label for _, label in one.samples], dtype=np.int64),
        )
        for split, one in there.items()
    }
    for split, listing in listings.items():
        for row in np.flatnonzero((listing.labels < 0) | (listing.labels >= len(train.classes)))[:SHOWN].tolist():
            problems.add(f"{paths[split][row]}: label {listing.labels[row]} is out of range")
    problems.raise_if_any()
    check_names(train.classes, problems.subject, problems, given=True)
    request = _request(test_share, val_share, split_seed, root)
    return index_listings(request, listings, tuple(train.classes), problems)


def from_dataset(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    one_at_a_time: bool = False,
    test_share: float | None = None,
    val_share: float = 0.0,
    split_seed: int = 0,
) -> DataSet:
    """Any map-style data set of (PIL image, int), such as torchvision's, without transforms: images are asked for when they are needed.

    Each item is looked at once, for its label and its size. Sets of up to 512 MiB of pixels are then kept decoded while they
    train; of others an image is asked for anew in each epoch.

    Args:
        train, val, test: of each split: ``len(...)`` and ``[i]``, which gives (image, label).
        class_names: by label; default the object's ``classes``.
        one_at_a_time: never ask for two items at once, for objects that threads may not share.
        test_share, val_share, split_seed: what is cut off; see ``load_data_set``.

    Raises:
        UserError: an item that is none of an image and a label (its index is named), or an error that the object raises.
    """
    names = class_names if class_names is not None else getattr(train, "classes", None)
    if names is None:
        raise UserError("the data set has no classes attribute: give class_names, in the order of the labels")
    if isinstance(names, str) or not isinstance(names, Iterable) or not (names := list(names)):
        raise UserError(
            f"class_names: expected a list of the classes' names, in the order of the labels, not {names!r}"
        )
    given = {"train": train, "val": val, "test": test}
    problems = Problems("the data set")
    check_names([str(name) for name in names], problems.subject, problems, given=True)
    splits = {
        split: index_of_items(f"{PYTHON}/{split}", one, tuple(map(str, names)), one_at_a_time, problems)
        for split, one in given.items()
        if one is not None or split == "train"
    }
    return finish(_request(test_share, val_share, split_seed), splits, problems)


def from_huggingface(
    dataset: Any,
    config: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    test_share: float | None = None,
    val_share: float = 0.0,
    split_seed: int = 0,
) -> DataSet:
    """A Hugging Face data set with a column of images and one of class labels. Encoded images stay encoded until they are shown.

    Its splits are train, validation (or val, valid, dev) and test; without a test split one is cut off.

    Args:
        dataset: a ``Dataset`` or ``DatasetDict``, the folder of one (``save_to_disk``), or a name on the hub
            (``user/name``), which is downloaded where no folder has this name.
        config, revision: of a name on the hub, and of nothing else.
        image_column, label_column: where the features do not tell (one of images, one of class labels).
        test_share, val_share, split_seed: what is cut off; see ``load_data_set``.

    Raises:
        UserError: the package ``datasets`` is missing, there is no such data set, or its features do not fit.
    """
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    options: dict[str, Any] = {"test_share": test_share, "val_share": val_share, "split_seed": split_seed}
    on_hub = named_on_hub(dataset, config, revision)
    if on_hub is not None:
        return load_data_set(on_hub, **columns, **options)
    if isinstance(dataset, (str, Path)):
        return load_data_set("huggingface", data_root=dataset, **columns, **options)
    problems = Problems("the data set")
    asked = Asked(PYTHON, Columns(image_column, label_column), cache_folder())
    return finish(_request(**options), encoded_splits(dataset, None, None, asked, problems), problems)


def _request(
    test_share: float | None,
    val_share: float,
    split_seed: int,
    root: str | Path | None = None,
    class_names: str | Path | None = None,
) -> Request:
    cut = CutSettings(test_share, val_share, split_seed)
    files: Mapping[str, Any] = {
        "data_root": None if root is None else Path(os.path.abspath(root)),
        "class_names": None if class_names is None else Path(class_names),
    }
    return Request(PYTHON, cache_folder(), "stop", False, None, cut, **files)
