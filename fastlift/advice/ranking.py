"""The classes that lose most: what each costs the figure that is to rise, and with which others it is confused.

Legend: C classes. Accuracies, shares and points are percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlift.errors import UserError
from fastlift.evaluation.confusion import Confusions
from fastlift.evaluation.intervals import mean_of_classes, wilson

LISTED_NEIGHBOURS = 3


@dataclass(frozen=True)
class Neighbour:
    """Another class of a confused pair: how many test images, and their share of the class that they belong to."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class ClassCost:
    """What one class costs.

    Attributes:
        label: its number.
        group: many, medium or few; empty where the run does not tell.
        accuracy, low, high: of its test images, with the 95 % interval.
        lost, lost_low, lost_high: points of the figure that its mistakes cost, with the interval that follows.
        taken_for: what its test images were taken for.
        takes: classes whose test images were taken for it.
    """

    label: int
    name: str
    group: str
    train_images: int
    test_images: int
    accuracy: float
    low: float
    high: float
    lost: float
    lost_low: float
    lost_high: float
    taken_for: tuple[Neighbour, ...]
    takes: tuple[Neighbour, ...]


def class_weights(
    figure: str, images: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """w [C] with figure = sum_c w_c * accuracy_c; the w add up to 1.

    Args:
        figure: ``mean_class_accuracy``, ``accuracy``, or a group's name.
        images: test images of each class, int64 [C]; classes without one have no accuracy and no weight.
        groups: masks [C] by name.

    Raises:
        UserError: a group without a tested class.
    """
    tested = images > 0
    if figure == "accuracy":
        return images / images.sum()
    mask = tested if figure == "mean_class_accuracy" else tested & groups.get(figure, np.zeros(len(images), dtype=bool))
    if not mask.any():
        raise UserError(
            f"figure {figure}: this run has no class of that group with a test image; choose another figure"
        )
    return mask / mask.sum()


def figure_of(
    figure: str, weights: NDArray[np.float64], right: NDArray[np.int64], images: NDArray[np.int64]
) -> tuple[float, float, float]:
    """A figure in percent with its 95 % interval, from ``class_weights`` and counts of the classes."""
    tested = weights > 0
    value = 100 * float((weights[tested] * right[tested] / images[tested]).sum())
    if figure == "accuracy":
        low, high = wilson(float(right[tested].sum()), float(images[tested].sum()))
    else:
        low, high = mean_of_classes(right[tested], images[tested])
    return value, 100 * low, 100 * high


def class_costs(
    confusions: Confusions,
    weights: NDArray[np.float64],
    names: Sequence[str],
    train_counts: Sequence[int],
    groups: Mapping[str, NDArray[np.bool_]],
) -> tuple[ClassCost, ...]:
    """Classes by the points that they cost, lost_c = w_c * (100 - accuracy_c), the dearest first; all lost add up to 100 - figure.

    Args:
        weights: ``class_weights`` [C]; classes of weight 0 are left out.
        train_counts: training images of each class; where two cost the same, the one with fewer comes first.
    """
    images, right = confusions.images, confusions.right
    accuracy = np.divide(100.0 * right, images, out=np.full(len(images), 100.0), where=images > 0)
    lost = weights * (100 - accuracy)
    order = np.lexsort((np.asarray(train_counts), -lost))
    taken_for, takes = _neighbours(confusions, names)
    found = []
    for c in order[weights[order] > 0].tolist():
        low, high = wilson(int(right[c]), int(images[c]))
        found.append(
            ClassCost(
                label=c,
                name=names[c],
                group=next((name for name, mask in groups.items() if mask[c]), ""),
                train_images=int(train_counts[c]),
                test_images=int(images[c]),
                accuracy=float(accuracy[c]),
                low=100 * low,
                high=100 * high,
                lost=float(lost[c]),
                lost_low=float(weights[c] * 100 * (1 - high)),
                lost_high=float(weights[c] * 100 * (1 - low)),
                taken_for=tuple(taken_for[c]),
                takes=tuple(takes[c]),
            )
        )
    return tuple(found)


def _neighbours(confusions: Confusions, names: Sequence[str]) -> tuple[list[list[Neighbour]], list[list[Neighbour]]]:
    """Of each class the others that it is taken for, and those that are taken for it, the most frequent first."""
    taken_for: list[list[Neighbour]] = [[] for _ in names]
    takes: list[list[Neighbour]] = [[] for _ in names]
    columns = (confusions.label.tolist(), confusions.predicted.tolist(), confusions.count.tolist())
    for label, predicted, count in zip(*columns, strict=True):  # the most frequent first
        share = 100 * count / int(confusions.images[label])
        if len(taken_for[label]) < LISTED_NEIGHBOURS:
            taken_for[label].append(Neighbour(names[predicted], count, share))
        if len(takes[predicted]) < LISTED_NEIGHBOURS:
            takes[predicted].append(Neighbour(names[label], count, share))
    return taken_for, takes
