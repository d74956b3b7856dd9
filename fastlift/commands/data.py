"""``fastlift data prepare|check|stats|pack``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastlift.commands.dataset_meant import dataset_meant
from fastlift.commands.parsing import parse
from fastlift.data.datasets.catalogue import SourceSettings
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.groups import GroupSettings
from fastlift.data.stores.cache import CacheSettings
from fastlift.settings import MOST_PIXELS, Between, one_of
from fastlift.system.progress import now_and_then

ACTIONS = {
    "prepare": "tell step by step what a set needs and what of it is there; check it and write its index",
    "check": "look for everything that is wrong: lists, counts, missing and unreadable files",
    "stats": "classes, groups, image sizes, a plot of the class counts",
    "pack": "copy a set into tar shards, which read faster from disks that seek and from network shares",
}

EXAMPLES = {
    "prepare": ("fastlift data prepare cifar100_ir100", "fastlift data prepare imagenet_lt --data-root /data/imagenet"),
    "check": (
        "fastlift data check --dataset places_lt --data-root /data/places",
        "fastlift data check --dataset list --data-root photos --train-list train.txt --test-list test.txt --decode",
    ),
    "stats": ("fastlift data stats", "fastlift data stats --dataset cifar100_ir50 --json"),
    "pack": (
        "fastlift data pack /data/imagenet-pack --dataset imagenet_lt --data-root /data/imagenet",
        "fastlift train --dataset imagenet_lt --data-root /data/imagenet-pack",
    ),
}


@dataclass(frozen=True)
class Prepare:
    """Tell step by step what a data set needs, what of it is there, and where to get the rest.

    CIFAR is downloaded and shapes are drawn. Once all is there, it is checked and its index written. Exit code 1 while something
    is missing.
    """

    name: tyro.conf.Positional[str]
    """Data set by name."""
    data_root: str | None = None
    """Folder with the images, or its URL."""
    train_list: str | None = None
    """List file of the training split, where it is not in the data root."""
    val_list: str | None = None
    """List file of the validation split, where there is one."""
    test_list: str | None = None
    """List file of the test split, where it is not in the data root."""
    class_names: str | None = None
    """Class-name file, where it is not in the data root."""
    tail: TailSettings = field(default_factory=TailSettings)
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class Check:
    """Check all files of a data set anew and tell every problem. Exit code 1 where there is one."""

    source: SourceSettings = field(default_factory=SourceSettings)
    cut: CutSettings = field(default_factory=CutSettings)
    tail: TailSettings = field(default_factory=TailSettings)
    stores: CacheSettings = field(default_factory=CacheSettings)
    decode: bool = False
    """Decode every image too, not only its header (slow)."""
    json: bool = False
    """Print as JSON, with all problems."""


@dataclass(frozen=True)
class Stats:
    """A data set in numbers: classes, groups, image sizes, and a plot of the class counts."""

    source: SourceSettings = field(default_factory=SourceSettings)
    cut: CutSettings = field(default_factory=CutSettings)
    tail: TailSettings = field(default_factory=TailSettings)
    stores: CacheSettings = field(default_factory=CacheSettings)
    taxon: TaxonSettings = field(default_factory=TaxonSettings)
    groups: GroupSettings = field(default_factory=GroupSettings)
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class Pack:
    """Copy a data set into tar shards; train on them by giving the folder as --data-root."""

    output: tyro.conf.Positional[Path]
    """A new folder for the shards."""
    source: SourceSettings = field(default_factory=SourceSettings)
    cut: CutSettings = field(default_factory=CutSettings)
    tail: TailSettings = field(default_factory=TailSettings)
    stores: CacheSettings = field(default_factory=CacheSettings)
    short_side: Annotated[int | None, Between(1, MOST_PIXELS)] = None
    """Shrink images to this short side in pixels (changes pixels; off by default)."""
    json: bool = False
    """Print as JSON."""


def usage() -> str:
    """The text of ``fastlift data --help``."""
    from fastlift.data.datasets.catalogue import names

    listed = "\n".join(f"  {name:<7} {what}" for name, what in ACTIONS.items())
    return (
        f"usage: fastlift data ACTION [options]     fastlift data ACTION --help tells all options\n\nactions:\n{listed}\n\n"
        f"data sets: {', '.join(names())}\n"
        "'list' takes list files of your own, 'folder' a folder of class folders for each split."
    )


def run(arguments: list[str]) -> int:
    """Dispatch to an action."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    action = one_of("action", arguments[0], ACTIONS)
    return {"prepare": _prepare, "check": _check, "stats": _stats, "pack": _pack}[action](arguments[1:])


def _prepare(arguments: list[str]) -> int:
    command = parse(Prepare, arguments, "data prepare", examples=EXAMPLES["prepare"])
    from fastlift.data.inspection.prepare import prepare
    from fastlift.reporting.console import show_found

    names = ("data_root", "train_list", "val_list", "test_list", "class_names")
    files = {name: getattr(command, name) for name in names}
    found = prepare(command.name, progress=progress_lines(), **files, **command.tail.values())
    show_found(found, command.json)
    return 0 if found.ready else 1


def _check(arguments: list[str]) -> int:
    command = parse(Check, arguments, "data check", Check(_source(arguments)), examples=EXAMPLES["check"])
    from fastlift.data.inspection.check import check
    from fastlift.reporting.console import show_found

    found = check(
        decode=command.decode,
        progress=progress_lines(),
        **source_options(command.source),
        **command.cut.values(),
        **command.tail.values(),
        **command.stores.values(),
    )
    show_found(found, command.json)
    return 0 if found.ok else 1


def _stats(arguments: list[str]) -> int:
    command = parse(Stats, arguments, "data stats", Stats(_source(arguments)), examples=EXAMPLES["stats"])
    from fastlift.data.inspection.stats import stats
    from fastlift.reporting.console import show_found

    options = (
        source_options(command.source)
        | command.cut.values()
        | command.tail.values()
        | command.stores.values()
        | command.taxon.values()
        | {"boundaries": command.groups.group_boundaries}
    )
    show_found(stats(progress=progress_lines(), **options), command.json)
    return 0


def _pack(arguments: list[str]) -> int:
    default = Pack(tyro.MISSING, _source(arguments))
    command = parse(Pack, arguments, "data pack", default, examples=EXAMPLES["pack"])
    from fastlift.data import pack
    from fastlift.data.datasets.dataset import told_images
    from fastlift.reporting.console import show_json, show_line

    options = source_options(command.source) | command.cut.values() | command.tail.values()
    options |= command.stores.values()
    name = options.pop("name")
    packed = pack.run(name, command.output, short_side=command.short_side, progress=progress_lines(), **options)
    if command.json:
        show_json(packed.to_dict())
    else:
        size, before = packed.bytes / 2**20, packed.source_bytes / 2**20
        show_line(
            f"{packed.folder}: {told_images(packed.images)} in {packed.shards} "
            f"shards, {size:,.1f} MiB (the files had {before:,.1f}), {packed.shrunk:,} shrunk"
        )
    return 0


def _source(arguments: list[str]) -> SourceSettings:
    """The defaults of the flags that say which data set."""
    return SourceSettings(dataset=dataset_meant(arguments))


def source_options(source: SourceSettings) -> dict[str, Any]:
    """As ``load_data_set`` takes them."""
    values = source.values()
    return {"name": values.pop("dataset"), **values}


def progress_lines() -> Any:
    """Lines on stderr, so that long scans are not silent."""
    return now_and_then(partial(print, file=sys.stderr))
