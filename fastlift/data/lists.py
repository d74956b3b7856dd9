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

_LABEL = re.compile(r"-?[0-9]+")
_LARGEST_LABEL = 2**31 - 1
_LINE_END = re.compile("\r\n|\n|\r")
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
    """The same as text; bytes that are no UTF-8 stay as they are, since file names may hold any."""
    return text_of(read_bytes(path), path)


def text_of(data: bytes, path: Path) -> str:
    """Bytes of a file as text, for ``read_text``.

    Raises:
        UserError: UTF-16, as some Windows programs write it.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"list file {path} is UTF-16: save it as UTF-8")
    return data.decode("utf-8-sig", "surrogateescape")


def lines_of(text: str) -> list[str]:
    """Lines by any of the three line ends; ``str.splitlines`` takes more for one, which file names may hold."""
    return _LINE_END.split(text)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


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
    limit = _LARGEST_LABEL if num_classes is None else num_classes
    before = problems.total
    for number, line in enumerate(lines_of(text), start=1):
        parts = line.rsplit(None, 1)
        if not parts:
            continue
        path = parts[0].strip()
        if len(parts) == 1 or not _LABEL.fullmatch(parts[1]):
            problems.add(f"{source} line {number}: no label: {line.strip()[:100]!r}")
        elif "\0" in path:
            problems.add(f"{source} line {number}: a null character in the path: {path[:100]!r}")
        elif not 0 <= int(parts[1][:20]) < limit:
            allowed = f"0..{num_classes - 1}" if num_classes is not None else "0 and up"
            problems.add(f"{source} line {number}: label {parts[1]} is out of range ({allowed}): {path}")
        elif leaves_root(path):
            problems.add(f"{source} line {number}: path leaves the data root: {path}")
        else:
            paths.append(path)
            labels.append(int(parts[1]))
    if not paths and problems.total == before:
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
    lines = [line.strip() for line in lines_of(text.rstrip())]
    if lines == [""]:
        raise UserError(f"class names {source}: the file is empty")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"class names {source}: line {number} is empty")
        if not _is_unicode(line):
            raise UserError(f"class names {source}: line {number} is not UTF-8: {line[:100]!r}")
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
