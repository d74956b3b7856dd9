"""iNaturalist's own files: ``train2018.json``, ``val2018.json`` and ``categories.json``, and the ranks above species."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlift.data.datasets.dataset import Rank
from fastlift.data.datasets.taxon import RANKS
from fastlift.data.index.index import PathTable
from fastlift.data.index.lists import LARGEST_LABEL, Listing, is_file_name, is_unicode, leaves_root
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError
from fastlift.system.files import parse_json


def parse_annotations(text: str, source: str, num_classes: int | None, problems: Problems) -> Listing:
    """Read ``images`` (id, file_name) and ``annotations`` (image_id, category_id) in the annotations' order.

    Bad entries are added to ``problems`` and left out of the result.
    """
    pairs: list[tuple[str | None, int]] = []
    try:
        data = parse_json(text)
        files = {image["id"]: str(image["file_name"]) for image in data["images"]}
        pairs = [(files.get(entry["image_id"]), _category(entry)) for entry in data["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        problems.add(f"{source}: not an annotation file of iNaturalist ({type(error).__name__}: {error})")
    paths, labels = [], []
    limit = LARGEST_LABEL if num_classes is None else num_classes
    for number, (path, label) in enumerate(pairs, start=1):
        if path is None:
            problems.add(f"{source} annotation {number}: no such image")
        elif not 0 <= label < limit:
            problems.add(f"{source} annotation {number}: category {label} is out of range: {path[:200]}")
        elif not is_file_name(path):
            problems.add(f"{source} annotation {number}: no name that a file can have: {path[:200]!r}")
        elif leaves_root(path):
            problems.add(f"{source} annotation {number}: path leaves the data root: {path[:200]}")
        else:
            paths.append(path)
            labels.append(label)
    return Listing(PathTable.from_strings(paths), np.array(labels, dtype=np.int64))


def _category(entry: Mapping[str, Any]) -> int:
    """Raises ValueError for a category that is no whole number."""
    value = entry["category_id"]
    if type(value) is not int:
        raise ValueError(f"category_id {value!r:.40} is no whole number")
    return value


def parse_categories(text: str, source: str) -> list[dict[str, Any]]:
    """The entries of ``categories.json`` in the order of their ids; raises UserError where these are not 0..C-1."""
    try:
        entries = sorted(parse_json(text), key=lambda entry: entry["id"])
        complete = [entry["id"] for entry in entries] == list(range(len(entries)))
        if not entries or not complete or not all(entry["name"] for entry in entries):
            raise ValueError("ids are not 0, 1, 2, ... with a name each")
        if not is_unicode(json.dumps(entries, ensure_ascii=False)):
            raise ValueError("a name is not Unicode")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source} is not iNaturalist's categories.json ({error})") from error
    return entries


def ranks_of(categories: Sequence[Mapping[str, Any]]) -> dict[str, Rank]:
    """Every rank that the categories tell, grouped by its name alone.

    So the published counts come out (272 orders, 1,118 families, 4,401 genera), at the price that eleven genera whose
    name plants and animals share (Oenanthe is a bird and a herb), and the "NA" of unplaced species, count as one group.
    """
    found: dict[str, Rank] = {}
    for rank in RANKS:
        if not all(rank in entry for entry in categories):
            continue
        names = [str(entry[rank]) for entry in categories]
        groups = {name: i for i, name in enumerate(sorted(set(names)))}
        found[rank] = Rank(tuple(groups), np.array([groups[name] for name in names], dtype=np.int64))
    return found
