"""Everything that reads files which somebody else may have written, as functions of bytes that must not fail.

A target returns, or raises what its reader documents (``UserError``, ``DecodeError``); anything else is a find, and so are
a hang and an allocation out of proportion. The bytes are whole files; a reader that takes a path gets one.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fastlift.data.loading.reading import DecodeError
from fastlift.errors import UserError

Target = Callable[[bytes], None]
EXPECTED = (UserError, DecodeError)


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fastlift-fuzz-"))


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def image_list(data: bytes) -> None:
    """Lines of ``path label``: every accepted path stays below the root, every label is in range."""
    from fastlift.data.index.lines import line_blocks
    from fastlift.data.index.lists import leaves_root, parse_list
    from fastlift.data.index.problems import Problems

    problems = Problems("fuzz")
    listing = parse_list(line_blocks(_file("list.txt", data)), "list", 100, problems)
    assert len(listing.paths) == len(listing.labels)
    assert all(0 <= label < 100 for label in listing.labels.tolist())
    assert not any(leaves_root(path) or "\0" in path for path in listing.paths)
    problems.raise_if_any()


def class_names(data: bytes) -> None:
    """Lines of ``folder name``: no name is empty."""
    from fastlift.data.index.lines import read_lines
    from fastlift.data.index.lists import parse_class_names

    names = parse_class_names(read_lines(_file("names.txt", data)), "names")
    assert names
    assert all(name.strip() for name in names)


def annotations(data: bytes) -> None:
    """iNaturalist's JSON of images and their categories: every accepted path stays below the root, every label is in range."""
    from fastlift.data.datasets.inaturalist import parse_annotations
    from fastlift.data.index.lines import read_text
    from fastlift.data.index.lists import leaves_root
    from fastlift.data.index.problems import Problems

    problems = Problems("fuzz")
    listing = parse_annotations(read_text(_file("train2018.json", data)), "annotations", 100, problems)
    assert all(0 <= label < 100 for label in listing.labels.tolist())
    assert not any(leaves_root(path) or "\0" in path for path in listing.paths)
    problems.raise_if_any()


def categories(data: bytes) -> None:
    """iNaturalist's JSON of species and the ranks above them."""
    from fastlift.data.datasets.inaturalist import parse_categories, ranks_of
    from fastlift.data.index.lines import read_text

    found = parse_categories(read_text(_file("categories.json", data)), "categories")
    assert all(str(entry["name"]) for entry in found)
    assert all(len(rank.of_class) == len(found) for rank in ranks_of(found).values())


def config(data: bytes) -> None:
    """A config file: what is accepted can be written and read back."""
    from fastlift.config import load, to_dict

    settings = load(_file("config.json", data))
    again = load(_file("again.json", json.dumps(to_dict(settings)).encode()))
    assert again == settings


def checkpoint(data: bytes) -> None:
    """A checkpoint of a run."""
    from fastlift.runs import checkpoints

    checkpoints.read(_file("epoch-001.safetensors", data))


def sealed_checkpoint(data: bytes) -> None:
    """The same with a digest that holds, as whoever can write the file can make it."""
    from fastlift.runs import checkpoints
    from fastlift.system import sealed

    path = _file("epoch-001.safetensors", data)
    with contextlib.suppress(sealed.Damaged), path.open("r+b") as file:
        place = sealed._place_of_digest(file, path)
        digest = sealed._digest(file, place)
        file.seek(place)
        file.write(digest)
    checkpoints.read(path)


def lift_checkpoint(data: bytes) -> None:
    """The authors' torch files, read with weights_only."""
    from fastlift.interop.lift_checkpoints import as_lift_state, settings_of

    settings_of(as_lift_state(_file("checkpoint.pth.tar", data)))


def index_cache(data: bytes) -> None:
    """The cache of a header scan: damaged is absent."""
    from fastlift.data.index import scan

    scan.load_scan(_file("index.npz", data), 100)


def looks_cache(data: bytes) -> None:
    """The cache of what is known of JPEGs: damaged is absent, and what is known lies within the image."""
    from fastlift.data.index.index import ImageIndex, PathTable
    from fastlift.data.loading import looks

    size, paths = np.ones(4, dtype=np.int32), PathTable.from_strings(["x.jpg"] * 4)
    index = ImageIndex("x", _folder(), paths, np.zeros(4, np.int64), size, size, ("x",), "0" * 32, cache=_folder())
    file = looks._file_of(index)
    assert file is not None
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    known = looks.Looks(index)
    for i in range(4):
        parts = known.parts(i, 1000) or ()
        assert all(0 <= start <= end <= 1000 for start, end in parts)


def text_cache(data: bytes) -> None:
    """The cache of text features: damaged is absent."""
    from fastlift.models.text import features as text

    text._cached(_file("features.safetensors", data), "0" * 32, 2)


def descriptors(data: bytes) -> None:
    """JSON of class names and sentences."""
    from fastlift.models.text.features import prompts_for

    prompts_for(("red brick", "green leaf"), f"descriptor:{_file('sentences.json', data)}")


@cache
def _pack() -> Path:
    """A small pack, to be damaged in one file at a time."""
    from fixtures import write_tiny_data

    from fastlift.data import pack

    data, root = write_tiny_data(_folder() / "data", tests_a_class=1), _folder() / "pack"
    lists = {"train_list": data / "train.txt", "test_list": data / "test.txt", "class_names": data / "class_names.txt"}
    pack.run("list", root, data_root=data, **lists)
    return root


def _loaded_pack() -> Any:
    from fastlift.data.datasets.cutting import CutSettings
    from fastlift.data.datasets.dataset import Request
    from fastlift.data.datasets.packed import load_pack

    return load_pack(Request("list", _pack() / "cache", "stop", False, None, CutSettings(), data_root=_pack()))


def _damaged_pack(name: str, data: bytes) -> None:
    file = _pack() / name
    good = file.read_bytes()
    try:
        file.write_bytes(data)
        found = _loaded_pack()
        for index in found.splits.values():
            assert len(index.labels) == 0 or 0 <= index.labels.min() <= index.labels.max() < len(found.class_names)
            assert len(index.paths) == len(index.labels) == len(index.widths) == len(index.heights)
    finally:
        file.write_bytes(good)


def pack_manifest(data: bytes) -> None:
    """A pack's JSON beside good shards."""
    _damaged_pack("fastlift-pack.json", data)


def pack_index(data: bytes) -> None:
    """A pack's table of places beside good shards."""
    _damaged_pack("train.npz", data)


def tar_shard(data: bytes) -> None:
    """A shard that holds something else than its index says: each image is decoded, or refused with a reason."""
    from dataclasses import replace

    from fastlift.data.loading.decode import load_image

    index = _loaded_pack().test
    name = index.paths[0]
    elsewhere = _file(f"shards/{name}", data).parent
    for i in range(min(3, len(index))):
        load_image(replace(index, root=elsewhere), i)


def image(data: bytes) -> None:
    """An image: where header and decoder both accept it, they agree on its size."""
    from fastlift.data.index.headers import read_header_bytes
    from fastlift.data.loading.decode import decode

    header = read_header_bytes(data)
    if header.reason or header.width * header.height > 2**22:
        return
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (header.height, header.width, 3)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        image_list, class_names, annotations, categories, config, checkpoint, sealed_checkpoint, lift_checkpoint, index_cache, looks_cache, text_cache,
        descriptors, pack_manifest, pack_index, tar_shard, image,
    )
}  # fmt: skip


def survives(target: Target, data: bytes) -> None:
    """Run a target; what its reader documents passes, anything else is raised."""
    with warnings.catch_warnings(), contextlib.suppress(EXPECTED):
        warnings.simplefilter("ignore")
        target(data)
