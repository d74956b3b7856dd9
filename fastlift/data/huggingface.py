"""Splits of Hugging Face data sets: images as encoded bytes, decoded when they are needed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.index.headers import read_header_bytes
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.multi_label import refuse
from fastlift.data.index.problems import Problems
from fastlift.data.index.tables import Columns
from fastlift.data.loading.decode import decode
from fastlift.data.loading.reading import DecodeError
from fastlift.data.map_style import object_index
from fastlift.errors import UserError
from fastlift.system.hub import from_hub

_BATCH = 256  # rows that are looked at together
_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


def encoded_splits(
    given: Any, config: str | None, revision: str | None, columns: Columns, name: str, problems: Problems
) -> dict[str, ImageIndex]:
    """The splits of a data set, each of its images looked at once; bad ones are added to the problems.

    Raises UserError as ``from_huggingface``.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("Hugging Face data sets need their package: pip install 'fastlift[huggingface]'") from None
    whole = _opened(given, config, revision) if isinstance(given, (str, Path)) else given
    if isinstance(whole, datasets.Dataset):
        whole = {"train": whole}
    kinds = whole.values() if isinstance(whole, dict) else [whole]
    other = next((one for one in kinds if not isinstance(one, datasets.Dataset)), None)
    if other is not None:
        raise UserError(
            f"expected a datasets.Dataset, a DatasetDict, a folder or a name of one, not {type(other).__name__}"
            " (a streamed one has no length: load it without streaming)"
        )
    found = {split: next((way for way in ways if way in whole), None) for split, ways in _SPLITS.items()}
    if found["train"] is None:
        raise UserError(f"the data set has no split train; there are {', '.join(map(str, whole))}")
    if found["test"] is None and found["val"] is not None:
        problems.notes.append(f"the split {found['val']} is the test split, as there is none called test")
        found = {**found, "test": found["val"], "val": None}
    image, label = _columns(whole[found["train"]].features, columns)
    names = tuple(whole[found["train"]].features[label].names)
    splits = {split: whole[key] for split, key in found.items() if key is not None}
    if any(tuple(getattr(one.features.get(label), "names", ())) != names for one in splits.values()):
        raise UserError(f"the splits have other classes in {label!r}: give those of one data set")
    return {split: _index(f"{name}/{split}", one, image, label, names, problems) for split, one in splits.items()}


def _opened(place: str | Path, config: str | None, revision: str | None) -> Any:
    """What a folder holds, else what the hub has of this name."""
    import datasets

    folder = Path(place).expanduser()

    def load() -> Any:
        if not folder.is_dir():
            return datasets.load_dataset(str(place), config, revision=revision)
        is_saved = any(folder.glob("dataset_*.json"))
        return datasets.load_from_disk(str(folder)) if is_saved else datasets.load_dataset(str(folder))

    what, cache = f"the data set {place}", str(datasets.config.HF_DATASETS_CACHE)
    try:
        if folder.is_dir():
            return load()
        what += " (here is no folder of that name)"
        return from_hub(
            f"the files of {what}", load, "give a folder that save_to_disk has written", newest=True, cache=cache
        )
    except UserError:
        raise
    except Exception as error:  # the package raises nearly everything, of network, files and formats
        told = str(error).strip().splitlines()
        raise UserError(f"{what} cannot be loaded: {told[0] if told else type(error).__name__}") from error


def _columns(features: Any, asked: Columns) -> tuple[str, str]:
    """The columns of images and of class labels; UserError where they are not one each, or hold something else."""
    import datasets

    kinds = {"image": datasets.Image, "label": datasets.ClassLabel}
    chosen = []
    for (what, kind), wanted in zip(kinds.items(), asked[:2], strict=True):
        there = [name for name, feature in features.items() if isinstance(feature, kind)]
        if wanted is not None and wanted not in features:
            raise UserError(f"the data set has no column {wanted!r}; there are {', '.join(features)}")
        several = [
            name for name, one in features.items() if isinstance(getattr(one, "feature", None), datasets.ClassLabel)
        ]
        if what == "label" and (wanted in several or (wanted is None and not there and several)):
            raise refuse(f"the column {wanted or several[0]!r} of the data set", features[wanted or several[0]])
        if (wanted is None and len(there) != 1) or (wanted is not None and wanted not in there):
            cure = ": text becomes one by dataset.class_encode_column(...)" if what == "label" else ""
            raise UserError(
                f"expected one column of {kind.__name__} features in the data set, found {', '.join(there) or 'none'} "
                f"(columns: {', '.join(features)}); name it by {what}_column{cure}"
            )
        chosen.append(wanted or there[0])
    return chosen[0], chosen[1]


def _index(name: str, dataset: Any, image: str, label: str, names: tuple[str, ...], problems: Problems) -> ImageIndex:
    import datasets

    encoded = dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False)).with_format(None)
    count = len(encoded)
    labels = np.full(count, -1, dtype=np.int64)
    widths, heights = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    digests = np.zeros((count, 16), dtype=np.uint8)
    for first in range(0, count, _BATCH):
        try:
            rows = encoded[first : first + _BATCH]
        except Exception as error:  # of pyarrow, of files that are gone
            raise UserError(
                f"{name}: the rows from {first} on cannot be read ({type(error).__name__}: {error})"
            ) from error
        for row, (one, number) in enumerate(zip(rows[image], rows[label], strict=True), start=first):
            if number is None or not 0 <= number < len(names):
                problems.add(
                    f"{name}: row {row} has no label" if number is None else f"{name}: row {row}: label {number}"
                )
                continue
            data = _bytes(one)
            header = read_header_bytes(data)
            if header.reason:
                problems.add_files([f"{name}: row {row} {header.reason}"])
            labels[row], widths[row], heights[row] = number, header.width, header.height
            digests[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), dtype=np.uint8)
    if not count:
        problems.add(f"{name}: no rows")

    def load(row: int) -> np.ndarray:
        try:
            return decode(_bytes(encoded[row][image]))
        except DecodeError as error:
            raise DecodeError(f"(row {row} of the data set) {error}") from error
        except Exception as error:  # of pyarrow, of files that are gone
            raise DecodeError(f"is row {row} of the data set, which raised {type(error).__name__}: {error}") from error

    return object_index(name, load, labels, widths, heights, names, digests.tobytes(), digests)


def _bytes(image: Any) -> bytes:
    """The encoded image of a row; of one that names a file, what the file holds; nothing where there is none."""
    if image is None:
        return b""
    if image.get("bytes") is not None:
        return bytes(image["bytes"])
    try:
        return Path(image["path"]).read_bytes()
    except (OSError, TypeError):
        return b""
