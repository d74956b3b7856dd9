"""What a look at each JPEG's bytes has found, kept while a run lasts and for later ones, so that no file is looked at twice.

Of each image: the condition that its file was in (size, times, inode) and which part of it DALI does without. As long as the
file is in that condition, its bytes count as looked at. What this promises: a file that was written, replaced, renamed or
touched since then is looked at again, also where the time of its change was set back, which no call can do to ``st_ctime``.
Since clocks of file systems tick in steps, of up to two seconds, a file that changed in the two seconds before its
look is not noted: a change within the same tick would not show. What it cannot see: a file system that keeps neither time, and
a disk that gives other bytes than were written to it.
"""

import contextlib
import hashlib
import struct
import threading
import warnings
from pathlib import Path

import numpy as np

from fastlift.data.index.columns import cached_columns, read_columns, write_columns
from fastlift.data.index.index import ImageIndex
from fastlift.data.index.jpeg import Ranges
from fastlift.data.loading.reading import Condition
from fastlift.errors import FastliftWarning

_FORMAT = "fastlift-looks-1"
SETTLED_NS = 2_000_000_000
_NOT_PLAIN, _SEVERAL = -1, -2  # in place of where the part begins
_KINDS: dict[str, type[np.generic]] = {"conditions": np.uint64, "cuts": np.int32}


class Looks:
    """The findings of all images of an index: 16 bytes each. Safe to use from threads."""

    def __init__(self, index: ImageIndex) -> None:
        """Those that were kept for this index; a damaged file of them counts as none, with a warning."""
        self._file = _file_of(index)
        self._conditions = np.zeros(len(index), dtype=np.uint64)  # a digest; 0: not looked at
        self._cuts = np.zeros((len(index), 2), dtype=np.int32)  # start and end of what DALI does without; none: 0, 0
        self._has_news = False
        self._lock = threading.Lock()
        if self._file is not None and self._file.is_file():
            try:
                self._take_over(self._file)
            except ValueError as error:
                told = f"{self._file} is damaged ({error}): the JPEGs of {index.name} are looked at again"
                warnings.warn(told, FastliftWarning, stacklevel=2)

    def known(self, i: int, condition: Condition) -> bool:
        """Whether the bytes of image ``i`` were looked at when its file was in this condition."""
        return int(self._conditions[i]) == _digest(condition)

    def parts(self, i: int, count: int) -> Ranges | None:
        """What was found of a known image of ``count`` bytes: the parts that DALI may have; None where it may have nothing.

        No parts at all: it is a plain JPEG, but has more of them than are kept.
        """
        start, end = self._cuts[i].tolist()
        if start == _NOT_PLAIN or end > count:
            return None
        if start == _SEVERAL:
            return ()
        return ((0, start), (end, count)) if end else ((0, count),)

    def note(self, i: int, condition: Condition, began_ns: int, parts: Ranges | None) -> None:
        """Keep what a look found.

        Args:
            condition: of the file once its bytes had been read.
            began_ns: when reading them began, as ``time.time_ns`` has it.
            parts: what DALI may have of the image; None: nothing.
        """
        if began_ns - max(condition.modified_ns, condition.changed_ns) <= SETTLED_NS:
            return
        if parts is None:
            cut = (_NOT_PLAIN, 0)
        elif len(parts) == 1:
            cut = (0, 0)
        else:
            cut = (parts[0][1], parts[1][0]) if len(parts) == 2 else (_SEVERAL, 0)
        with self._lock:
            self._conditions[i], self._cuts[i] = _digest(condition), cut
            self._has_news = True

    def save(self) -> None:
        """Keep what is new for later runs, together with what other processes have kept meanwhile.

        Writes atomically; where two write at once the last one's stays. A folder that cannot be written costs later runs
        their looks, nothing else.
        """
        if not self._has_news or self._file is None:
            return
        with contextlib.suppress(ValueError):
            self._take_over(self._file)
        with self._lock:
            columns = {"conditions": self._conditions.copy(), "cuts": self._cuts.copy()}
            self._has_news = False
        with contextlib.suppress(OSError):
            write_columns(self._file, columns)

    def _take_over(self, file: Path) -> None:
        """Add what a file has of images that this process has not looked at; raises ValueError where it is damaged or gone."""
        columns = read_columns(file, _KINDS)
        conditions, cuts = columns["conditions"], columns["cuts"]
        if conditions.shape != self._conditions.shape or cuts.shape != self._cuts.shape:
            raise ValueError("it is of another number of images")
        start, end = cuts.T
        if not ((start >= _SEVERAL) & (start <= 0) & (end == 0) | (start >= 2) & (start <= end)).all():
            raise ValueError("its parts are none")
        with self._lock:
            new = self._conditions == 0
            self._conditions[new], self._cuts[new] = conditions[new], cuts[new]


def _file_of(index: ImageIndex) -> Path | None:
    """Where the findings of an index are kept: by its content, of which the images' sizes are a part, and its place."""
    if index.cache is None or index.root is None:
        return None
    return cached_columns(index.cache, "looks", _FORMAT, index.root, index.fingerprint.encode())


def _digest(condition: Condition) -> int:
    """64 bits of a condition, never 0."""
    packed = struct.pack("<qqqQ", *condition)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") or 1
