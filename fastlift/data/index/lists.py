"""List files (lines of ``relative/path label``) and class-name files (lines of ``folder name``), read into columns."""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fastlift.data.index.index import PathTable
from fastlift.data.index.problems import Problems
from fastlift.errors import UserError

LARGEST_LABEL = 2**31 - 1
MOST_BAD = 100_000  # lines that are told one by one
_LABEL = re.compile(r"-?[0-9]+")
_LABEL_DIGITS = len(str(LARGEST_LABEL))
_IDENTIFIER = re.compile(r"n?\d+")  # WordNet ids and numbers: never a class's name


@dataclass(frozen=True)
class Listing:
    """What a list says, before any file is looked at."""

    paths: PathTable
    labels: np.ndarray  # int64 [N]


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: bytes of names that are none come as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def is_file_name(path: str) -> bool:
    """Whether the system could have a file of this name."""
    try:
        return b"\0" not in path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False


def leaves_root(path: str) -> bool:
    """Whether a relative path points outside of the folder that it is joined to."""
    path = path.replace("\\", "/")
    return path.startswith("/") or posixpath.normpath(path).split("/")[0] == ".." or path[1:2] == ":"


def parse_list(blocks: Iterable[bytes], source: str, num_classes: int | None, problems: Problems) -> Listing:
    """Read lines of ``relative/path label``; a path may hold spaces, the label is the last word.

    Args:
        blocks: of whole lines (see ``lines.line_blocks``).
        num_classes: labels must be below it; None where it is not known.
        problems: every bad line is added here and left out of the result; after very many of them reading stops.
    """
    parts: list[Listing] = []
    before, number = problems.total, 1
    for block in blocks:
        parts.append(_parse_block(block, number, source, num_classes, problems, before + MOST_BAD))
        number += block.count(b"\n")
        if problems.total >= before + MOST_BAD:
            problems.add(f"{source}: more than {MOST_BAD:,} lines are bad; the others were not read")
            break
    paths = PathTable.joined([part.paths for part in parts])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(part.labels for part in parts)])
    if not len(paths) and problems.total == before:
        problems.add(f"{source}: no lines")
    return Listing(paths, labels)


def _parse_block(
    block: bytes, number: int, source: str, num_classes: int | None, problems: Problems, most: int
) -> Listing:
    """The lines of one block, the first of which has this number: ordinary ones as columns, the others one by one.

    With ``most`` problems in all the rest of the block's odd lines are passed over.
    """
    limit = LARGEST_LABEL if num_classes is None else num_classes
    letters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    labels, stops = _last_numbers(letters, starts, ends)
    good = _is_ordinary(letters, starts, stops, ends) & (labels < limit)
    for line in np.flatnonzero(~good):
        if problems.total >= most:
            break
        text = block[starts[line] : ends[line]].decode("utf-8", "surrogateescape")
        try:
            found = _parse_line(text, num_classes)
        except ValueError as problem:
            problems.add(f"{source} line {number + line}: {problem}")
            continue
        if found is not None:
            path, labels[line] = found
            starts[line] += _bytes_in(text[: len(text) - len(text.lstrip())])
            stops[line] = starts[line] + _bytes_in(path)
            good[line] = True
    edges = np.zeros(len(letters) + 1, dtype=np.int8)
    edges[starts[good]] += 1
    edges[stops[good]] -= 1
    inside = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
    return Listing(PathTable.of_lengths(letters[inside], stops[good] - starts[good]), labels[good])


def _last_numbers(letters: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number that each line ends with, and the place before its digits; the line's end where it has none."""
    numbers = np.zeros(len(ends), dtype=np.int64)
    at = ends - 1
    more = at >= starts
    for place in range(_LABEL_DIGITS):
        digits = letters[at] - np.uint8(ord("0"))  # other letters wrap round to more than 9
        more = more & (at >= starts) & (digits <= 9)
        numbers += np.where(more, digits.astype(np.int64) * 10**place, 0)
        at = at - more
    return numbers, at


def _is_ordinary(letters: np.ndarray, starts: np.ndarray, stops: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Lines whose path can be taken as it stands: one space before the label, and nothing that needs a closer look."""
    odd = ((letters < ord(" ")) & (letters != ord("\n"))) | (letters == ord("\\"))
    odd[1:] |= (letters[1:] == ord(".")) & (letters[:-1] == ord("."))
    first, second, last = letters[starts], letters[np.minimum(starts + 1, ends)], letters[np.maximum(stops - 1, 0)]
    ordinary = (stops > starts + 1) & (stops < ends - 1) & (letters[stops] == ord(" "))
    ordinary &= (first > ord(" ")) & (first < 0x7F) & (last > ord(" ")) & (last < 0x7F)  # no space of Unicode's either
    ordinary &= (first != ord("/")) & (second != ord(":"))
    ordinary[np.searchsorted(ends, np.flatnonzero(odd))] = False
    return ordinary


def _parse_line(line: str, num_classes: int | None) -> tuple[str, int] | None:
    """Path and label of one line, None for an empty one; raises ValueError with what is wrong with it."""
    parts = line.rsplit(None, 1)
    if not parts:
        return None
    path = parts[0].strip()
    if len(parts) == 1 or not _LABEL.fullmatch(parts[1]):
        raise ValueError(f"no label: {line.strip()[:100]!r}")
    if "\0" in path:
        raise ValueError(f"a null character in the path: {path[:100]!r}")
    if not 0 <= int(parts[1][:20]) < (LARGEST_LABEL if num_classes is None else num_classes):
        allowed = f"0..{num_classes - 1}" if num_classes is not None else "0 and up"
        raise ValueError(f"label {parts[1][:40]} is out of range ({allowed}): {path[:200]}")
    if leaves_root(path):
        raise ValueError(f"path leaves the data root: {path[:200]}")
    return path, int(parts[1])


def _bytes_in(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def parse_class_names(
    lines: Sequence[str], source: str, folders: Callable[[], Sequence[str | None]] = tuple
) -> tuple[str, ...]:
    """Names of the classes in the order of the labels.

    A line is ``folder name`` or just ``name``. The first word is the folder of a class's files where it is so for every
    class of which ``folders()`` knows one (asked only where it matters); names then go to labels by their folder, not by
    their line: the Places-LT class names that circulate have five classes in another order than its lists. Lines of
    folders that there are not are passed over. Where no folders are known, a first word that is an identifier on every line
    (``n01440764``, ``17``) is dropped.

    Raises UserError where the file is empty, has an empty line inside, or a line that is not UTF-8.
    """
    lines = [line.strip() for line in lines]
    if not any(lines):
        raise UserError(f"class names {source}: the file is empty")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise UserError(f"class names {source}: line {number} is empty")
        if not is_unicode(line):
            raise UserError(f"class names {source}: line {number} is not UTF-8: {line[:100]!r}")
    words = [line.split(None, 1) for line in lines]
    if not all(len(pair) == 2 for pair in words):
        return tuple(lines)
    first, names = zip(*words, strict=True)
    if (by_folder := _by_folder(first, names, folders())) is not None:
        return by_folder
    return tuple(names if all(_IDENTIFIER.fullmatch(word) for word in first) else lines)


def _by_folder(words: Sequence[str], names: Sequence[str], folders: Sequence[str | None]) -> tuple[str, ...] | None:
    """Names in the order of ``folders``; a class without a known folder gets one that is left over, in order."""
    name_of = dict(zip(words, names, strict=True))
    known = [folder for folder in folders if folder is not None]
    if len(folders) > len(words) or len(name_of) != len(words) or not known or not name_of.keys() >= set(known):
        return None
    if len(folders) < len(words):  # names of more folders than there are: a table of all of ImageNet's, say
        return tuple(map(name_of.__getitem__, known)) if len(known) == len(folders) else None
    left = iter([word for word in words if word not in set(known)])
    return tuple(name_of[next(left) if folder is None else folder] for folder in folders)


def class_folders(listing: Listing, num_classes: int) -> list[str | None]:
    """The folder that each class's files lie in, None for a class without files.

    Empty unless every class has one folder, and each another.
    """
    labels, examples = np.unique(listing.labels, return_index=True)
    example = np.zeros(num_classes, dtype=np.int64)
    example[labels] = examples
    folders = listing.paths.folders()
    if not folders.equals(folders.take(example[listing.labels])):
        return []
    found = [folders[int(i)] for i in examples]
    if not all(found) or len(set(found)) < len(found):
        return []
    named = dict(zip(labels.tolist(), found, strict=True))
    return [named.get(label) for label in range(num_classes)]
