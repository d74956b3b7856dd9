"""The validation split over the training, overall and by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastlift.evaluation.metrics import GROUP_NAMES
from fastlift.reporting.plots import Plot, colour
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import drawing, inline_svg

_MARKED: dict[str, Any] = {"marker": "o", "markersize": 3}
_CAPTION = "On the validation split, while the run trained; groups by the training images of a class. The test split has no part in it."
_STYLES = {"accuracy": "-", "many": "--", "medium": "-.", "few": ":"}


def validation_plots(runs: Sequence[RunRecord]) -> list[Plot]:
    """Of a run that was evaluated while it trained one plot, of several one for all images and one a group; else none."""
    followed = [(place, run) for place, run in enumerate(runs) if run.validations]
    if not followed:
        return []
    if len(runs) == 1:
        return [_of_one(followed[0][1])]
    return [plot for field in ("accuracy", *GROUP_NAMES) if (plot := _of_several(followed, field)) is not None]


def _of_one(run: RunRecord) -> Plot:
    """Overall and by group."""
    with drawing() as (figure, axes):
        for row, field in enumerate(("accuracy", *GROUP_NAMES)):
            if points := _points(run, field):
                label = "overall" if field == "accuracy" else field
                axes.plot(*zip(*points, strict=True), _STYLES[field], color=colour(row), label=label, **_MARKED)
        svg = _finished(figure, axes, "validation", f"Validation accuracy over optimiser steps: {_last(run)}")
    return Plot("Validation accuracy", f"{_CAPTION} Last: {_last(run)}.", svg)


def _of_several(followed: Sequence[tuple[int, RunRecord]], field: str) -> Plot | None:
    """All images or one group, a line a run; None where no run has a figure of it."""
    lines = [(place, run, points) for place, run in followed if (points := _points(run, field))]
    if not lines:
        return None
    what = "overall" if field == "accuracy" else field
    with drawing() as (figure, axes):
        for place, run, points in lines:
            axes.plot(*zip(*points, strict=True), _STYLES[field], color=colour(place), label=run.name, **_MARKED)
        last = "; ".join(f"{run.name} at step {points[-1][0]}, {points[-1][1]:.1f}" for _, run, points in lines)
        title = f"Validation accuracy, {what}"
        svg = _finished(figure, axes, f"validation-{field}", f"{title} over optimiser steps: {last}")
    return Plot(title, f"{_CAPTION if field == 'accuracy' else ''} Last: {last}.".strip(), svg)


def _points(run: RunRecord, field: str) -> list[tuple[int, float]]:
    return [(event["step"], event[field]) for event in run.validations if event.get(field) is not None]


def _finished(figure: Figure, axes: Axes, key: str, description: str) -> Markup:
    axes.set(xlabel="optimiser step", ylabel="%", ylim=(0, None))
    axes.legend()
    return inline_svg(figure, key, description)


def _last(run: RunRecord) -> str:
    event = run.validations[-1]
    shown = [f"{name} {event[name]:.1f}" for name in ("accuracy", *GROUP_NAMES) if event.get(name) is not None]
    return f"{run.name} at step {event['step']}, {', '.join(shown)}"
