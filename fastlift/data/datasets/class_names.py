"""Names of classes that cannot be told apart: one class under two names, mostly."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from fastlift.data.index.problems import Problems


def check_names(names: Sequence[str], place: str, problems: Problems, *, given: bool) -> None:
    """Add a problem for each two classes whose names differ in case, underscores or spaces alone, or not at all.

    Args:
        names: of the classes, by label.
        place: where they stand, for the message.
        given: they were written for this purpose, in a class-name file: there it is a note, since the labels still tell them
            apart.
    """
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        other = first.setdefault(_key(name), label)
        if other == label:
            continue
        if given:
            problems.notes.append(
                f"{place}: classes {other} and {label} are both called {name!r}, so their texts start alike; better give "
                "them names that differ"
            )
        else:
            problems.add(
                f"{place}: {names[other]!r} and {name!r} read as one class, and count as two: put them together, or give "
                "names that differ with --class-names"
            )


def _key(name: str) -> str:
    """What is left of a name for the reader of a prompt."""
    return " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").split()).casefold()
