"""Labels that come as texts, of shards and of tables: which class each of them is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastlift.data.datasets.wordnet import names_of_folders
from fastlift.data.index.lines import read_lines
from fastlift.data.index.lists import LARGEST_LABEL, parse_class_names

_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class Labels:
    """What labels mean: numbers of classes from 0, or their names."""

    class_names: tuple[str, ...]
    of_text: dict[str, int] | None  # None: they are numbers

    @classmethod
    def of(cls, texts: set[str], file: Path | None, names_of_numbers: Callable[[], tuple[str, ...]]) -> Labels:
        """Of all labels of the training split, and of a file of class names.

        Args:
            names_of_numbers: asked for the names where the labels are numbers and there is no file; may raise.
        """
        numbers = all(map(_NUMBER.fullmatch, texts))
        if file is None:
            if numbers:
                return cls(names_of_numbers(), None)
            ordered = sorted(texts)
            return cls(names_of_folders(ordered), {text: label for label, text in enumerate(ordered)})
        lines = [line.strip() for line in read_lines(file)]
        if numbers:
            return cls(parse_class_names(lines, str(file)), None)
        words = [line.split(None, 1)[0] if line else "" for line in lines]
        folders = words if texts <= set(words) else []
        names = parse_class_names(lines, str(file), lambda: folders)
        return cls(names, {text: label for label, text in enumerate(folders or names)})

    def label(self, text: str) -> int:
        """The class; -1 for none."""
        if self.of_text is not None:
            return self.of_text.get(text, -1)
        label = as_label(text)
        return label if label < len(self.class_names) else -1


def as_label(text: str) -> int:
    """The number that a text is; -1 for none that a label can be."""
    number = int(text) if _NUMBER.fullmatch(text) and len(text) <= len(str(LARGEST_LABEL)) else -1
    return number if 0 <= number <= LARGEST_LABEL else -1
