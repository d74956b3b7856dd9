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
_NAMED = 3  # folders that a message names
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

    A folder called ``train``, ``test`` or ``val`` that holds images, and not folders of classes, is a class among others.

    Raises:
        UserError: there are no classes, or only part of a layout with splits.
    """
    names = class_folder_names(root)
    found = {split: [name for way in ways for name in names if name.lower() == way] for split, ways in _SPLITS.items()}
    called_so = [name for there in found.values() for name in there]
    others = [name for name in names if name not in called_so]
    classes = _classes_called_so(root, called_so, others)
    full = {
        split: [name for name in there if name not in classes and _has_classes(root / name)]
        for split, there in found.items()
    }
    if full["train"]:
        return _with_splits(root, full, others)
    if found["train"] and found["train"][0] not in classes:
        raise UserError(_no_classes(root / found["train"][0]))
    if splits := full["test"] + full["val"]:
        beside = f" beside the classes {', '.join(others[:2])}{', ...' * (len(others) > 2)}" if others else ""
        raise UserError(
            f"{root} holds {' and '.join(splits)} with folders of classes{beside}, but no train: move the training images' "
            f"folders into {root / 'train'}. Expected layout:\n{LAYOUT}"
        )
    if not names:
        raise UserError(_no_classes(root))
    if len(names) == 1 and _has_classes(inner := root / names[0]):
        raise UserError(f"{root} holds one folder, {names[0]}, and in it others: give --data-root {inner}?")
    return Layout("", None, None, (*_loose(root), *_as_class(root, classes)))


def _classes_called_so(root: Path | Url, called_so: list[str], others: list[str]) -> list[str]:
    """Those folders with the name of a split that are classes: they hold images themselves, and so do others beside them."""
    with_images = [name for name in called_so if others and _images_directly_in(root / name)]
    return with_images if with_images and any(_images_directly_in(root / name) for name in others) else []


def _as_class(root: Path | Url, classes: list[str]) -> tuple[str, ...]:
    if not classes:
        return ()
    are = "is a class" if len(classes) == 1 else "are classes"
    return (f"{' and '.join(classes)} in {root} {are}: images lie there, as in the other class folders",)


def _no_classes(folder: Path | Url) -> str:
    return f"no class folders in {folder}{_instead(folder)}. Expected layout:\n{LAYOUT}"


def _with_splits(root: Path | Url, full: dict[str, list[str]], others: list[str]) -> Layout:
    train, test, val = ([*full[split], None][0] for split in ("train", "test", "val"))
    assert train is not None
    unused = [name for split in full.values() for name in split[1:]]
    notes = [f"{root / name} is not used: another folder is that split" for name in unused]
    if others:
        shown = ", ".join(others[:_NAMED]) + ", ..." * (len(others) > _NAMED)
        notes.append(f"not used, as {root / train} holds the classes: {shown}")
    notes += [
        f"{root / name} and {root / train} are one folder, by a link: figures will be too good"
        for name in (test, val)
        if isinstance(root, Path) and name is not None and (root / name).samefile(root / train)
    ]
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
        return f", but {count:,} image{'s' * (count > 1)}: they need a folder for each class, or a table of paths and labels (--train-list)"
    return ""


def _images_directly_in(root: Path | Url) -> int:
    names = (path for path in root.files() if "/" not in path) if isinstance(root, Url) else os.listdir(root)
    return sum(name.lower().endswith(IMAGE_ENDINGS) and not is_leftover(name) for name in names)
