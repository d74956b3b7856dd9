"""List files (lines of ``relative/path label``) and class-name files (lines of ``folder name``), plain or gzipped."""

import gzip
import posixpath
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastlift.data.index import PathTable
from fastlift.data.problems import Problems
from fastlift.errors import UserError

_IDENTIFIER = re.compile(r"n?\d+")  # WordNet ids and numbers: never a class's name


@dataclass(frozen=True)
class Listing:
    """What a list says, before any file is looked at."""

    paths: PathTable
    labels: np.ndarray  # int64 [N]


def read_bytes(path: Path) -> bytes:
    """The content of a plain or gzipped text file.

    Raises:
        UserError: it is missing, a folder, or no gzip file in spite of its name.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError as error:
        raise UserError(f"list file {path} does not exist") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"list file {path} cannot be read: {error}") from error


def read_text(path: Path) -> str:
    return read_bytes(path).decode("utf-8-sig", "surrogateescape")


def leaves_root(path: str) -> bool:
    """Whether a relative path points outside of the folder that it is joined to."""
    path = path.replace("\\", "/")
    return path.startswith("/") or posixpath.normpath(path).split("/")[0] == ".." or path[1:2] == ":"


def parse_list(text: str, source: str, num_classes: int | None, problems: Problems) -> Listing:
    """Read lines of ``relative/path label``; a path may hold spaces, the label is the last word.

    Args:
        source: the list's name, for messages.
        num_classes: labels must be below it; None where it is not known.
        problems: every bad line is added here and left out of the result.
    """
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.rsplit(None, 1)
        if not parts:
            continue
        path = parts[0].strip()
        if len(parts) == 1 or not parts[1].lstrip("-").isdigit():
            problems.add(f"{source} line {number}: no label: {line.strip()[:100]!r}")
        elif int(parts[1]) < 0 or (num_classes is not None and int(parts[1]) >= num_classes):
            allowed = f"0..{num_classes - 1}" if num_classes is not None else "0 and up"
            problems.add(f"{source} line {number}: label {parts[1]} is out of range ({allowed}): {path}")
        elif leaves_root(path):
            problems.add(f"{source} line {number}: path leaves the data root: {path}")
        else:
            paths.append(path)
            labels.append(int(parts[1]))
    if not paths and not problems.total:
        problems.add(f"{source}: no lines")
    return Listing(PathTable.from_strings(paths), np.array(labels, dtype=np.int64))


def parse_class_names(text: str, source: str, folders: Callable[[], Sequence[str | None]] = tuple) -> tuple[str, ...]:
    """Names of the classes in the order of the labels.

    A line is ``folder name`` or just ``name``. The first word is the folder of a class's files where it is so for every
    class of which ``folders()`` knows one (asked only where it matters); names then go to labels by their folder, not by
    their line: the Places-LT class names that circulate have five classes in another order than its lists. Where no
    folders are known, a first word that is an identifier on every line (``n01440764``, ``17``) is dropped.

    Raises:
        UserError: the file is empty, or has an empty line inside.
    """
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or not all(lines):
        raise UserError(f"class names {source}: " + ("an empty line" if lines else "the file is empty"))
    words = [line.split(None, 1) for line in lines]
    if not all(len(pair) == 2 for pair in words):
        return tuple(lines)
    first, names = [pair[0] for pair in words], [pair[1] for pair in words]
    by_folder = _by_folder(first, names, folders())
    if by_folder is not None:
        return by_folder
    return tuple(names if all(_IDENTIFIER.fullmatch(word) for word in first) else lines)


def _by_folder(words: Sequence[str], names: Sequence[str], folders: Sequence[str | None]) -> tuple[str, ...] | None:
    """Names in the order of ``folders``; a class without a known folder gets one that is left over, in order."""
    name_of = dict(zip(words, names, strict=True))
    known = [folder for folder in folders if folder is not None]
    if len(folders) != len(words) or len(name_of) != len(words) or not known or not name_of.keys() >= set(known):
        return None
    left = iter([word for word in words if word not in set(known)])
    return tuple(name_of[next(left) if folder is None else folder] for folder in folders)


def class_folders(listing: Listing, num_classes: int) -> list[str | None]:
    """The folder that each class's files lie in, None for a class without files.

    Empty unless every class has one folder, and each another.
    """
    folders: list[str | None] = [None] * num_classes
    for path, label in zip(listing.paths, listing.labels.tolist(), strict=True):
        folder = posixpath.basename(posixpath.dirname(path))
        if not folder or folders[label] not in (None, folder):
            return []
        folders[label] = folder
    found = [folder for folder in folders if folder is not None]
    return folders if len(set(found)) == len(found) else []
