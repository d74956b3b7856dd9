"""What an advice says: the content of ``advice.json``, which the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from fastlift.advice.near_duplicates import Threshold
from fastlift.advice.ranking import ClassCost


@dataclass(frozen=True)
class ImageName:
    """An image: its split, its row there, its path in the data root (its row, where it has none), its class."""

    split: str
    row: int
    file: str
    label: str

    @property
    def key(self) -> str:
        """The name of its thumbnail."""
        return f"{self.split}/{self.row}"


@dataclass(frozen=True)
class Pair:
    """A test image that the training split holds as well.

    Attributes:
        how: ``content`` (the same bytes, or the same path), ``copy`` (the same at 8 x 8 pixels), ``features``.
        similarity: of the descriptions, -1..1; 1 for the same content.
    """

    test: ImageName
    train: ImageName
    how: str
    similarity: float


@dataclass(frozen=True)
class Tried:
    """How many altered copies of training images the search found."""

    how: str
    tried: int
    found: int


@dataclass(frozen=True)
class Without:
    """A figure on the whole test split, and without the test images that are copies, percent with 95 % intervals."""

    name: str
    images: int
    value: float
    low: float
    high: float
    left_images: int
    left_value: float
    left_low: float
    left_high: float


@dataclass(frozen=True)
class Duplicates:
    """Images that the test split shares with the training split.

    Attributes:
        pairs: at most 1,000, the surest first; ``count`` of them by ``how``.
        other_label: pairs whose two images have different labels, of which at most one is right.
        searched, among: images of the test and of the training split whose descriptions were compared.
        thresholds: by description.
        tried: on altered copies of training images.
        without: figures without the test images of the pairs; empty where there are none.
    """

    pairs: tuple[Pair, ...]
    count: dict[str, int]
    other_label: int
    searched: int
    among: int
    thresholds: dict[str, Threshold]
    tried: tuple[Tried, ...]
    without: tuple[Without, ...]


@dataclass(frozen=True)
class Advice:
    """Where to spend, by the record of one run.

    Attributes:
        figure: the name of the figure that is to rise; ``value`` with its 95 % interval in percent, None where nothing tells one.
        evaluation: of the results, whose predictions were used; ``every``: of its test images one in so many is kept.
        checkpoint: whose features were used; empty where none were.
        looked_at: images by split; ``of`` so many.
        seconds: by part.
        classes: the dearest first.
        notes: what a reader must know, as sentences.
        thumbnails: JPEG files in base64, by ``ImageName.key``.
    """

    figure: str
    value: float
    low: float | None
    high: float | None
    evaluation: str
    every: int
    checkpoint: str
    device: str
    looked_at: dict[str, int]
    of: dict[str, int]
    seconds: dict[str, float]
    seed: int
    classes: tuple[ClassCost, ...] = ()
    duplicates: Duplicates | None = None
    notes: tuple[str, ...] = ()
    thumbnails: dict[str, str] = field(default_factory=dict)

    def to_dict(self, *, thumbnails: bool = True) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found if thumbnails else found | {"thumbnails": {}}
