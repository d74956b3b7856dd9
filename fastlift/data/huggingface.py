"""Splits of Hugging Face data sets: images as encoded bytes, decoded when they are needed."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastlift.data.index.columns import cached_columns, read_columns, write_columns
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
_FORM = "fastlift-rows-1"
_KINDS: dict[str, type[np.generic]] = {
    "labels": np.int64,
    "widths": np.int32,
    "heights": np.int32,
    "digests": np.uint8,
}
_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


class Asked(NamedTuple):
    """How the rows of a data set are read."""

    name: str  # for messages
    columns: Columns
    cache: Path
    rescan: bool = False  # look at all rows, whatever is kept


def encoded_splits(
    given: Any, config: str | None, revision: str | None, asked: Asked, problems: Problems
) -> dict[str, ImageIndex]:
    """The splits of a data set, each of its images looked at once; bad ones are added to the problems.

    What was found in the images of Arrow files is kept in the cache, and holds as long as the files are the same.

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
    image, label = _columns(whole[found["train"]].features, asked.columns)
    names = tuple(whole[found["train"]].features[label].names)
    splits = {split: whole[key] for split, key in found.items() if key is not None}
    if any(tuple(getattr(one.features.get(label), "names", ())) != names for one in splits.values()):
        raise UserError(f"the splits have other classes in {label!r}: give those of one data set")
    return {split: _index(split, one, image, label, names, asked, problems) for split, one in splits.items()}


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


def _index(
    split: str, dataset: Any, image: str, label: str, names: tuple[str, ...], asked: Asked, problems: Problems
) -> ImageIndex:
    import datasets

    name = f"{asked.name}/{split}"
    encoded = dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False)).with_format(None)
    kept = _kept_in(encoded, image, asked.cache)
    found = None if kept is None or asked.rescan else _read(kept, len(encoded), len(names))
    if found is None:
        before = problems.total
        found, are_inside = _looked_at(encoded, image, label, len(names), name, problems)
        if kept is not None and are_inside and problems.total == before:
            with suppress(OSError):
                write_columns(kept, found)

    def load(row: int) -> np.ndarray:
        try:
            return decode(_bytes(encoded[row][image]))
        except DecodeError as error:
            raise DecodeError(f"(row {row} of the data set) {error}") from error
        except Exception as error:  # of pyarrow, of files that are gone
            raise DecodeError(f"is row {row} of the data set, which raised {type(error).__name__}: {error}") from error

    digests = found["digests"]
    sizes = (found["labels"], found["widths"], found["heights"])
    return object_index(name, load, *sizes, names, digests.tobytes(), digests)


def _looked_at(
    encoded: Any, image: str, label: str, classes: int, name: str, problems: Problems
) -> tuple[dict[str, np.ndarray], bool]:
    """Labels, sizes and digests of all rows; and whether all their images lie in the data set itself."""
    count, are_inside = len(encoded), True
    labels, digests = np.full(count, -1, dtype=np.int64), np.zeros((count, 16), dtype=np.uint8)
    widths, heights = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.int32)
    for first in range(0, count, _BATCH):
        try:
            rows = encoded[first : first + _BATCH]
        except Exception as error:  # of pyarrow, of files that are gone
            raise UserError(
                f"{name}: the rows from {first} on cannot be read ({type(error).__name__}: {error})"
            ) from error
        for row, (one, number) in enumerate(zip(rows[image], rows[label], strict=True), start=first):
            if number is None or not 0 <= number < classes:
                problems.add(
                    f"{name}: row {row} has no label" if number is None else f"{name}: row {row}: label {number}"
                )
                continue
            data = _bytes(one)
            are_inside = are_inside and one is not None and one.get("bytes") is not None
            header = read_header_bytes(data)
            if header.reason:
                problems.add_files([f"{name}: row {row} {header.reason}"])
            labels[row], widths[row], heights[row] = number, header.width, header.height
            digests[row] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), dtype=np.uint8)
    if not count:
        problems.add(f"{name}: no rows")
    return {"labels": labels, "widths": widths, "heights": heights, "digests": digests}, are_inside


def _kept_in(encoded: Any, image: str, cache: Path) -> Path | None:
    """Where what is found in these rows is kept: by the library's fingerprint, and the condition of the files of the rows.

    None for a data set that lies in memory.
    """
    files = [Path(one["filename"]) for one in encoded.cache_files]
    if not files:
        return None
    try:
        conditions = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError:
        return None
    content = json.dumps([encoded._fingerprint, len(encoded), image, encoded.column_names, conditions])
    return cached_columns(cache, "index", _FORM, files[0].parent, content.encode())


def _read(kept: Path, count: int, classes: int) -> dict[str, np.ndarray] | None:
    """What was found before; None where nothing is kept, or something else."""
    try:
        found = read_columns(kept, _KINDS) if kept.is_file() else None
    except ValueError:  # damaged
        return None
    if found is None or found["digests"].shape != (count, 16):
        return None
    whole = all(found[name].shape == (count,) for name in ("labels", "widths", "heights"))
    is_sound = whole and all(found[name].min(initial=0) >= 0 for name in ("labels", "widths", "heights"))
    return found if is_sound and found["labels"].max(initial=0) < classes else None


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
