"""The unusable images of a run and what replaced them, listed in its ``bad_images.txt``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.runs.folder import RunFolder
from fastlift.system.files import append_line
from fastlift.system.printing import printable


class BadImages:
    """Lists the images that were replaced in ``bad_images.txt``, each path of a split once, over resumed runs too.

    A line has four columns between tabs: the split, the image's path, what is wrong with it, and the path of the
    image that is shown instead. Tabs, line ends and whatever else would not be shown stand there as escapes.
    """

    def __init__(self, run: RunFolder) -> None:
        self._file = run.bad_images
        self._lock = threading.Lock()
        self._listed: set[tuple[str, ...]] | None = None  # split and path; read when there is a first image to list

    def note_found(self, data: DataSet) -> None:
        """Those that the header scan found."""
        for index in data.splits.values():
            for bad in index.bad:
                self.of(index)(bad)

    def of(self, index: ImageIndex) -> Callable[[BadImage], None]:
        """What to call, from any thread, with those of one split that break when they are decoded."""

        def note(bad: BadImage) -> None:
            told = (index.name, bad.path, bad.reason, index.file_name(bad.replacement))
            columns = tuple(printable(column) for column in told)
            with self._lock:
                if self._listed is None:
                    self._listed = {tuple(line.split("\t")[:2]) for line in self.lines()}
                if columns[:2] not in self._listed:
                    append_line(self._file, "\t".join(columns).encode("utf-8", errors="surrogateescape"))
                    self._listed.add(columns[:2])

        return note

    def lines(self) -> list[str]:
        """All of them so far."""
        if not self._file.is_file():
            return []
        return self._file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
