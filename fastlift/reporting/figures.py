"""The figures that tables and pages show, in one order and under one set of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastlift.data.index.groups import GROUP_BOUNDARIES

ABSENT = "–"
LONG_WAIT_SHARE = 0.1
_SLOWER = 2.0  # times the median process: who waits so much longer is named
LONG_WAIT_S = 2.0  # the first batch of every epoch takes a moment, which is much of a short epoch


@dataclass(frozen=True)
class Figure:
    """How one entry of `fastlift.evaluation.metrics.Metrics` is shown.

    label: full name, in which ``{lower}`` and ``{upper}`` are the groups' boundaries; short: column heading; unit: "%" or "nats"; higher_is_better: which end is marked as best.
    """

    name: str
    label: str
    short: str
    unit: str = "%"
    digits: int = 1
    higher_is_better: bool = True

    def title(self, metrics: Mapping[str, Any]) -> str:
        """The full name, with the boundaries that these metrics were computed at."""
        lower, upper = metrics.get("group_boundaries") or GROUP_BOUNDARIES
        return self.label.format(lower=lower, upper=upper)

    @property
    def plain_title(self) -> str:
        """The full name without boundaries, for metrics that differ in them."""
        return self.label.partition(" (")[0]

    def text(self, metrics: Mapping[str, Any]) -> str:
        """The value for a reader, or a dash where the run has none."""
        value = self.value(metrics)
        return ABSENT if value is None else f"{value:.{self.digits}f}"

    def interval(self, metrics: Mapping[str, Any]) -> tuple[float, float] | None:
        """The 95 % interval that stands with the metrics, or None."""
        found = (metrics.get("intervals") or {}).get(self.name)
        return None if found is None else (float(found[0]), float(found[1]))

    def range_text(self, metrics: Mapping[str, Any]) -> str:
        """The interval for a reader, in brackets; empty where there is none."""
        found = self.interval(metrics)
        return "" if found is None else f"({found[0]:.{self.digits}f} - {found[1]:.{self.digits}f})"

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """The finite value, or None."""
        value = metrics.get(self.name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


FIGURES = (
    Figure("accuracy", "Overall accuracy", "overall"),
    Figure("many", "Many-shot classes (> {upper} training images)", "many"),
    Figure("medium", "Medium-shot classes ({lower} to {upper})", "medium"),
    Figure("few", "Few-shot classes (< {lower})", "few"),
    Figure("mean_class_accuracy", "Mean class accuracy", "class mean"),
    Figure("macro_f1", "Macro F1", "F1"),
    Figure("worst_class", "Worst class", "worst"),
    Figure("harmonic_mean", "Harmonic mean of classes", "H-mean"),
    Figure("geometric_mean", "Geometric mean of classes", "G-mean"),
    Figure("expected_calibration_error", "Expected calibration error", "ECE", higher_is_better=False),
    Figure("log_loss", "Log loss", "log loss", unit="nats", digits=3, higher_is_better=False),
)
"""All figures, in reading order."""

SELECTIVE = (
    Figure("coverage", "Coverage: accepted images", "coverage"),
    Figure("selective_accuracy", "Accuracy of accepted images", "accepted"),
    Figure("right_rejected", "Right answers turned away", "turned away", higher_is_better=False),
)
"""What a threshold for "none of these" does, where there is one."""

COMPARED = tuple(figure for figure in FIGURES if figure.name not in ("mean_class_accuracy", "log_loss"))
"""The columns of a comparison: the others differ little from these, and eight columns fit 80 characters."""


def best(figure: Figure, rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Names of the rows that hold the best value as shown; empty where all that have one show the same."""
    values = {
        name: round(value, figure.digits) for name, row in rows.items() if (value := figure.value(row)) is not None
    }
    if len(set(values.values())) < 2:
        return set()
    top = max(values.values()) if figure.higher_is_better else min(values.values())
    return {name for name, value in values.items() if value == top}


def duration_text(seconds: float) -> str:
    """42.1 s, 3 min 07 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def is_long_wait(waited_s: float, of_s: float) -> bool:
    """Whether a training of ``of_s`` seconds waited so long for data that its reader should know."""
    return waited_s >= LONG_WAIT_S and waited_s >= LONG_WAIT_SHARE * of_s


def slow_one(shares: Sequence[float], hosts: Sequence[str]) -> str:
    """The process that waits for images much longer than most others, as a part of a sentence; empty where none does.

    shares: of the time that each process waited, by rank; hosts: the machine of each.
    """
    if len(shares) < 2:
        return ""
    slowest, middle = max(range(len(shares)), key=shares.__getitem__), sorted(shares)[(len(shares) - 1) // 2]
    if shares[slowest] < _SLOWER * middle:
        return ""
    return (
        f", by the clock of process {slowest} on {hosts[slowest]}, for which the others wait (half of them wait for images "
        f"in {100 * middle:.0f} % of the time or less)"
    )
