"""Figures of a classifier on a long-tailed task, from counts of one pass over a test set (``accumulator.py`` makes them).

Legend: C classes, K = 15 calibration bins. Rates are in percent unless a name says otherwise. Loads no torch.

Only classes with at least one test image count in any figure over classes: a class without one has no accuracy.
The definitions follow the evaluator of the LIFT authors (macro-F1, worst class, harmonic and geometric mean, groups by
training count); `docs/reading_a_run.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.errors import UserError
from fastlift.evaluation.intervals import Interval, mean_of_classes, wilson
from fastlift.system.html_table import html_table

CALIBRATION_BINS = 15
GROUP_NAMES = ("many", "medium", "few")
HARMONIC_FLOOR = 0.001  # percent; what the authors take for a class at 0, whose reciprocal would be infinite
LISTED_CONFUSIONS = 50


@dataclass(frozen=True)
class Counts:
    """What one pass over a test set counts."""

    correct: NDArray[np.int64]  # [C] right images of each class
    total: NDArray[np.int64]  # [C] images of each class
    predicted: NDArray[np.int64]  # [C] images that were taken for each class
    non_finite: int  # images whose logits were NaN or infinite; they are wrong, and counted in no other field below
    loss_sum: float  # sum of -ln p(label), in nats
    bin_count: NDArray[np.int64]  # [K] images of each confidence bin
    bin_correct: NDArray[np.int64]  # [K] right images of each
    bin_confidence: NDArray[np.float64]  # [K] sums of the confidences (0..1) in each
    confusion: NDArray[np.int64] | None = None  # [C, C] images by label and prediction, where it was kept


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose top-1 confidence lies in [lower, upper); the last bin includes 1."""

    lower: float  # a fraction, as ``upper``
    upper: float
    count: int
    confidence: float | None  # means of the bin in percent, None for an empty one
    accuracy: float | None


@dataclass(frozen=True)
class Confusion:
    """``count`` test images of class ``label`` were predicted as class ``predicted``."""

    label: int
    predicted: int
    count: int


@dataclass(frozen=True)
class Metrics:
    """What one evaluation found. Percent, unless said otherwise; None where there is nothing to average."""

    samples: int
    accuracy: float  # correct images / images
    many: float | None  # means of the class accuracies within a group of classes by *training* count
    medium: float | None
    few: float | None
    mean_class_accuracy: float
    macro_f1: float  # mean of F1 = 2 TP / (images of the class + predictions of it)
    worst_class: float  # least class accuracy
    harmonic_mean: float  # of class accuracies, a class at 0 counting as 0.001 %
    geometric_mean: float  # of class accuracies; one class at 0 makes it 0, as in the authors' evaluator
    expected_calibration_error: float | None  # sum over bins of (share of images) * |accuracy - confidence|
    log_loss: float | None  # mean of -ln p(label), in nats
    non_finite: int  # images with NaN or infinite logits: wrong, and left out of calibration and log loss
    group_boundaries: tuple[int, int]  # few < lower <= medium <= upper < many
    group_sizes: dict[str, int]  # classes with test images in each group
    per_class: tuple[float | None, ...] = field(repr=False)  # accuracy of each class, None without a test image
    calibration: tuple[CalibrationBin, ...] = field(repr=False)  # K bins
    # Largest off-diagonal counts, most frequent first; none without a matrix.
    confusions: tuple[Confusion, ...] = field(repr=False)
    # 95 % by the choice of the test images, in the figure's unit; those of macro F1, calibration and log loss take what was said
    # of each image. Of the worst class, harmonic and geometric mean there are none.
    intervals: dict[str, Interval] = field(default_factory=dict, repr=False)

    def summary(self) -> dict[str, float | int | None]:
        """The single figures, without lists: what one line of ``metrics.jsonl`` holds."""
        return {name: value for name, value in asdict(self).items() if not isinstance(value, dict | list | tuple)}

    def _repr_html_(self) -> str:
        """The single figures as a table, for notebooks."""
        ranges = {
            name: f"{low:.1f} to {high:.1f}" for name, (low, high) in self.intervals.items() if name != "log_loss"
        }
        rows = [
            (name.replace("_", " "), value, ranges.get(name, ""))
            for name, value in self.summary().items()
            if name != "log_loss"
        ]
        low, high = self.intervals.get("log_loss", (None, None))
        of_loss = "" if low is None else f"{low:.3f} to {high:.3f}"
        told = [] if self.log_loss is None else [("log loss (nats)", f"{self.log_loss:.3f}", of_loss)]
        return html_table("Percent, unless said otherwise", ("figure", "value", "95 % interval"), [*rows, *told])

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for ``json.dumps(..., allow_nan=False)``."""
        values = asdict(self)
        values["intervals"] = {name: list(interval) for name, interval in self.intervals.items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Metrics:
        """The way back from `to_dict`; keys of later versions are ignored.

        Raises:
            UserError: a key is missing, or a value is of another type.
        """
        missing = [one.name for one in fields(cls) if one.name not in values and one.default_factory is MISSING]
        if missing:
            raise UserError(f"these figures are missing from the stored metrics: {', '.join(missing)}")
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            raise UserError(f"the stored metrics: {error}") from None


def metrics_of(counts: Counts, group_counts: Sequence[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES) -> Metrics:
    """The figures of one pass over a test set.

    Args:
        group_counts: C training counts that place the classes in groups (for CIFAR-100-LT with ratio 10 or 50,
            those of ratio 100).
        boundaries: (lower, upper): few < lower <= medium <= upper < many.

    Raises:
        UserError: no image was counted, or the training counts do not fit the classes.
    """
    classes, samples = len(counts.total), int(counts.total.sum())
    if samples == 0:
        raise UserError("nothing to evaluate: not one labelled test image was seen", exit_code=1)
    if len(group_counts) != classes:
        raise UserError(f"{len(group_counts)} training counts were given for {classes} classes")
    tested = counts.total > 0  # [C]
    accuracies = np.full(classes, np.nan)  # [C] percent
    accuracies[tested] = 100.0 * counts.correct[tested] / counts.total[tested]
    groups = {name: mask & tested for name, mask in group_masks(group_counts, boundaries).items()}
    f1 = 2.0 * counts.correct[tested] / (counts.total[tested] + counts.predicted[tested])
    bins, scored = _calibration(counts), int(counts.bin_count.sum())
    return Metrics(
        samples=samples,
        accuracy=100.0 * float(counts.correct.sum()) / samples,
        many=_mean(accuracies[groups["many"]]),
        medium=_mean(accuracies[groups["medium"]]),
        few=_mean(accuracies[groups["few"]]),
        mean_class_accuracy=float(accuracies[tested].mean()),
        macro_f1=100.0 * float(f1.mean()),
        worst_class=float(accuracies[tested].min()),
        harmonic_mean=harmonic_mean(accuracies[tested]),
        geometric_mean=geometric_mean(accuracies[tested]),
        expected_calibration_error=_expected_calibration_error(bins) if scored else None,
        log_loss=counts.loss_sum / scored if scored else None,
        non_finite=counts.non_finite,
        group_boundaries=boundaries,
        group_sizes={name: int(mask.sum()) for name, mask in groups.items()},
        per_class=tuple(None if np.isnan(value) else float(value) for value in accuracies),
        calibration=bins,
        confusions=_largest_confusions(counts.confusion),
        intervals=_intervals(counts, groups | {"mean_class_accuracy": tested}),
    )


def _intervals(counts: Counts, means: Mapping[str, NDArray[np.bool_]]) -> dict[str, Interval]:
    """Of the overall accuracy and of means over classes, by which classes [C] these are; in percent."""
    found = {"accuracy": wilson(float(counts.correct.sum()), float(counts.total.sum()))}
    for name, mask in means.items():
        if mask.any():
            found[name] = mean_of_classes(counts.correct[mask], counts.total[mask])
    return {name: (100 * low, 100 * high) for name, (low, high) in found.items()}


def harmonic_mean(accuracies: NDArray[np.float64]) -> float:
    """Harmonic mean of class accuracies in percent; a class below 0.001 % counts as 0.001 %."""
    return float(1.0 / np.mean(1.0 / np.maximum(accuracies, HARMONIC_FLOOR)))


def geometric_mean(accuracies: NDArray[np.float64]) -> float:
    """Geometric mean of class accuracies in percent, 0 where one class is at 0.

    By logarithms: the product of some thousand class accuracies, which the authors take, underflows to 0.
    """
    if np.any(accuracies <= 0):
        return 0.0
    return float(np.exp(np.mean(np.log(accuracies))))


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _calibration(counts: Counts) -> tuple[CalibrationBin, ...]:
    columns = (counts.bin_count, counts.bin_confidence, counts.bin_correct)
    return tuple(
        CalibrationBin(
            lower=index / CALIBRATION_BINS,
            upper=(index + 1) / CALIBRATION_BINS,
            count=count,
            confidence=100.0 * confidence / count if count else None,
            accuracy=100.0 * correct / count if count else None,
        )
        for index, (count, confidence, correct) in enumerate(zip(*(c.tolist() for c in columns), strict=True))
    )


def _expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    total = sum(entry.count for entry in bins)
    gaps = (
        entry.count * abs(entry.accuracy - entry.confidence)
        for entry in bins
        if entry.accuracy is not None and entry.confidence is not None
    )
    return sum(gaps) / total


def _largest_confusions(confusion: NDArray[np.int64] | None) -> tuple[Confusion, ...]:
    if confusion is None:
        return ()
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    flat = errors.ravel()
    # Stable, so that ties come in class order on every machine.
    largest = np.argsort(-flat, kind="stable")[:LISTED_CONFUSIONS]
    places = [divmod(int(index), len(errors)) for index in largest if flat[index] > 0]
    return tuple(Confusion(label, predicted, int(errors[label, predicted])) for label, predicted in places)
