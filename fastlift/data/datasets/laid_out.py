"""Where the images of a list lie: whether its folders are in the data root, told at once, and files that lie one folder higher."""

from __future__ import annotations

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


def lies_flat(root: Path, file: Path) -> bool:
    """Whether images lie one folder higher than a list says, as ImageNet's validation images do when they are unpacked.

    The first line of the list tells: its image is not in the folder of its class, and is beside this folder.
    """
    first = next(line_blocks(file), b"").partition(b"\n")[0].decode("utf-8", "surrogateescape")
    path = first.strip().rpartition(" ")[0].rstrip()
    return path.count("/") > 1 and not (root / path).is_file() and (root / _higher(path)).is_file()


def one_folder_higher(paths: PathTable) -> PathTable:
    """``val/x.JPEG`` for each ``val/n01440764/x.JPEG``."""
    return PathTable.from_strings(map(_higher, paths))


def _higher(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder.rpartition('/')[0]}/{name}"
