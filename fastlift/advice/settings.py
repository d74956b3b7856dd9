"""What an advice is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastlift.settings import SEED, Between, Settings
from fastlift.settings.validate import Rule

Part = Literal["classes", "labels", "duplicates", "growth"]
Figure = Literal["mean_class_accuracy", "accuracy", "many", "medium", "few"]


def _parts_named(parts: tuple[str, ...]) -> str | None:
    return None if parts else "parts: name at least one of classes, labels, duplicates, growth"


@dataclass(frozen=True)
class AdviceSettings(Settings):
    """What is looked for, and in how many images."""

    figure: Figure = "mean_class_accuracy"
    """The figure that is to rise: the mean over the classes, the accuracy over all test images, or the mean over the many-,
    medium- or few-shot classes. Classes count by their part of it."""
    parts: tuple[Part, ...] = ("classes", "labels", "duplicates", "growth")
    """What to look for: the classes that lose most (from what the run keeps, without a look at an image), labels that look wrong,
    images that the test split shares with the training split, and what more training images of a class would bring."""
    more: Annotated[int, Between(1, 10**9)] = 100
    """Training images that could be added: where they would raise the figure most."""
    most_images: Annotated[int, Between(100)] = 50_000
    """Images of a split that are looked at at most. Of more, the largest classes are thinned out at random, all to one number,
    and the rare ones stay whole."""
    seed: Annotated[int, SEED] = 0
    """Of everything that is drawn: which images of large classes, folds and subsets, wrong labels and altered copies that the search is
    tried on."""

    RULES: ClassVar[tuple[Rule, ...]] = (_parts_named,)
