"""Where the images of a list lie: whether its folders are in the data root, told at once, and files that lie elsewhere than it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fastlift.data.index.index import PathTable
from fastlift.data.index.lines import line_blocks

_SHOWN = 5
_DEEPER = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where ImageNet's archive has its images
_LOOKED_AT = 100  # folders in the data root that may be the one that was meant


def missing_folders(root: Path, paths: PathTable, source: str) -> str:
    """What is wrong where folders of a list are not in the data root, in one sentence; empty where all are.

    A wrong --data-root, or a class that was not unpacked, is told in a moment, instead of file by file after all were
    looked for.
    """
    folders = list(dict.fromkeys(path.rpartition("/")[0] for path in paths))
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if not missing:
        return ""
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    total = "the only folder" if len(folders) == 1 else f"{len(missing):,} of the {len(folders):,} folders"
    told = f"{root}: {total} of {source} {'is' if len(missing) == 1 else 'are'} not there: {shown}"
    meant = _meant(root, missing[0]) if len(missing) == len(folders) else None
    return f"{told}. They are in {meant}: give that as --data-root" if meant else told


def _meant(root: Path, folder: str) -> Path | None:
    """The folder above or below ``root`` in which a folder of the list is."""
    below = (root / name for name in _DEEPER)
    inside = (entry for entry in islice(root.iterdir(), _LOOKED_AT) if entry.is_dir())
    places = (root.parent, *below, *inside)
    return next((place for place in places if (place / folder).is_dir()), None)


@dataclass(frozen=True)
class Move:
    """Another place where the images of a list may lie: ``path`` makes it of what the list says."""

    name: str
    path: Callable[[str], str]

    def paths(self, paths: PathTable) -> PathTable:
        """Where the images are, of all that a list names."""
        return PathTable.from_strings(map(self.path, paths))


def found_elsewhere(root: Path, file: Path, moves: Sequence[Move]) -> Move | None:
    """The first of these places where a list's images are; None where they are where it says, or nowhere.

    The first line of the list tells: its image is not there, and is in the other place.
    """
    first = next(line_blocks(file), b"").partition(b"\n")[0].decode("utf-8", "surrogateescape")
    path = first.strip().rpartition(" ")[0].rstrip()
    if "/" not in path or (root / path).is_file():
        return None
    return next((move for move in moves if move.path(path) != path and (root / move.path(path)).is_file()), None)


def _higher(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    above = folder.rpartition("/")[0]
    return f"{above}{slash}{name}" if above else path


def _of_places365(train: str, val: str) -> Callable[[str], str]:
    def moved(path: str) -> str:
        split, _, rest = path.partition("/")
        folder, _, name = rest.rpartition("/")
        if split == "val":
            return f"{val}/{name}"
        return f"{train}/{folder[:1]}/{folder.replace('-', '/')}/{name}"

    return moved


# ``val/x.JPEG`` for each ``val/n01440764/x.JPEG``, as ImageNet's validation images lie when they are unpacked.
ONE_FOLDER_HIGHER = Move("higher", _higher)
# Of torchvision's ``Places365`` and of the archives that it unpacks: ``data_256/f/field/wild/x.jpg`` for
# ``train/field-wild/x.jpg``, and all validation images in one folder.
PLACES365 = tuple(
    Move(train, _of_places365(train, f"val_{size}"))
    for size in ("large", "256")
    for train in (f"data_{size}_standard", f"data_{size}")
)
