"""Figures of runs beside each other: intervals, and differences to the first run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastlift.evaluation.intervals import Interval, mean_of_classes, newcombe, paired_difference, wilson
from fastlift.evaluation.metrics import GROUP_NAMES
from fastlift.evaluation.paired_tests import same_images
from fastlift.evaluation.resampling import RESAMPLED
from fastlift.reporting.figures import ABSENT, FIGURES, Figure, best, duration_text
from fastlift.reporting.record import RunRecord, same_figures
from fastlift.system.printing import masked

_OVERALL, _CLASS_MEANS = "accuracy", (*GROUP_NAMES, "mean_class_accuracy")


BESIDE = 3
"""So many runs stand beside each other in a table of figures; more below each other."""
_NOTE = (
    "Small figures are 95 % intervals: what chance in the choice of the test images leaves open. Overall accuracy: Wilson's. All "
    "others: bootstrap of the test images within each class. Worst class, harmonic and geometric mean have none: they hang on the few "
    "worst classes, and test images drawn anew lower the worst further, so that such an interval would miss. Seeds differ in "
    "addition."
)


@dataclass(frozen=True)
class Cell:
    """A figure for a reader: the value, its interval below it, and whether it is the best of its row."""

    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of (label, cells, unit) below a heading for each cell; ``note`` says what the intervals are."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell], str]]
    note: str = ""
    rows_are: str = "Figure"

    @property
    def has_units(self) -> bool:
        """Whether a row has one."""
        return any(unit for _, _, unit in self.rows)


def interval_of(run: RunRecord, figure: Figure) -> Interval | None:
    """The 95 % interval of a figure, in its unit; None where the run does not hold what it takes, and of those without one."""
    value = figure.value(run.metrics())
    if value is None:
        return None
    if (stored := figure.interval(run.metrics())) is not None:
        return stored
    if figure.name == _OVERALL:
        samples = run.metrics().get("samples") or 0
        return _percent(wilson(value * samples / 100, samples)) if samples else None
    if figure.name in RESAMPLED:
        return None if run.draws is None else run.draws.interval(figure.name, value)
    mask = _classes_of(run, figure)
    if mask is None or run.confusions is None:
        return None
    return _percent(mean_of_classes(run.confusions.right[mask], run.confusions.images[mask]))


def difference_of(first: RunRecord, second: RunRecord, figure: Figure) -> Interval | None:
    """The 95 % interval of second - first in points (nats for log loss); None where nothing tells it."""
    values = figure.value(first.metrics()), figure.value(second.metrics())
    if values[0] is None or values[1] is None or figure.name not in (_OVERALL, *_CLASS_MEANS, *RESAMPLED):
        return None
    if same_test_images(first, second):
        if figure.name in RESAMPLED:
            draws = first.draws, second.draws
            if draws[0] is None or draws[1] is None:
                return None
            return draws[0].difference(draws[1], figure.name, values[1] - values[0])
        mask, other = _classes_of(first, figure), _classes_of(second, figure)
        if mask is None or other is None or not np.array_equal(mask, other):
            return None
        right = [_right(run, len(mask)) for run in (first, second)]
        both = np.bincount(_labels(first)[_is_right(first) & _is_right(second)], minlength=len(mask))
        assert first.confusions is not None
        counts = [column[mask] for column in (*right, both, first.confusions.images)]
        return _percent(paired_difference(counts[0], counts[1], counts[2], counts[3], figure.name == _OVERALL))
    if figure.name != _OVERALL:
        return None
    samples = [run.metrics().get("samples") or 0 for run in (first, second)]
    if not all(samples):
        return None
    shares = [float(value) / 100 for value in values if value is not None]
    intervals = [wilson(share * n, n) for share, n in zip(shares, samples, strict=True)]
    return _percent(newcombe(intervals[0], intervals[1], shares[0], shares[1]))


def final_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """The final figures of runs with intervals, and their differences to the first one.

    Of few runs in one table, a row a figure; of more in two, a row a run, so that they fit the page's width.
    """
    shown = [run for run in runs if run.metrics()]
    if not shown:
        return []
    metrics, others = {run.name: run.metrics() for run in shown}, shown[1:]
    told, columns = told_figures(metrics), [shown[0].name]
    values = {figure.name: _values(shown, figure, best(figure, metrics)) for figure in told}
    changes = {figure.name: [_difference(shown[0], run, figure) for run in others] for figure in told}
    if len(shown) > BESIDE:
        headings = [f"{figure.short} ({figure.unit})" for figure in told]
        rows = [(run.name, [values[figure.name][at] for figure in told], "") for at, run in enumerate(shown)]
        moved = [(run.name, [changes[figure.name][at] for figure in told], "") for at, run in enumerate(others)]
        return [
            Table("", headings, rows, _NOTE, "Run"),
            Table(f"Differences to {shown[0].name}", headings, moved, _difference_note(shown), "Run"),
        ]
    for run in others:
        columns += [run.name, f"{run.name} − {shown[0].name}"]
    rows = []
    for figure in told:
        cells = values[figure.name][:1]
        for value, change in zip(values[figure.name][1:], changes[figure.name], strict=True):
            cells += [value, change]
        rows.append((title_of(figure, metrics), cells, figure.unit))
    return [Table("", columns, rows, f"{_NOTE} {_difference_note(shown) if others else ''}".strip())]


def _values(runs: Sequence[RunRecord], figure: Figure, leaders: set[str]) -> list[Cell]:
    return [
        Cell(figure.text(run.metrics()), range_text(interval_of(run, figure), figure), run.name in leaders)
        for run in runs
    ]


def other_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """The figures of further ways of testing, a table a way (of one run: one table with a column a way)."""
    final = {run.name: run.metrics() for run in runs}
    if len(runs) == 1:
        ways = runs[0].named_evaluations()
        others = {way: metrics for way, metrics in ways.items() if not same_figures(metrics, runs[0].metrics())}
        return [_plain("Ways of testing", ways)] if others else []
    tables = []
    for way in dict.fromkeys(way for run in runs for way in run.named_evaluations()):
        rows = {run.name: run.named_evaluations()[way] for run in runs if way in run.named_evaluations()}
        if any(not same_figures(metrics, final[name]) for name, metrics in rows.items()):
            tables.append(_plain(f"Tested by {way}", rows))
    return tables


def time_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """How long the runs took, and how much of that they waited for data."""
    timed = [run for run in runs if run.section("timing")]
    if len(runs) < 2 or not timed:
        return []
    headings = ["Training", "Training images/s", "Waited for data (%)", "Evaluation"]
    rows = []
    for run in timed:
        timing = run.section("timing")
        texts = [
            duration_text(timing["train_s"]) if "train_s" in timing else ABSENT,
            f"{timing['images_per_s']:.0f}" if "images_per_s" in timing else ABSENT,
            f"{100 * timing['data_wait_share']:.0f}" if "data_wait_share" in timing else ABSENT,
            duration_text(timing["evaluate_s"]) if "evaluate_s" in timing else ABSENT,
        ]
        rows.append((run.name, [Cell(text) for text in texts], ""))
    return [Table("Time", headings, rows, rows_are="Run")]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and JSON text."""
    result: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = masked(value) if isinstance(value, str) else json.dumps(value)
    return result


def setting_differences(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Settings that are not the same in all runs, as rows of name and value by run."""
    settings = [flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = [[name, *(one.get(name, ABSENT) for one in settings)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _plain(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for figure in told_figures(columns):
        leaders = best(figure, columns)
        cells = [
            Cell(figure.text(metrics), range_text(figure.interval(metrics), figure), name in leaders)
            for name, metrics in columns.items()
        ]
        rows.append((title_of(figure, columns), cells, figure.unit))
    return Table(title, list(columns), rows)


def told_figures(columns: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """The figures that one of these metrics has at least."""
    return [figure for figure in FIGURES if any(figure.value(metrics) is not None for metrics in columns.values())]


def title_of(figure: Figure, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """The heading of a figure; with its boundaries where they are the same in all of these metrics."""
    titles = {figure.title(metrics) for metrics in columns.values()}
    return titles.pop() if len(titles) == 1 else figure.plain_title


def _difference_note(runs: Sequence[RunRecord]) -> str:
    paired = all(same_test_images(runs[0], run) for run in runs[1:])
    how = (
        "paired bootstrap of the test images"
        if paired
        else "Newcombe's, where the runs were not tested on the same images"
    )
    return f"Differences, in points (of log loss in nats): {how}; an interval without 0 is more than the test set's chance."


def _difference(first: RunRecord, second: RunRecord, figure: Figure) -> Cell:
    values = figure.value(first.metrics()), figure.value(second.metrics())
    if values[0] is None or values[1] is None:
        return Cell(ABSENT)
    return Cell(
        signed(values[1] - values[0], figure), range_text(difference_of(first, second, figure), figure, signed=True)
    )


def signed(value: float, figure: Figure) -> str:
    """A difference for a reader."""
    rounded = round(value, figure.digits) + 0.0  # no minus before a zero
    return f"{rounded:+.{figure.digits}f}".replace("-", "−")


def range_text(interval: Interval | None, figure: Figure, signed: bool = False) -> str:
    """An interval for a reader; empty where there is none."""
    if interval is None:
        return ""
    sign = "+" if signed else ""
    rounded = [round(value, figure.digits) + 0.0 for value in interval]
    return " to ".join(f"{value:{sign}.{figure.digits}f}".replace("-", "−") for value in rounded)


def _percent(interval: Interval) -> Interval:
    return 100 * interval[0], 100 * interval[1]


def _classes_of(run: RunRecord, figure: Figure) -> np.ndarray | None:
    """Which tested classes a figure is over, [C]; None where what was said of every image is not there."""
    if run.predictions is None or run.predictions.images.every > 1 or run.confusions is None:
        return None
    tested = run.confusions.images > 0
    if figure.name in (_OVERALL, "mean_class_accuracy"):
        return tested
    mask = run.groups().get(figure.name)
    return None if mask is None or not (mask & tested).any() else mask & tested


def same_test_images(first: RunRecord, second: RunRecord) -> bool:
    """Whether both keep what they said of the same test images."""
    one, other = first.predictions, second.predictions
    return (
        one is not None
        and other is not None
        and one.fingerprint == other.fingerprint
        and same_images(one.images, other.images)
    )


def _labels(run: RunRecord) -> np.ndarray:
    assert run.predictions is not None
    return run.predictions.images.labels


def _is_right(run: RunRecord) -> np.ndarray:
    assert run.predictions is not None
    return run.predictions.images.predicted == run.predictions.images.labels


def _right(run: RunRecord, classes: int) -> np.ndarray:
    return np.bincount(_labels(run)[_is_right(run)], minlength=classes)
