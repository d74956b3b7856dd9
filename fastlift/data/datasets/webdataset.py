"""``--dataset webdataset``: WebDataset shards of anybody's, tar files of ``KEY.jpg`` beside ``KEY.cls`` or ``KEY.json``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.label_texts import Labels
from fastlift.data.datasets.shard_tables import tables_of
from fastlift.data.datasets.splits import check_classes, finish
from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.data.index.lists import Listing, leaves_root
from fastlift.data.index.problems import SHOWN, Problems
from fastlift.data.index.scan import InShards, Scan, finish_index
from fastlift.data.index.shards import ShardTable
from fastlift.data.stores.url import Url
from fastlift.errors import UserError

_LAYOUT = (
    "  DATA_ROOT/train-000000.tar, ... or DATA_ROOT/train/*.tar\n"
    "  DATA_ROOT/test-000000.tar, ... or DATA_ROOT/test/*.tar\n"
    "  DATA_ROOT/val-000000.tar, ... or DATA_ROOT/val/*.tar   (or validation; the test split where there is no other)\n"
    "or patterns of them: --train-list 'train-{000000..000099}.tar' --test-list 'val-{000000..000009}.tar'"
)
_SPLITS = {"train": ("train",), "val": ("val", "validation"), "test": ("test", "val", "validation")}
_MOST_SHARDS = 2**20
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")


class WebDataset(Source):
    """Tar shards that are named after their split."""

    name = "webdataset"
    takes_lists = takes_class_names = lists_are_patterns = True
    last_step = "shards, index"

    def how_to_get(self) -> str:
        return f"\nExpected layout:\n{_LAYOUT}"

    def load(self, request: Request) -> DataSet:
        if request.data_root is None:
            raise UserError(f"--dataset webdataset needs --data-root.{self.how_to_get()}")
        problems = Problems(str(request.data_root))
        shards = _shards_of_splits(request.data_root, request.patterns)
        tables = {
            split: tables_of(request.data_root, names, request.cache_dir, request.rescan, problems, request.progress)
            for split, names in shards.items()
        }
        problems.raise_if_any()
        texts = {text for table in tables["train"] for text in table.texts}
        labels = Labels.of(texts, request.class_names, _names_of_numbers)
        indices = {split: _index(request, split, shards[split], tables[split], labels, problems) for split in shards}
        return finish(request, indices, problems)


def _shards_of_splits(root: Path | Url, patterns: Mapping[str, str]) -> dict[str, list[str]]:
    """The shards of each split that there is; UserError where there are none to train on, or none to test with.

    Where patterns are given, a validation split is one of them.
    """
    wanted = [split for split in _SPLITS if split != "val" or split in patterns or not patterns]
    shards = {"val": [], **{split: find_shards(root, split, patterns.get(split)) for split in wanted}}
    if both := set(shards["val"]) & set(shards["test"]):
        if "val" in patterns:
            raise UserError(f"--val-list and the test split have shards in common: {min(both)}")
        shards["val"] = []
    for split in ("train", "test"):
        if not shards[split]:
            raise UserError(f"no shards {' or '.join(_SPLITS[split])} in {root}. Expected layout:\n{_LAYOUT}")
    return {split: names for split, names in shards.items() if names}


def find_shards(root: Path | Url, split: str, pattern: str | None) -> list[str]:
    """The shards of a split by their paths in the data root, those of a pattern in its order; maybe none."""
    if pattern is not None:
        return expand(pattern)
    if isinstance(root, Url):
        found = list(root.files())
    else:
        found = [path.relative_to(root).as_posix() for end in ("*.tar", "*/*.tar") for path in root.glob(end)]
    for name in _SPLITS[split]:
        ways = (f"{name}-*.tar", f"{name}_*.tar", f"{name}.tar", f"{name}/*.tar")
        if shards := sorted(path for path in found if path.count("/") < 2 and any(map(_matches(path), ways))):
            return shards
    return []


def _matches(path: str) -> Callable[[str], bool]:
    return lambda way: fnmatch.fnmatchcase(path, way) and path.count("/") == way.count("/")


def expand(pattern: str) -> list[str]:
    """All names that a pattern stands for: ``{000..099}`` counts, with as many digits; ``{a,b}`` lists.

    Raises UserError for one that is none, leaves the data root, or stands for more than a million shards.
    """
    names = [pattern]
    while any("{" in name or "}" in name for name in names):
        names = [one for name in names for one in _expanded_once(name, pattern)]
        if len(names) > _MOST_SHARDS:
            raise UserError(f"the pattern {pattern} stands for more than {_MOST_SHARDS:,} shards")
    if wrong := next((name for name in names if not name.endswith(".tar") or leaves_root(name)), None):
        raise UserError(
            f"{wrong} is no shard below the data root: a pattern is one such as train-{{000000..000099}}.tar"
        )
    return names


def _expanded_once(name: str, pattern: str) -> list[str]:
    braces = _BRACES.search(name)
    counted = braces and _RANGE.fullmatch(braces[1])
    if not braces or not (counted or "," in braces[1]):
        raise UserError(f"{pattern} is no pattern: write {{000000..000099}} or {{a,b}}")
    if counted:
        first, last = int(counted[1]), int(counted[2])
        if not first <= last < first + _MOST_SHARDS:
            raise UserError(f"{pattern} is no pattern: {braces[0]} does not rise, or has too many numbers")
        digits = len(counted[1]) if counted[1].startswith("0") else 1
        parts: Sequence[str] = [f"{number:0{digits}}" for number in range(first, last + 1)]
    else:
        parts = braces[1].split(",")
    return [name[: braces.start()] + part + name[braces.end() :] for part in parts]


def _names_of_numbers() -> tuple[str, ...]:
    raise UserError(
        "the labels in the shards are numbers: give --class-names, a file with lines of 'folder name' or 'name' in the order "
        "of the labels"
    )


def _index(
    request: Request, split: str, shards: list[str], tables: list[ShardTable], labels: Labels, problems: Problems
) -> ImageIndex | None:
    """One split; None where a label is of no class, or a class has no image, which is added to the problems."""
    assert request.data_root is not None
    before, parts, paths = problems.total, [], []
    for shard, table in zip(shards, tables, strict=True):
        known = np.array([labels.label(text) for text in table.texts], dtype=np.int64)
        unknown = [text for text, label in zip(table.texts, known, strict=True) if label < 0]
        for text in unknown[:SHOWN]:
            allowed = f"0..{len(labels.class_names) - 1}" if labels.of_text is None else "no such class"
            problems.add(f"{shard}: label {text[:100]} is out of range ({allowed})")
        parts.append(known[table.labels] if len(known) else table.labels)
        paths.append(PathTable.from_strings(f"{shard}/{name}" for name in table.names))
    if problems.total > before:
        return None
    listing = Listing(PathTable.joined(paths), np.concatenate(parts))
    if not len(listing.labels):
        problems.add(f"{split}: no images in {len(shards):,} shards")
    elif split == "train":
        check_classes(listing.labels, labels.class_names, "training shards", problems)
    if problems.total > before:
        return None
    widths, heights = (np.concatenate([getattr(table, side) for table in tables]) for side in ("widths", "heights"))
    firsts = np.cumsum([0, *(len(table.labels) for table in tables)]).tolist()
    reasons = {first + row: why for first, table in zip(firsts, tables) for row, why in table.reasons.items()}  # noqa: B905
    counts = [len(table.labels) for table in tables]
    places = InShards(
        PathTable.from_strings(shards),
        np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        np.concatenate([table.spans for table in tables]),
    )
    scan = Scan(listing.paths, listing.labels, widths, heights, reasons)
    name = f"{request.name}/{split}"
    return finish_index(name, request.data_root, scan, labels.class_names, request.bad_images, problems, places)


WEBDATASET = WebDataset()
