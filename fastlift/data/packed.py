"""WebDataset tar shards with an index: the format that ``fastlift data pack`` writes, and how it is read.

A pack is a folder of ``train-000000.tar``, ..., ``test-000000.tar``, ... (members ``KEY.jpg`` and ``KEY.cls``, so that
WebDataset programs read them too), ``train.npz`` and ``test.npz`` (where each picture lies, its label, size and original
path) and ``fastlift-pack.json`` (the set's name, class names, group counts, and what was done to the pictures).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.catalogue import PACK_MANIFEST, DataSet
from fastlift.data.inaturalist import Rank
from fastlift.data.index import ImageIndex, PathTable, fingerprint
from fastlift.data.problems import Problems
from fastlift.errors import UserError
from fastlift.files import write_atomically, write_json

_FORMAT = 1
_STATED = ("dataset", "class_names", "group_counts", "ranks", "shard_bytes")


@dataclass(frozen=True)
class PackedSplit:
    """The index of one packed split, as it is stored."""

    originals: PathTable  # relative paths before packing
    labels: np.ndarray  # int64 [N]
    widths: np.ndarray  # int32 [N], of the packed picture
    heights: np.ndarray  # int32 [N]
    shards: np.ndarray  # int32 [N], which tar
    spans: np.ndarray  # int64 [N, 2], offset and bytes of the encoded picture in it


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def write_split(root: Path, split: str, packed: PackedSplit) -> None:
    """Store the index of one split."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(
                file,
                data=packed.originals.data,
                offsets=packed.originals.offsets,
                labels=packed.labels,
                widths=packed.widths,
                heights=packed.heights,
                shards=packed.shards,
                spans=packed.spans,
            )

    write_atomically(root / f"{split}.npz", write)


def write_manifest(root: Path, data: DataSet, shard_bytes: dict[str, int], short_side: int | None) -> None:
    """Store what is true of the whole pack; written last, so that a pack without it is unfinished."""
    write_json(
        root / PACK_MANIFEST,
        {
            "format": _FORMAT,
            "dataset": data.name,
            "class_names": list(data.class_names),
            "group_counts": data.group_counts.tolist(),
            "ranks": {
                name: {"names": rank.names, "of_class": rank.of_class.tolist()} for name, rank in data.ranks.items()
            },
            "short_side": short_side,
            "shard_bytes": shard_bytes,
        },
    )


def load_pack(root: Path, name: str) -> DataSet:
    """Read a pack of the data set ``name``.

    Raises:
        UserError: another set's pack, another format, missing or cut shards.
    """
    manifest = _manifest(root)
    if manifest["dataset"] != name:
        raise UserError(f"{root} is a pack of {manifest['dataset']}, not of {name}")
    problems = Problems(f"pack {root}", hint="Make it again with `fastlift data pack`.")
    for shard, size in manifest["shard_bytes"].items():
        file = root / shard
        if not file.is_file():
            problems.add(f"{file}: missing")
        elif file.stat().st_size != size:
            problems.add(f"{file}: {file.stat().st_size:,} bytes instead of {size:,}")
    problems.raise_if_any()
    class_names = tuple(manifest["class_names"])
    train, test = (_index(root, name, split, class_names) for split in ("train", "test"))
    ranks = {
        rank: Rank(tuple(stored["names"]), np.array(stored["of_class"], dtype=np.int64))
        for rank, stored in manifest["ranks"].items()
    }
    return DataSet(name, train, test, class_names, np.array(manifest["group_counts"], dtype=np.int64), ranks)


def _manifest(root: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((root / PACK_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{root / PACK_MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise UserError(f"{root / PACK_MANIFEST} is of another format than this version of fastlift reads ({_FORMAT})")
    if missing := [name for name in _STATED if name not in manifest]:
        raise UserError(f"{root / PACK_MANIFEST} does not state {', '.join(missing)}. Make the pack again.")
    return manifest


def _index(root: Path, name: str, split: str, class_names: tuple[str, ...]) -> ImageIndex:
    try:
        with np.load(root / f"{split}.npz", allow_pickle=False) as file:
            columns = {key: file[key] for key in file.files}
        originals = PathTable(columns.pop("data"), columns.pop("offsets"))
        packed = PackedSplit(originals, **columns)
    except Exception as error:  # reading a damaged one raises nearly everything
        raise UserError(f"{root / f'{split}.npz'} cannot be read: {error}. Make the pack again.") from error
    paths = PathTable.from_strings(shard_name(split, int(shard)) for shard in packed.shards)
    # Hashed over the original paths: a pack of unchanged pictures can go on with a run on the files, and the reverse.
    hashed = fingerprint(originals, packed.labels, packed.widths, packed.heights, class_names)
    return ImageIndex(
        f"{name}/{split}",
        root,
        paths,
        packed.labels,
        packed.widths,
        packed.heights,
        class_names,
        hashed,
        spans=packed.spans,
    )
