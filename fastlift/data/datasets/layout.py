"""Which folders of a data root are the splits, and which are the classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastlift.data.index.leftovers import is_leftover
from fastlift.data.stores.url import Url
from fastlift.errors import UserError

# The last four cannot be used, but are listed, so that they are refused by name instead of vanishing.
IMAGE_ENDINGS = tuple(
    f".{ending}"
    for ending in ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic", "heif"]
)
LAYOUT = (
    "  DATA_ROOT/train/CLASS/image.jpg\n"
    "  DATA_ROOT/test/CLASS/image.jpg   (without it val/ is the test split, else a part of each class is cut off)\n"
    "  DATA_ROOT/val/CLASS/image.jpg    (or valid, validation; need not be there)\n"
    "or one folder that is split by itself:\n"
    "  DATA_ROOT/CLASS/image.jpg"
)
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation")}


@dataclass(frozen=True)
class Layout:
    """Where the splits lie below the data root; the training split may be the root itself (``""``)."""

    train: str
    val: str | None
    test: str | None
    notes: tuple[str, ...] = ()


def class_folder_names(split: Path | Url) -> list[str]:
    """The class folders of one split in alphabetical order.

    Raises UserError where one of them is a link to a folder that it lies in: it would hold all classes again.
    """
    if isinstance(split, Url):
        found = {path.split("/", 1)[0] for path in split.files() if "/" in path}
        return sorted(name for name in found if not is_leftover(name))
    with os.scandir(split) as entries:  # a link to itself is no folder, and entry.is_dir() would raise
        there = [entry for entry in entries if not is_leftover(entry.name)]
        links = [entry.name for entry in there if entry.is_symlink()]
        names = [entry.name for entry in there if not entry.is_symlink() and entry.is_dir()]
    above = {os.path.realpath(split), *map(str, Path(os.path.realpath(split)).parents)} if links else set()
    for name in links:
        if os.path.isdir(split / name):
            if os.path.realpath(split / name) in above:
                raise UserError(f"{split / name} is a link to a folder that it lies in: remove the link")
            names.append(name)
    return sorted(names)


def find_layout(root: Path | Url) -> Layout:
    """The splits of a data root, by the names of its folders in any case; without a ``train`` it holds the classes itself.

    Raises:
        UserError: there are no classes, or only part of a layout with splits.
    """
    names = class_folder_names(root)
    found = {split: [name for way in ways for name in names if name.lower() == way] for split, ways in _SPLITS.items()}
    full = {split: [name for name in there if _has_classes(root / name)] for split, there in found.items()}
    if full["train"]:
        return _with_splits(root, full)
    if found["train"]:
        raise UserError(f"no class folders in {root / found['train'][0]}. Expected layout:\n{LAYOUT}")
    if others := full["test"] + full["val"]:
        raise UserError(f"{root} holds {' and '.join(others)}, but no train. Expected layout:\n{LAYOUT}")
    if not names:
        raise UserError(f"no class folders in {root}{_instead(root)}. Expected layout:\n{LAYOUT}")
    if len(names) == 1 and _has_classes(inner := root / names[0]):
        raise UserError(f"{root} holds one folder, {names[0]}, and in it others: give --data-root {inner}?")
    return Layout("", None, None, _loose(root))


def _with_splits(root: Path | Url, full: dict[str, list[str]]) -> Layout:
    train, test, val = ([*full[split], None][0] for split in ("train", "test", "val"))
    assert train is not None
    unused = [name for split in full.values() for name in split[1:]]
    notes = [f"{root / name} is not used: another folder is that split" for name in unused]
    if test is not None:
        return Layout(train, val, test, tuple(notes))
    if val is not None:
        notes.append(f"{root / val} is the test split, as there is no folder test")
    return Layout(train, None, val, tuple(notes))


def _has_classes(split: Path | Url) -> bool:
    return (isinstance(split, Url) or split.is_dir()) and bool(class_folder_names(split))


def _loose(root: Path | Url) -> tuple[str, ...]:
    """A note of the images that lie beside the class folders."""
    if not (count := _images_directly_in(root)):
        return ()
    lie, are = ("lies", "is") if count == 1 else ("lie", "are")
    return (f"{count:,} image{'s' * (count > 1)} that {lie} in {root} itself, in no class folder, {are} left out",)


def _instead(root: Path | Url) -> str:
    if count := _images_directly_in(root):
        return (
            f", but {count:,} images: they need a folder for each class, or a table of paths and labels (--train-list)"
        )
    return ""


def _images_directly_in(root: Path | Url) -> int:
    names = (path for path in root.files() if "/" not in path) if isinstance(root, Url) else os.listdir(root)
    return sum(name.lower().endswith(IMAGE_ENDINGS) and not is_leftover(name) for name in names)
