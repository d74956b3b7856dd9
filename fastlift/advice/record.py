"""What an advice says: the content of ``advice.json``, which the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from fastlift.advice.gains import Check, Gain
from fastlift.advice.label_doubts import PlantedLabels
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
class Doubt:
    """An image whose label looks wrong; ``score`` = p(suggested) / (p(suggested) + p(label))."""

    image: ImageName
    suggested: str
    score: float


@dataclass(frozen=True)
class LabelDoubts:
    """Labels of one split that look wrong.

    Attributes:
        doubts: at most 300 with a score above 0.5, the most doubtful first; ``above_half`` of ``judged`` images have such a score.
        unjudged: images of classes that no other image tells of.
        planted: how well labels are found that were made wrong on purpose.
    """

    split: str
    doubts: tuple[Doubt, ...]
    above_half: int
    judged: int
    unjudged: int
    planted: PlantedLabels


@dataclass(frozen=True)
class ClassGrowth:
    """What more training images of one class would bring to its own accuracy.

    Attributes:
        held_out: images on which its accuracy was counted.
        accuracy: with today's images, by the fitted law.
        twice, more: gain of accuracy with twice as many, and with all that could be added; None where this run cannot tell: no held-out
            image, or more times as many than was checked.
    """

    name: str
    train_images: int
    held_out: int
    accuracy: float
    twice: Gain | None
    more: Gain | None


@dataclass(frozen=True)
class Planned:
    """A class that gets ``more`` of the images that could be added, and the gain of its accuracy."""

    name: str
    train_images: int
    more: int
    gain: Gain


@dataclass(frozen=True)
class Measured:
    """Mean accuracy of a group of classes, as counted on held-out images, with so many images a class (mean), the full number first."""

    group: str
    classes: int
    images: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Growth:
    """What more training images would bring, by learning curves of the classifier on the features that are there.

    Attributes:
        checks: the error on subsets, by factor.
        law: (images, accuracy) of the common curve.
        measured: what it was fitted on, by group.
        budget: images that could be added; ``plan`` where, ``planned`` the gain of the figure, ``proportional`` and ``even`` that of
            spreading them as the classes are now, and evenly.
        doubled: gain of the figure with twice the images of every class.
        untold: classes of which nothing can be told.
        start: what holds the classifier: ``text`` or ``class means``, with ``strength``.
        apart: whether the held-out images are a validation split; else the backbone was trained on them.
        seen: accuracy of the same classifier, mean over the classes, on images that the backbone was trained on (held out of the fit alone);
        unseen: on the test split. Their difference is how much too good the curves look.
    """

    checks: tuple[Check, ...]
    law: tuple[tuple[float, float], ...]
    measured: tuple[Measured, ...]
    classes: tuple[ClassGrowth, ...]
    budget: int
    plan: tuple[Planned, ...]
    planned: Gain
    proportional: Gain
    even: Gain
    doubled: Gain
    untold: int
    start: str
    strength: float
    apart: bool
    seen: float
    unseen: float


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
    labels: tuple[LabelDoubts, ...] = ()
    growth: Growth | None = None
    duplicates: Duplicates | None = None
    notes: tuple[str, ...] = ()
    thumbnails: dict[str, str] = field(default_factory=dict)

    def to_dict(self, *, thumbnails: bool = True) -> dict[str, Any]:
        """As JSON holds it."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found if thumbnails else found | {"thumbnails": {}}
