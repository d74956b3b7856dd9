"""Splits that fastlift has cut, or that came from Python, as list files that any run takes: ``splits/train.txt`` ..."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fastlift.config import DataConfig
from fastlift.data.datasets.catalogue import PYTHON
from fastlift.data.datasets.dataset import SPLITS, DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.runs.folder import RunFolder
from fastlift.system.files import write_atomically

CLASS_NAMES = "classes.txt"


def keep_splits(run: RunFolder, data: DataSet) -> str:
    """Write a list for each split, and one of the class names; what is to be said of it, nothing where they were there.

    The lists, with the same data root, give the same data set: ``--dataset list --train-list RUN/splits/train.txt ...``.
    """
    folder = run.splits
    if (folder / CLASS_NAMES).is_file():  # written last
        return ""
    if data.train.root is None or data.train.spans is not None:
        return "the splits are not kept as lists, since the images are no files; the same seed cuts the same ones"
    if any(map(_is_odd, [*data.class_names, *(path for index in _whole(data).values() for path in _paths(index))])):
        return "the splits are not kept as lists, since names in them hold line ends or begin or end with spaces"
    for split, index in _whole(data).items():
        _write(folder / f"{split}.txt", _lines(index))
    # A first word that is a number on every line is none of the name, and with so many zeros no folder is called by it.
    names = "".join(f"{label:09d} {name}\n" for label, name in enumerate(data.class_names))
    _write(folder / CLASS_NAMES, names)
    return f"the splits are kept as list files in {folder}"


def data_of_run(run: RunFolder, settings: DataConfig) -> DataConfig:
    """The settings that load a run's data: its own, but of files that came from Python the lists that it keeps."""
    if settings.dataset != PYTHON or settings.data_root is None or not (run.splits / CLASS_NAMES).is_file():
        return settings
    lists = {f"{split}_list": run.splits / f"{split}.txt" for split in SPLITS}
    given: dict[str, Any] = {name: str(file) for name, file in lists.items() if file.is_file()}
    return replace(settings, dataset="list", class_names=str(run.splits / CLASS_NAMES), **given)


def _whole(data: DataSet) -> dict[str, ImageIndex]:
    """The splits with all training images: how many of them are trained on (``--max-per-class``) is a setting of the run."""
    return data.splits | ({} if data.whole is None else {"train": data.whole})


def _is_odd(name: str) -> bool:
    """Whether a line of a list cannot hold a name."""
    return "\n" in name or "\r" in name or name != name.strip()


def _paths(index: ImageIndex) -> list[str]:
    """Those of the files themselves, also where another is shown in a bad one's place."""
    paths = list(index.paths)
    for bad in index.bad:
        paths[bad.index] = bad.path
    return paths


def _lines(index: ImageIndex) -> str:
    pairs = zip(_paths(index), index.labels.tolist(), strict=True)
    return "".join(f"{path} {label}\n" for path, label in pairs)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda part: part.write_bytes(text.encode("utf-8", "surrogateescape")))
