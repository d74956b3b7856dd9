"""``--dataset folder``: ``root/train/CLASS/image.jpg`` and ``root/test/CLASS/image.jpg`` (or ``val``)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.splits import check_classes, index_listings
from fastlift.data.datasets.wordnet import names_of_folders
from fastlift.data.index.index import PathTable
from fastlift.data.index.lines import read_lines
from fastlift.data.index.lists import Listing, parse_class_names
from fastlift.data.index.problems import Problems
from fastlift.data.stores.url import Url
from fastlift.errors import UserError

_LAYOUT = (
    "  DATA_ROOT/train/CLASS/image.jpg\n  DATA_ROOT/test/CLASS/image.jpg\n"
    "  DATA_ROOT/val/CLASS/image.jpg   (or valid, validation; the test split where there is no other)"
)
_VAL = ("val", "valid", "validation")
# The last four cannot be used, but are listed, so that they are refused by name instead of vanishing.
_EXTENSIONS = tuple(
    f".{ending}"
    for ending in ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic", "heif"]
)


def class_folder_names(split: Path | Url) -> list[str]:
    """The class folders of one split in alphabetical order."""
    if isinstance(split, Url):
        return sorted({path.split("/", 1)[0] for path in split.files() if "/" in path and not path.startswith(".")})
    return sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not entry.name.startswith("."))


class ClassFolders(Source):
    """A folder of class folders for each split; names are the folders', or those of a file."""

    name = "folder"
    takes_class_names = True
    last_step = "class folders, index"

    def how_to_get(self) -> str:
        return f"\nExpected layout:\n{_LAYOUT}"

    def load(self, request: Request) -> DataSet:
        root = request.data_root
        if root is None:
            raise UserError(f"--dataset folder needs --data-root.{self.how_to_get()}")
        problems = Problems(str(root))
        train_split, test_split = _find_split(root, ("train",)), _find_split(root, ("test", *_VAL))
        val_split = None if test_split in _VAL else next((name for name in _VAL if _has_classes(root / name)), None)
        classes = class_folder_names(root / train_split)
        class_names = names_of_folders(classes)
        if request.class_names is not None:
            class_names = parse_class_names(read_lines(request.class_names), str(request.class_names), lambda: classes)
            if len(class_names) != len(classes):
                raise UserError(
                    f"{request.class_names} has {len(class_names)} names, {root} has {len(classes)} classes"
                )
        train = list_split(root, train_split, classes, problems)
        check_classes(train, class_names, str(root / train_split), problems)
        listings = {"train": train}
        for split, folder in (("val", val_split), ("test", test_split)):
            if folder is not None:
                listings[split] = list_split(root, folder, classes, problems)
                if len(listings[split].labels) == 0:
                    problems.add(f"{root / folder}: no images")
        return index_listings(request, listings, class_names, problems)


def _find_split(root: Path | Url, names: Sequence[str]) -> str:
    """The first of ``names`` that is a folder with class folders in it; raises UserError where none is."""
    for name in names:
        if _has_classes(root / name):
            return name
    wanted = " or ".join(str(root / name) for name in names)
    raise UserError(f"no class folders in {wanted}. Expected layout:\n{_LAYOUT}")


def _has_classes(split: Path | Url) -> bool:
    return (isinstance(split, Url) or split.is_dir()) and bool(class_folder_names(split))


def list_split(root: Path | Url, split: str, classes: Sequence[str], problems: Problems) -> Listing:
    """All images of a split, class by class, by name; labels are positions in ``classes``."""
    tables: list[PathTable] = []
    for extra in sorted(set(class_folder_names(root / split)) - set(classes)):
        problems.add(f"{root / split / extra}: a class that the training split does not have")
    listed = _of_store(store) if isinstance(store := root / split, Url) else {}
    for name in classes:
        folder = root / split / name
        if isinstance(folder, Url):
            inside = listed.get(name, [])
        else:
            inside = [path[len(os.fspath(folder)) :].replace(os.sep, "/") for path in sorted(images_in(folder))]
        tables.append(PathTable.from_strings(f"{split}/{name}{path}" for path in inside))
    labels = np.repeat(np.arange(len(classes)), [len(table) for table in tables])
    return Listing(PathTable.joined(tables), labels.astype(np.int64))


def _of_store(split: Url) -> dict[str, list[str]]:
    """The images of each class in order, by their paths in its folder, as ``images_in`` has them."""
    found: dict[str, list[str]] = {}
    for path in split.files():
        name, slash, rest = path.partition("/")
        if rest.lower().endswith(_EXTENSIONS) and not any(part.startswith(".") for part in rest.split("/")):
            found.setdefault(name, []).append(slash + rest)
    return found


def images_in(folder: Path) -> list[str]:
    """All images below a folder, by their endings; hidden files and folders are passed over.

    Links to folders are followed, each folder once, and never to one that the link lies in.
    """
    found: list[str] = []
    seen = {os.path.realpath(parent) for parent in (folder, *folder.resolve().parents)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        found += [os.path.join(parent, n) for n in names if n.lower().endswith(_EXTENSIONS) and not n.startswith(".")]
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _first_time(parent, name, seen)]
    return found


def _first_time(parent: str, name: str, seen: set[str]) -> bool:
    place = os.path.realpath(os.path.join(parent, name))
    if place in seen:
        return False
    seen.add(place)
    return True


FOLDER = ClassFolders()
