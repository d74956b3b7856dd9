"""``--dataset folder``: ``root/train/CLASS/image.jpg`` and ``root/test/CLASS/image.jpg`` (or ``val``), or ``root/CLASS/image.jpg``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from fastlift.data.datasets.class_names import check_names
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.layout import IMAGE_ENDINGS, LAYOUT, class_folder_names, find_layout
from fastlift.data.datasets.splits import index_listings
from fastlift.data.datasets.wordnet import names_of_folders
from fastlift.data.index.index import PathTable
from fastlift.data.index.leftovers import is_leftover
from fastlift.data.index.lines import read_lines
from fastlift.data.index.lists import Listing, parse_class_names
from fastlift.data.index.problems import Problems
from fastlift.data.stores.url import Url
from fastlift.errors import UserError

_NAMED = 3  # classes that a message names


class ClassFolders(Source):
    """A folder of class folders, for each split or for all; names are the folders', or those of a file."""

    name = "folder"
    takes_class_names = True
    last_step = "class folders, index"

    def how_to_get(self) -> str:
        return f"\nExpected layout:\n{LAYOUT}"

    def load(self, request: Request) -> DataSet:
        root = request.data_root
        if root is None:
            raise UserError(f"--dataset folder needs --data-root.{self.how_to_get()}")
        problems, layout = Problems(str(root)), find_layout(root)
        problems.notes += layout.notes
        splits = {"train": layout.train, "val": layout.val, "test": layout.test}
        folders = {split: folder for split, folder in splits.items() if folder is not None}
        classes = class_folder_names(root / layout.train)
        listings = {split: list_split(root, folder, classes, problems) for split, folder in folders.items()}
        _check_images(root, folders, classes, listings, problems)
        if isinstance(root, Path):
            for folder in folders.values():
                _check_links(root / folder, classes, problems)
        return index_listings(request, listings, _names(request, classes, problems), problems)


def _names(request: Request, classes: list[str], problems: Problems) -> tuple[str, ...]:
    """The names of the classes: the folders', or those of a file; UserError where that has another number of them."""
    file = request.class_names
    names = (
        names_of_folders(classes) if file is None else parse_class_names(read_lines(file), str(file), lambda: classes)
    )
    if len(names) != len(classes):
        raise UserError(f"{file} has {len(names)} names, {request.data_root} has {len(classes)} classes")
    check_names(names, str(file or request.data_root), problems, given=file is not None)
    return names


def _check_images(
    root: Path | Url, folders: dict[str, str], classes: list[str], listings: dict[str, Listing], problems: Problems
) -> None:
    """Add one problem for all empty class folders of the training split, and one for another split without an image."""
    for split, listing in listings.items():
        place = root / folders[split] if folders[split] else root
        counts = np.bincount(listing.labels, minlength=len(classes))
        if not counts.any():
            problems.add(
                f"{place}: no image in its {len(classes):,} class folders ({', '.join(IMAGE_ENDINGS[:5])}, ...)"
            )
        elif split == "train" and not counts.all():
            empty = [classes[label] for label in np.flatnonzero(counts == 0)]
            more = ", ..." if len(empty) > _NAMED else ""
            problems.add(
                f"{place}: {len(empty):,} of {len(classes):,} class folders hold no image ({', '.join(empty[:_NAMED])}{more}): "
                "delete them, or put images there"
            )


def _check_links(split: Path, classes: list[str], problems: Problems) -> None:
    """Add a problem for each class folder that is another one too, by a link: its images would have two labels."""
    if not any(os.path.islink(split / name) for name in classes):
        return
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(os.path.realpath(split / name), name)
        if other != name:
            problems.add(
                f"{split / other} and {split / name} are one folder, by a link: remove one of these two classes"
            )


def list_split(root: Path | Url, split: str, classes: Sequence[str], problems: Problems) -> Listing:
    """All images of a split, class by class, by name; labels are positions in ``classes``. The split may be the root (``""``)."""
    tables: list[PathTable] = []
    place, prefix = (root / split, f"{split}/") if split else (root, "")
    for extra in sorted(set(class_folder_names(place)) - set(classes)):
        problems.add(f"{place / extra}: a class that the training split does not have")
    listed = _of_store(place) if isinstance(place, Url) else {}
    for name in classes:
        folder = place / name
        if isinstance(folder, Url):
            inside = listed.get(name, [])
        else:
            inside = [path[len(os.fspath(folder)) :].replace(os.sep, "/") for path in images_in(folder)]
        tables.append(PathTable.from_strings(f"{prefix}{name}{path}" for path in inside))
    labels = np.repeat(np.arange(len(classes)), [len(table) for table in tables])
    return Listing(PathTable.joined(tables), labels.astype(np.int64))


def _of_store(split: Url) -> dict[str, list[str]]:
    """The images of each class in order, by their paths in its folder, as ``images_in`` has them."""
    found: dict[str, list[str]] = {}
    for path in split.files():
        name, slash, rest = path.partition("/")
        if rest.lower().endswith(IMAGE_ENDINGS) and not any(map(is_leftover, rest.split("/"))):
            found.setdefault(name, []).append(slash + rest)
    return found


def images_in(folder: str | os.PathLike[str]) -> Iterator[str]:
    """All images below a folder, by their endings, in the order of their paths; hidden ones and leftovers are passed over.

    Links to folders are followed, each folder once, and never to one that the link lies in. What cannot be listed is passed
    over. In memory are the names of one folder at each level.
    """
    seen = {real := os.path.realpath(folder)}
    while (parent := os.path.dirname(real)) != real:
        seen.add(real := parent)
    return _images_in(os.fspath(folder), seen)


def _images_in(folder: str, seen: set[str]) -> Iterator[str]:
    for name in _inside(folder):
        path = os.path.join(folder, name)
        if not name.endswith(os.sep):
            yield path
        elif (place := os.path.realpath(path)) not in seen:
            seen.add(place)
            yield from _images_in(path.rstrip(os.sep), seen)


def _inside(folder: str) -> list[str]:
    """Images and folders, these with a slash behind, so that sorting them sorts the paths of all that they hold."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not is_leftover(entry.name):
                if entry.is_dir() if not entry.is_symlink() else os.path.isdir(entry.path):  # a link to itself is none
                    found.append(entry.name + os.sep)
                elif entry.name.lower().endswith(IMAGE_ENDINGS):
                    found.append(entry.name)
    return sorted(found)


FOLDER = ClassFolders()
