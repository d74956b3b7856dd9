"""Data with several labels an image, which are refused: how they are recognised, and why they are."""

from __future__ import annotations

from collections.abc import Collection

from fastlift.errors import UserError

WHY = (
    "fastlift trains on one label an image: LIFT's loss compares classes of which one is right, and its prior is the share of "
    "the images that each class has. Give each image its one class, or take a program for multi-label data"
)


def refuse(place: str, example: object) -> UserError:
    """The error for several labels found in a place."""
    return UserError(f"{place}: several labels for an image, such as {str(example)[:100]!r}. {WHY}")


def several_in(texts: Collection[str]) -> str:
    """A text that stands for several of the labels: a list in brackets, or labels joined by ``|`` or ``;``. Empty where none."""
    for text in texts:
        if len(text) > 1 and (text[0], text[-1]) in (("[", "]"), ("{", "}")):
            return text
    for mark in "|;,":
        alone = {text for text in texts if mark not in text}
        for text in texts:
            parts = [part.strip() for part in text.split(mark)]
            if len(parts) > 1 and alone.issuperset(parts):
                return text
    return ""
