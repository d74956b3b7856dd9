"""The validation split over the training: overall and by group for a run, overall for several."""

from __future__ import annotations

from collections.abc import Sequence

from fastlift.evaluation.metrics import GROUP_NAMES
from fastlift.reporting.plots import Plot, colour
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import drawing, inline_svg

_STYLES = {"accuracy": "-", "many": "--", "medium": "-.", "few": ":"}


def validation_plots(runs: Sequence[RunRecord]) -> list[Plot]:
    """One plot where a run was evaluated while it trained, else none."""
    followed = [(place, run) for place, run in enumerate(runs) if run.validations]
    if not followed:
        return []
    alone = len(runs) == 1
    fields = ("accuracy", *GROUP_NAMES) if alone else ("accuracy",)
    with drawing() as (figure, axes):
        for place, run in followed:
            for row, field in enumerate(fields):
                points = [(event["step"], event[field]) for event in run.validations if event.get(field) is not None]
                if points:
                    label = ("overall" if field == "accuracy" else field) if alone else run.name
                    tint = colour(row if alone else place)
                    axes.plot(
                        *zip(*points, strict=True), _STYLES[field], marker="o", markersize=3, color=tint, label=label
                    )
        axes.set(xlabel="optimiser step", ylabel="%", ylim=(0, None))
        axes.legend()
        title = "Validation accuracy" if alone else "Validation accuracy, overall"
        last = "; ".join(_last(run) for _, run in followed)
        svg = inline_svg(figure, "validation", f"{title} over optimiser steps: {last}")
    caption = (
        "On the validation split, while the run trained; groups by the training images of a class. The test split has no part "
        f"in it. Last: {last}."
    )
    return [Plot(title, caption, svg)]


def _last(run: RunRecord) -> str:
    event = run.validations[-1]
    shown = [f"{name} {event[name]:.1f}" for name in ("accuracy", *GROUP_NAMES) if event.get(name) is not None]
    return f"{run.name} at step {event['step']}, {', '.join(shown)}"
