"""Mean and spread of runs that differ in the seed alone, and how two such settings differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastlift.config import marked
from fastlift.evaluation.intervals import Interval, student, welch
from fastlift.reporting.comparison import Cell, Table, flat, range_text, signed, title_of, told_figures
from fastlift.reporting.figures import ABSENT, FIGURES, Figure
from fastlift.reporting.record import RunRecord
from fastlift.settings import May


@dataclass(frozen=True)
class SeedFigure:
    """A figure over runs that differ in the seed alone, in its unit.

    Attributes:
        values: one a seed, in their order.
        mean, sd, least, largest: of these; the standard deviation with n - 1.
        interval: 95 % of the mean over ever more seeds, by Student's t; for percent within 0 and 100.
    """

    title: str
    short: str
    unit: str
    digits: int
    values: tuple[float, ...]
    mean: float
    sd: float
    least: float
    largest: float
    interval: Interval
    HEADINGS: ClassVar = ("figure", "mean", "± sd", "95 % of the mean", "least to largest", "unit")

    @classmethod
    def of(cls, figure: Figure, title: str, values: Sequence[float]) -> SeedFigure:
        """Of two values or more."""
        low, high = interval_of_mean(values, figure)
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        return cls(
            title,
            figure.short,
            figure.unit,
            figure.digits,
            tuple(values),
            mean,
            sd,
            min(values),
            max(values),
            (low, high),
        )

    def texts(self) -> tuple[str, ...]:
        """The cells of a row, as ``HEADINGS`` names them; mean and deviation with a digit more than a single run's figure."""
        more, digits = self.digits + 1, self.digits
        (low, high), least, largest = self.interval, self.least, self.largest
        ranges = f"{low:.{digits}f} to {high:.{digits}f}", f"{least:.{digits}f} to {largest:.{digits}f}"
        return (self.short, f"{self.mean:.{more}f}", f"{self.sd:.{more}f}", *ranges, self.unit)


def interval_of_mean(values: Sequence[float], figure: Figure) -> Interval:
    """95 % of the mean of a figure over ever more seeds, within what the figure can be."""
    low, high = student(values)
    return max(0.0, low), min(100.0, high) if figure.unit == "%" else high


def over_seeds(metrics: Sequence[Mapping[str, Any]]) -> dict[str, SeedFigure]:
    """Each figure that all of the runs have, over their metrics, one a seed; by its name."""
    columns, found = {str(number): one for number, one in enumerate(metrics)}, {}
    for figure in FIGURES:
        values = [value for one in metrics if (value := figure.value(one)) is not None]
        if len(values) == len(metrics):
            found[figure.name] = SeedFigure.of(figure, title_of(figure, columns), values)
    return found


def seeds_tables(runs: Sequence[RunRecord]) -> list[Table]:
    """One table, a column a setting of which there are runs with several seeds; none where there is no such setting."""
    several = _of_several_seeds(runs)
    if not several:
        return []
    names = _group_names(several)
    columns = [names[0]]
    for name in names[1:]:
        columns += [name, f"{name} − {names[0]}"]
    metrics = {run.name: run.metrics() for group in several for run in group}
    rows = []
    for figure in told_figures(metrics):
        values = [[v for run in group if (v := figure.value(metrics[run.name])) is not None] for group in several]
        cells = [_spread(values[0], figure)]
        for of_group in values[1:]:
            cells += [_spread(of_group, figure), _between(values[0], of_group, figure)]
        rows.append((title_of(figure, metrics), cells, figure.unit))
    note = (
        "Mean ± standard deviation (n − 1) over runs that differ in nothing but the seed; below it the least and the largest, and the "
        "95 % interval of the mean by Student's t, which counts seeds alone: where it would lie with ever more of them. "
    )
    if len(several) > 1:
        note += "Differences of the means have 95 % intervals by Welch's t, likewise."
    return [Table("Over seeds", columns, rows, note)]


def _of_several_seeds(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.finished and run.config:
            groups.setdefault(_settings(run), []).append(run)
    return [group for group in groups.values() if len({_seed(run) for run in group}) > 1]


def _spread(values: Sequence[float], figure: Figure) -> Cell:
    if not values:
        return Cell(ABSENT)
    digits = figure.digits + 1
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return Cell(mean)
    ranges = (min(values), max(values)), interval_of_mean(values, figure)
    told = "least and largest {}; mean {}".format(*(range_text(one, figure) for one in ranges))
    return Cell(f"{mean} ± {np.std(values, ddof=1):.{digits}f}", told)


def _between(first: Sequence[float], second: Sequence[float], figure: Figure) -> Cell:
    if not first or not second:
        return Cell(ABSENT)
    known = welch(first, second) if len(first) > 1 and len(second) > 1 else None
    return Cell(signed(float(np.mean(second) - np.mean(first)), figure), range_text(known, figure, signed=True))


def _settings(run: RunRecord) -> str:
    """What a run computes, without its seed: runs with the same text differ in the seed alone, or in nothing that counts."""
    free = marked(May.CHANGE) | {"seed"}
    kept = {name: value for name, value in flat(run.config).items() if name.rpartition(".")[2] not in free}
    test = run.data.get("fingerprints", {}).get("test", "")
    return json.dumps([kept, test], sort_keys=True)


def _seed(run: RunRecord) -> str:
    return flat(run.config).get("run.seed", "")


def _beginning(names: Sequence[str]) -> str:
    """What all of them begin with, letter by letter."""
    first, last = min(names), max(names)
    return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _group_names(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """What the names of a group's runs begin with, and how many they are; of two that would be the same, the first run's name."""
    shared = [_beginning([run.name for run in group]).removesuffix("seed").rstrip("-_. /s=") for group in groups]
    names = [name or group[0].name for name, group in zip(shared, groups, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{group[0].name} and others" for group in groups]
    return [f"{name} ({len(group)} seeds)" for name, group in zip(names, groups, strict=True)]
