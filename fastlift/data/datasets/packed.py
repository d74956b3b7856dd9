"""WebDataset tar shards with an index: the format that ``fastlift data pack`` writes, and how it is read.

A pack is a folder of ``train-000000.tar``, ..., ``test-000000.tar``, ... (members ``KEY.jpg`` and ``KEY.cls``, so that
WebDataset programs read them too), ``train.npz`` and ``test.npz``, both with ``val`` where there is such a split (where each image lies, its label, size and original
path) and ``fastlift-pack.json`` (the set's name, class names, group counts, and what was done to the images). Index and
manifest carry digests.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct, ValidationError, convert

from fastlift.data.datasets.dataset import DataSet, Rank, Request
from fastlift.data.datasets.splits import finish
from fastlift.data.datasets.taxon import RANKS
from fastlift.data.index.columns import Columns, read_columns, write_columns
from fastlift.data.index.headers import MAX_PIXELS
from fastlift.data.index.index import ImageIndex, PathTable, fingerprint
from fastlift.data.index.lists import LARGEST_LABEL, is_file_name
from fastlift.data.index.problems import Problems
from fastlift.data.stores.url import Url, local_copy, size_of
from fastlift.errors import UserError
from fastlift.system.files import read_json, write_json

PACK_MANIFEST = "fastlift-pack.json"
_FORMAT = 2
_ASKED = 32  # shards whose sizes are asked for at a time, of a store
_KINDS: dict[str, type[np.generic]] = {
    "data": np.uint8,  # with the offsets: relative paths before packing, as in ``PathTable``
    "offsets": np.int64,
    "labels": np.int64,  # [N]
    "widths": np.int32,  # [N], of the packed image
    "heights": np.int32,  # [N]
    "shards": np.int32,  # [N], which tar
    "spans": np.int64,  # [N, 2], offset and bytes of the encoded image in it
}


def shard_name(split: str, number: int) -> str:
    """The file of a shard."""
    return f"{split}-{number:06d}.tar"


def write_split(root: Path, split: str, originals: PathTable, columns: Columns) -> None:
    """Store the index of one split: the paths before packing, and the other columns of ``_KINDS``."""
    write_columns(root / f"{split}.npz", {"data": originals.data, "offsets": originals.offsets, **columns})


def write_manifest(root: Path, data: DataSet, shard_bytes: dict[str, int], short_side: int | None) -> None:
    """Store what is true of the whole pack; written last, so that a pack without it is unfinished."""
    manifest = {
        "format": _FORMAT,
        "dataset": data.name,
        "class_names": list(data.class_names),
        "group_counts": data.group_counts.tolist(),
        "ranks": {name: {"names": rank.names, "of_class": rank.of_class.tolist()} for name, rank in data.ranks.items()},
        "short_side": short_side,
        "shard_bytes": shard_bytes,
    }
    write_json(root / PACK_MANIFEST, {**manifest, "digest": _digest(manifest)})


def load_pack(request: Request) -> DataSet:
    """Read the pack of the asked data set in the data root; of one in a store, manifest and indices are fetched into the cache.

    Nothing in it is trusted: its numbers are checked before anything is read by them, and headers inside of shards, which
    may name links, devices or places outside, are never looked at.

    Raises:
        UserError: another set's pack, another format, a damaged manifest or index, missing or cut shards, numbers that
            do not fit each other.
    """
    assert request.data_root is not None
    root, name, cache = request.data_root, request.name, request.cache_dir
    manifest = _manifest(local_copy(root / PACK_MANIFEST, cache))
    if manifest.dataset != name:
        raise UserError(
            f"{root} is a pack of {manifest.dataset}, not of {name}: leave --dataset out, or say --dataset {manifest.dataset}"
        )
    problems = Problems(f"pack {root}", hint="Make it again with `fastlift data pack`.")
    with ThreadPoolExecutor(_ASKED) as pool:
        found = list(pool.map(lambda shard: size_of(root / shard), manifest.shard_bytes))
    for (shard, size), there in zip(manifest.shard_bytes.items(), found, strict=True):
        if there is None:
            problems.add(f"{root / shard}: missing")
        elif there != size:
            problems.add(f"{root / shard}: {there:,} bytes instead of {size:,}")
    class_names = tuple(manifest.class_names)
    splits = {
        split: _index(root, name, split, class_names, manifest.shard_bytes, problems, cache)
        for split in ("train", "val", "test")
        if split != "val" or any(shard.startswith("val-") for shard in manifest.shard_bytes)
    }
    data = finish(request, splits, problems, np.array(manifest.group_counts, dtype=np.int64))
    ranks = {
        rank: Rank(tuple(stored.names), np.array(stored.of_class, dtype=np.int64))
        for rank, stored in manifest.ranks.items()
    }
    return replace(data, ranks=ranks)


class _StoredRank(Struct):
    names: Annotated[list[str], Meta(min_length=1)]
    of_class: list[Annotated[int, Meta(ge=0)]]


class _Manifest(Struct):
    """What ``write_manifest`` states, of the kinds and in the ranges that it may have."""

    dataset: str
    class_names: Annotated[list[str], Meta(min_length=1)]
    group_counts: list[Annotated[int, Meta(ge=0, lt=LARGEST_LABEL)]]
    ranks: dict[str, _StoredRank]
    shard_bytes: dict[
        Annotated[str, Meta(pattern=r"^(train|val|test)-[0-9]{6,9}\.tar\Z")], Annotated[int, Meta(ge=0, lt=2**62)]
    ]

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if not all(map(is_file_name, [*self.class_names, *(name for r in self.ranks.values() for name in r.names)])):
            raise ValueError("a name that is no text")
        if len(self.group_counts) != classes:
            raise ValueError(f"{len(self.group_counts)} group counts of {classes} classes")
        for name, rank in self.ranks.items():
            if name not in RANKS or len(rank.of_class) != classes or max(rank.of_class) >= len(rank.names):
                raise ValueError(f"ranks does not group the classes by {name}")


def _manifest(path: Path) -> _Manifest:
    """The manifest, whose every entry is of the kind and size that it should be."""
    stated = read_json(path)
    if stated.get("format") != _FORMAT:
        raise UserError(f"{path} is of another format than this version of fastlift reads ({_FORMAT})")
    if stated.pop("digest", None) != _digest(stated):
        raise UserError(f"{path} is damaged: its digest differs. Make the pack again.")
    try:
        return convert(stated, _Manifest)
    except ValidationError as error:
        raise UserError(f"{path} is not the manifest of a pack: {error}. Make the pack again.") from error


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _index(
    root: Path | Url,
    name: str,
    split: str,
    class_names: tuple[str, ...],
    shard_bytes: dict[str, int],
    problems: Problems,
    cache: Path,
) -> ImageIndex | None:
    """One split; None where its numbers fit neither each other nor the manifest, which is added to the problems."""
    file = root / f"{split}.npz"
    try:
        columns = read_columns(local_copy(file, cache), _KINDS)
        originals = PathTable.checked(columns["data"], columns["offsets"])
    except ValueError as error:
        problems.add(f"{file} cannot be read: {error}")
        return None
    labels, widths, heights, shards = (columns[kind] for kind in ("labels", "widths", "heights", "shards"))
    count, before = len(originals), problems.total
    flat = (labels, widths, heights, shards)
    if any(column.shape != (count,) for column in flat) or columns["spans"].shape != (count, 2):
        problems.add(f"{file}: columns of different lengths")
        return None
    if not count:
        problems.add(f"{file}: no images")
    sizes = [shard_bytes.get(shard_name(split, k), -1) for k in range(len(shard_bytes))]
    _check_rows(str(file), columns, np.array([*sizes, -1], dtype=np.int64), len(class_names), problems)
    if problems.total > before:
        return None
    paths = PathTable.from_strings(shard_name(split, number) for number in range(len(shard_bytes))).take(shards)
    # Hashed over the original paths: a pack of unchanged images can go on with a run on the files, and the reverse.
    hashed = fingerprint(originals, labels, widths, heights, class_names)
    spans = columns["spans"]
    return ImageIndex(
        f"{name}/{split}", root, paths, labels, widths, heights, class_names, hashed, spans=spans, shards=shards
    )


def _check_rows(file: str, columns: Columns, sizes: np.ndarray, classes: int, problems: Problems) -> None:
    """``sizes`` of the shards in bytes, int64 [shards + 1]: -1 for those that are not there, and for the last."""
    labels, widths, heights, shards = (columns[kind] for kind in ("labels", "widths", "heights", "shards"))
    offset, length = columns["spans"].T
    last = len(sizes) - 1
    size = sizes[np.where((shards < 0) | (shards > last), last, shards)]
    area = np.where(np.minimum(widths, heights) < 1, 0, widths.astype(np.int64) * heights)
    ends = np.minimum(length - 1, size - offset - length)
    _add_rows(problems, f"{file}: a label out of range (0..{classes - 1})", labels, 0, classes - 1)
    _add_rows(problems, f"{file}: an image in a shard that is not listed", size, 0)
    _add_rows(problems, f"{file}: a place before or after the shard", np.minimum(offset, size - offset), 0)
    _add_rows(problems, f"{file}: an image that ends after the shard", ends, 0)
    _add_rows(problems, f"{file}: an image of impossible size", area, 1, MAX_PIXELS)


def _add_rows(problems: Problems, what: str, values: np.ndarray, low: int, high: int | None = None) -> None:
    """One problem for all rows whose value is not in low..high."""
    wrong = np.flatnonzero((values < low) | (False if high is None else values > high))
    if len(wrong):
        problems.add(f"{what}: image {wrong[0]}" + (f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""))
