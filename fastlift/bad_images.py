"""The pictures of a run that others stand in for, listed in its ``bad_images.txt``."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastlift.data.catalogue import DataSet
from fastlift.data.index import BadImage, ImageIndex
from fastlift.runs import RunFolder


def _one_line(text: str) -> str:
    """Tabs and line ends, which file names may hold, as their escapes."""
    return text.translate({ord(c): repr(c)[1:-1] for c in "\t\n\r"})


class BadImages:
    """Lists the pictures that were replaced in ``bad_images.txt``, each once, over resumed runs too.

    A line has four columns between tabs: the split, the picture's path, what is wrong with it, and the path of the
    picture that is shown instead.
    """

    def __init__(self, run: RunFolder) -> None:
        self._file = run.bad_images
        self._lock = threading.Lock()

    def note_found(self, data: DataSet) -> None:
        """Those that the header scan found."""
        for index in (data.train, data.test):
            for bad in index.bad:
                self.of(index)(bad)

    def of(self, index: ImageIndex) -> Callable[[BadImage], None]:
        """What to call, from any thread, with those of one split that break when they are decoded."""

        def note(bad: BadImage) -> None:
            columns = (index.name, bad.path, bad.reason, index.file_name(bad.replacement))
            line = "\t".join(_one_line(column) for column in columns)
            with self._lock:
                if line not in self.lines():
                    with self._file.open("a", encoding="utf-8", errors="surrogateescape") as file:
                        file.write(f"{line}\n")

        return note

    def lines(self) -> list[str]:
        """All of them so far."""
        if not self._file.is_file():
            return []
        return self._file.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
