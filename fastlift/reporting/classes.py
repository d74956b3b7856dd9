"""The table of classes: one for all runs of the page, from the worst class up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastlift.evaluation.intervals import wilson
from fastlift.reporting.figures import ABSENT
from fastlift.reporting.record import RunRecord

LISTED_CLASSES = 1000


@dataclass(frozen=True)
class ClassTable:
    """Rows of text below headings; ``numbers`` are the columns that are, ``total`` how many classes there are."""

    headings: list[str]
    rows: list[list[str]]
    numbers: list[int]
    total: int


def class_table(runs: Sequence[RunRecord]) -> ClassTable | None:
    """Classes by their accuracy in the first run that was evaluated; None where none was, or the runs have other classes."""
    tested = [run for run in runs if run.metrics().get("per_class")]
    if not tested or any(run.class_names() != tested[0].class_names() for run in tested):
        return None
    first, names = tested[0], tested[0].class_names()
    accuracies = [[_value(value) for value in run.metrics()["per_class"]] for run in tested]
    order = sorted((value, place) for place, value in enumerate(accuracies[0]) if value is not None)
    shared = _shared_columns(first)
    headings, numbers = (
        ["Class", *(heading for heading, _ in shared)],
        [1 + at for at, (h, _) in enumerate(shared) if h != "Group"],
    )
    columns = _of_one(first, accuracies[0]) if len(tested) == 1 else _of_several(tested, accuracies)
    numbers += [len(headings) + at for at, (_, is_number, _) in enumerate(columns) if is_number]
    headings += [heading for heading, _, _ in columns]
    rows = [
        [names[place], *(cells[place] for _, cells in shared), *(cells[place] for _, _, cells in columns)]
        for _, place in order[:LISTED_CLASSES]
    ]
    return ClassTable(headings, rows, numbers, len(order))


def _shared_columns(run: RunRecord) -> list[tuple[str, list[str]]]:
    """Group, training images and test images, as far as the run tells them."""
    count = len(run.class_names())
    found: list[tuple[str, list[str]]] = []
    if masks := run.groups():
        found.append(("Group", [next((name for name, mask in masks.items() if mask[c]), ABSENT) for c in range(count)]))
    counts = run.data.get("class_counts") or []
    if len(counts) == count:
        found.append(("Training images", [f"{n:,}" for n in counts]))
    if run.confusions is not None:
        found.append(("Test images", [f"{n:,}" for n in run.confusions.images.tolist()]))
    return found


Column = tuple[str, bool, list[str]]  # heading, whether it holds numbers, cells


def _of_one(run: RunRecord, accuracies: Sequence[float | None]) -> list[Column]:
    columns: list[Column] = [("Accuracy (%)", True, [_text(value) for value in accuracies])]
    if run.confusions is None:
        return columns
    confusions = run.confusions
    intervals = [wilson(k, n) for k, n in zip(confusions.right.tolist(), confusions.images.tolist(), strict=True)]
    columns.append(("95 % interval", False, [f"{100 * low:.0f} to {100 * high:.0f}" for low, high in intervals]))
    taken = confusions.right + np.bincount(confusions.predicted, confusions.count, confusions.classes)
    precision = np.divide(100 * confusions.right, taken, out=np.full(len(taken), np.nan), where=taken > 0)
    columns.append(("Precision (%)", True, [ABSENT if np.isnan(value) else f"{value:.1f}" for value in precision]))
    names, mostly = run.class_names(), [ABSENT] * confusions.classes
    pairs = zip(confusions.label.tolist(), confusions.predicted.tolist(), confusions.count.tolist(), strict=True)
    for label, predicted, count in reversed(list(pairs)):
        mostly[label] = f"{names[predicted]} ({count})"
    columns.append(("Mostly taken for", False, mostly))
    return columns


def _of_several(runs: Sequence[RunRecord], accuracies: Sequence[Sequence[float | None]]) -> list[Column]:
    """The accuracy by each run, and its difference to the first."""
    columns: list[Column] = []
    for place, (run, values) in enumerate(zip(runs, accuracies, strict=True)):
        columns.append((f"{run.name} (%)", True, [_text(value) for value in values]))
        if place:
            pairs = zip(accuracies[0], values, strict=True)
            columns.append((f"{run.name} − {runs[0].name}", True, [_difference(a, b) for a, b in pairs]))
    return columns


def _difference(first: float | None, second: float | None) -> str:
    return ABSENT if first is None or second is None else f"{second - first:+.1f}".replace("-", "−")


def _text(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _value(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
