"""How figures that are no mean over classes vary with the test images: macro F1, calibration error, log loss.

Legend: n images, C classes, K = 15 calibration bins, D draws. Loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlift.evaluation.intervals import Interval, middle, wilson
from fastlift.evaluation.metrics import CALIBRATION_BINS, Metrics

Floats = NDArray[np.float64]
RESAMPLED = ("macro_f1", "expected_calibration_error", "log_loss")
DRAWS = 1000
_MOST_DRAWN = 100_000_000  # images of all draws together, which take a few seconds
_LEAST_DRAWS = 200
_EDGES = np.linspace(0, 1, CALIBRATION_BINS + 1, dtype=np.float32)[1:-1]


@dataclass(frozen=True)
class Answers:
    """What was said of the images of a test set.

    Attributes:
        labels, predicted: [n] classes; -1 where nothing was predicted.
        confidence, label_probability: [n] of the predicted class and of the right one, 0..1.
    """

    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    label_probability: NDArray[np.float32]


@dataclass(frozen=True)
class Draws:
    """The figures of D test sets, drawn anew from the images of one within each class.

    The same draws for the same labels, so that those of two models belong together pair by pair.

    Attributes:
        macro_f1, expected_calibration_error: [D], percent.
        log_loss: [D], nats; NaN where a probability is stored as 0, whose logarithm nothing tells.
        right, images: how many.
        stretch: sqrt(n / (n - C)): a test set drawn from n images of C classes varies by so much less than one of new images.
    """

    macro_f1: Floats
    expected_calibration_error: Floats
    log_loss: Floats
    right: int
    images: int
    stretch: float = 1.0

    def interval(self, name: str, value: float) -> Interval | None:
        """95 % of a figure with this value: the middle of the draws, stretched, and moved so that their mean is the value.

        Unmoved, a calibration error would lie below its own interval: chance adds to it, in every draw once more. Where all
        images or none are right F1 cannot vary, and Wilson's of all images is given. None where nothing tells it.
        """
        if name == "macro_f1" and self.right in (0, self.images):
            low, high = wilson(self.right, self.images)
            return 100 * low, 100 * high
        found = _around(getattr(self, name), value, self.stretch)
        return found and (max(0.0, found[0]), found[1] if name == "log_loss" else min(100.0, found[1]))

    def difference(self, other: Draws, name: str, value: float) -> Interval | None:
        """95 % of other - self with this value, for answers to the same images; None where nothing tells it."""
        return _around(getattr(other, name) - getattr(self, name), value, self.stretch)


def intervals(answers: Answers, classes: int, metrics: Metrics) -> dict[str, Interval]:
    """95 % of the figures of ``RESAMPLED`` in an evaluation, in their units; without those that nothing tells."""
    draws = draw(answers, classes)
    values = {name: getattr(metrics, name) for name in RESAMPLED}
    found = {name: draws.interval(name, value) for name, value in values.items() if value is not None}
    return {name: interval for name, interval in found.items() if interval is not None}


def draw(answers: Answers, classes: int) -> Draws:
    """Draw test sets: of each class as many of its images as it has, with replacement."""
    images = np.bincount(answers.labels, minlength=classes)
    columns = _Columns.of(answers, images)
    # Class by class, so that an image's class begins at a place and has so many images.
    by_class = np.repeat(np.arange(classes), images)
    starts, of_class = (np.cumsum(images) - images)[by_class], images[by_class]
    count = int(np.clip(_MOST_DRAWN // max(1, len(by_class)), _LEAST_DRAWS, DRAWS))
    generator = np.random.default_rng(0)
    found = np.array(
        [columns.figures(starts + (generator.random(len(starts)) * of_class).astype(np.int64)) for _ in range(count)]
    )
    if not np.isfinite(columns.losses).all():
        found[:, 2] = np.nan
    n, tested = len(by_class), int(np.count_nonzero(images))
    return Draws(found[:, 0], found[:, 1], found[:, 2], int(columns.right.sum()), n, (n / max(1, n - tested)) ** 0.5)


@dataclass(frozen=True)
class _Columns:
    """What the figures take of each image, [n], class by class; ``images`` [C] of each class."""

    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    scored: NDArray[np.bool_]  # which have finite logits
    taken_for: NDArray[np.int64]  # C where for nothing
    bins: NDArray[np.int64]  # of the calibration; K likewise
    excess: Floats  # 1 for a right one, less the confidence
    losses: Floats

    @classmethod
    def of(cls, answers: Answers, images: NDArray[np.int64]) -> _Columns:
        by_class = np.argsort(answers.labels, kind="stable")
        labels, predicted = answers.labels[by_class], answers.predicted[by_class].astype(np.int64)
        confidence = answers.confidence[by_class]
        scored, right = predicted >= 0, predicted == labels
        with np.errstate(divide="ignore"):
            losses = -np.log(answers.label_probability[by_class].astype(np.float64))
        return cls(
            images,
            right,
            scored,
            np.where(scored, predicted, len(images)),
            np.where(scored, np.searchsorted(_EDGES, confidence, side="right"), CALIBRATION_BINS),
            np.where(scored, right - confidence.astype(np.float64), 0.0),
            np.where(scored, losses, 0.0),
        )

    def figures(self, drawn: NDArray[np.int64]) -> tuple[float, float, float]:
        """Macro F1, calibration error and log loss, as ``evaluation.metrics`` defines them, of the images at these places."""
        classes, tested = len(self.images), self.images > 0
        hits = np.add.reduceat(self.right[drawn].astype(np.int64), (np.cumsum(self.images) - self.images)[tested])
        claims = np.bincount(self.taken_for[drawn], minlength=classes + 1)[:classes]
        f1 = (2 * hits / (self.images + claims)[tested]).mean()
        scored = max(1, int(np.count_nonzero(self.scored[drawn])))
        gaps = np.bincount(self.bins[drawn], self.excess[drawn], CALIBRATION_BINS + 1)[:CALIBRATION_BINS]
        return 100 * f1, 100 * np.abs(gaps).sum() / scored, self.losses[drawn].sum() / scored


def _around(draws: Floats, value: float, stretch: float) -> Interval | None:
    if not np.isfinite(draws).all():
        return None
    low, high = middle(stretch * (draws - draws.mean()))
    return value + low, value + high
