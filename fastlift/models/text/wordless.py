"""Class names that hold no word, such as ``n01440764``, ``0042`` and ``class_7``: prompts of them tell a text tower nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from fastlift.errors import FastliftWarning

_SHOWN = 5
_PART = re.compile(r"[^\W_]+")  # letters and digits of any script
# What stands before a number in names that only count.
_COUNTED = {
    "class",
    "cls",
    "category",
    "cat",
    "label",
    "lbl",
    "id",
    "idx",
    "index",
    "group",
    "type",
    "target",
    "folder",
}


def holds_word(name: str) -> bool:
    """Whether a class name has a part that is written in letters alone, other than the words that numbers stand behind."""
    parts = _PART.findall(name)
    words = [part for part in parts if part.isalpha() and part.lower() not in _COUNTED]
    return bool(words) or (bool(parts) and all(part.isalpha() for part in parts))


def warn_of_wordless(class_names: Sequence[str]) -> None:
    """Warn where names are made into prompts and hold no word; say which, and what to do."""
    wordless = [name for name in class_names if not holds_word(name)]
    if not wordless:
        return
    shown = ", ".join(wordless[:_SHOWN]) + (", ..." if len(wordless) > _SHOWN else "")
    warnings.warn(
        f"{len(wordless):,} of {len(class_names):,} class names hold no word, so their prompts tell the text tower nothing: "
        f"{shown}. Give --class-names, a file with lines of 'folder name'; or choose a classifier init that needs no words: "
        "--init class_mean",
        FastliftWarning,
        stacklevel=3,
    )
