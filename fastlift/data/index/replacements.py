"""Images that cannot be used, found by the header scan or later by a decoder, and what is shown in their place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.errors import UserError
from fastlift.settings import May, Settings

BadImages = Literal["stop", "skip"]


@dataclass(frozen=True)
class BadImageSettings(Settings):
    """What happens when an image cannot be used."""

    bad_images: Annotated[BadImages, May.CHANGE] = "stop"
    """Unreadable files: stop before training, or replace each by the next good one of its class and list them."""

    def build(self, index: ImageIndex, on_bad: Callable[[BadImage], None] | None = None) -> Replacements:
        """For the images of ``index`` that break when they are decoded; ``on_bad`` is called once a file, from any thread."""
        return Replacements(index, self.bad_images, on_bad)


class NoGoodImage(UserError):
    """An image is broken, and its class has no other that could be shown.

    Attributes:
        reasons: why each image of the class cannot be used, by its row.
    """

    def __init__(self, name: str, reason: str, reasons: dict[int, str]) -> None:
        super().__init__(f"{name} {reason}, and its class has no other good image", exit_code=1)
        self.reasons = reasons


class Replacements:
    """Images that broke when they were decoded, and what is shown in their place. Safe to use from threads.

    ``bad_images="stop"`` ends the work with the file's name. ``"skip"`` shows the next good image of the class: a
    function of the data alone, so that a resumed run, which finds the broken ones anew, goes on the same.
    """

    def __init__(self, index: ImageIndex, bad_images: BadImages, on_bad: Callable[[BadImage], None] | None) -> None:
        self._index = index
        self._stop = bad_images == "stop"
        self._on_bad = on_bad
        self._lock = threading.Lock()
        self._broken = np.zeros(len(index), dtype=bool)
        self._reasons: dict[int, str] = {}  # of those that are broken
        self._source: dict[int, int] = {}

    def sources(self, samples: np.ndarray) -> np.ndarray:
        """The index rows whose images are shown for ``samples``: int64 [B] both."""
        if not self._source:
            return samples
        return np.array([self._source.get(int(i), int(i)) for i in samples], dtype=np.int64)

    def replace(self, sample: int, source: int, reason: str) -> int:
        """Note that the image of row ``source``, shown for ``sample``, is broken; give the row to show instead.

        Raises UserError with "stop", or where the class has no other image.
        """
        name = self._index.label_of(source)
        if self._stop:
            raise UserError(f"{name} {reason}. Repair or remove it, or pass --bad-images skip", exit_code=1)
        with self._lock:
            known = self._broken[source]
            showing = self._showing(source)
            self._broken[showing] = True
            self._reasons |= dict.fromkeys(showing, reason)
            other = next_good(self._index.labels, self._broken, source)
            if other < 0:
                rows = np.flatnonzero(self._index.labels == self._index.labels[source])
                raise NoGoodImage(name, reason, {int(row): self._reasons[int(row)] for row in rows})
            self._source[sample] = other
        if self._on_bad and not known:
            self._on_bad(BadImage(source, self._index.file_name(source), reason, other))
        return other

    def _showing(self, source: int) -> list[int]:
        """All rows that show the file of row ``source`` since the header scan."""
        shown = {bad.index: bad.replacement for bad in self._index.bad}
        file = shown.get(source, source)
        return [file, *(row for row, theirs in shown.items() if theirs == file)]


def replaced_rows(labels: np.ndarray, bad: Iterable[int]) -> np.ndarray:
    """The row whose file each row shows: its own, or for one of ``bad`` the next good one of its class; -1 where none is.

    Labels and result are int64 [N].
    """
    rows = np.arange(len(labels))
    is_bad = np.zeros(len(rows), dtype=bool)
    is_bad[list(bad)] = True
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    for label in np.unique(labels[is_bad]):
        same = by_class[ends[label - 1] if label else 0 : ends[label]]
        rows[same[is_bad[same]]] = _next_in_class(same, is_bad, same[is_bad[same]])
    return rows


def next_good(labels: np.ndarray, is_bad: np.ndarray, i: int) -> int:
    """The next row of i's class that is not bad, round the end of the list; -1 where there is none."""
    return int(_next_in_class(np.flatnonzero(labels == labels[i]), is_bad, np.array([i]))[0])


def _next_in_class(same: np.ndarray, is_bad: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """``next_good`` for several rows of one class, all of whose rows are ``same`` (rising)."""
    good = same[~is_bad[same]]
    return good[np.searchsorted(good, wanted) % len(good)] if len(good) else np.full(len(wanted), -1)
