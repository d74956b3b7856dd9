"""The plots of a report, each over one or several runs; a run keeps its colour in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fastlift.data.index.groups import GROUP_BOUNDARIES, group_masks
from fastlift.evaluation.metrics import GROUP_NAMES
from fastlift.reporting.figures import FIGURES
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import INK, MUTED, SERIES, drawing, inline_svg

Floats = NDArray[np.float64]

_OF_GROUP = {figure.name: figure for figure in FIGURES}
MAX_CURVE_POINTS = 400
MAX_NAMED_RANKS = 16
RASTER_POINTS = 2000  # above this, points become a raster image inside the SVG: smaller, and quicker to show
STEPS_A_DECADE = 200  # of a plot three inches high: a third of a pixel


@dataclass(frozen=True)
class Plot:
    """One drawing with its heading and a sentence on how to read it."""

    title: str
    caption: str
    svg: Markup


def colour(index: int) -> str:
    """The colour of the run at this place, as hex for CSS and matplotlib; from the ninth on the same ones, fainter."""
    opacity = ("", "a0", "60")[index // len(SERIES) % 3]
    return SERIES[index % len(SERIES)] + opacity


def curve(run: RunRecord, field: str) -> tuple[Floats, Floats]:
    """(step, value) of one field of the step events, finite values only; long ones as means of equal blocks."""
    points = [(step["step"], step[field]) for step in run.steps if _is_finite(step.get(field))]
    if field == "images_per_s":
        points = [point for point in points if point[1] > 0]  # the first line after a start has no pace yet
    if not points:
        return np.empty(0), np.empty(0)
    steps, values = np.asarray(points, dtype=np.float64).T
    blocks = min(len(steps), MAX_CURVE_POINTS)
    means = [[block.mean() for block in np.array_split(column, blocks)] for column in (steps, values)]
    return np.array(means[0]), np.array(means[1])


def learning_curves(runs: Sequence[RunRecord]) -> list[Plot]:
    """Loss, accuracy, learning rate and throughput over the steps, where the runs have logged them."""
    wanted = (
        ("loss", "Training loss", "loss", "Running mean over the epoch; it restarts at each epoch."),
        ("accuracy", "Accuracy while training", "%", _ACCURACY_CAPTION),
        ("learning_rate", "Learning rate", "", "Changes once per epoch."),
        ("images_per_s", "Throughput", "images/s", "Training images per second, loading included."),
        ("data_wait_share", "Waiting for data", "share of the time", _DATA_WAIT_CAPTION),
    )
    plots = []
    for field, title, unit, caption in wanted:
        curves = [curve(run, field) for run in runs]
        if any(len(steps) for steps, _ in curves):
            plots.append(_curve_plot(runs, curves, field, title, unit, caption))
    return plots


_DATA_WAIT_CAPTION = (
    "Of the time since the previous point, the share in which training could not go on for want of the next batch."
)
_ACCURACY_CAPTION = (
    "Line: running accuracy on the training batches, over the epoch. Diamonds: accuracy on the test set, if it was "
    "evaluated during training."
)


def _curve_plot(
    runs: Sequence[RunRecord], curves: Sequence[tuple[Floats, Floats]], field: str, title: str, unit: str, caption: str
) -> Plot:
    with drawing() as (figure, axes):
        for index, (steps, values) in enumerate(curves):
            marker = "o" if len(steps) == 1 else ""
            # A rate that stands in a line held for the steps before it.
            style = "steps-pre" if field == "learning_rate" else "default"
            axes.plot(steps, values, color=colour(index), marker=marker, markersize=4, drawstyle=style)
            if field == "accuracy":
                _mark_evaluations(axes, runs[index], colour(index))
        axes.set(xlabel="optimiser step", ylabel=unit)
        if field != "loss":
            axes.set_ylim(bottom=0)
        svg = inline_svg(figure, f"curve-{field}", f"{title} over optimiser steps, for {names_of(runs)}")
    return Plot(title, caption, svg)


def waiting_plots(runs: Sequence[RunRecord]) -> list[Plot]:
    """How long each process of a run waited for data, for runs of several processes."""
    return [plot for index, run in enumerate(runs) if (plot := _waiting_plot(run, index)) is not None]


def _waiting_plot(run: RunRecord, index: int) -> Plot | None:
    """By process: the shares of the epochs as a line from the least to the largest, that of the training as a dot."""
    epochs = [epoch["data_wait_by_rank"] for epoch in run.epochs if epoch.get("data_wait_by_rank")]
    count = len(run.processes) or (len(epochs[-1]) if epochs else 0)
    # Of another number of processes are epochs before a resume.
    shares = np.array([shares for shares in epochs if len(shares) == count], dtype=np.float64)
    if not count:
        return None
    with drawing() as (figure, axes):
        ranks = np.arange(count)
        if len(shares):
            axes.vlines(ranks, shares.min(axis=0), shares.max(axis=0), color=colour(index), alpha=0.5)
        whole = [each["data_wait_share"] for each in run.processes] or shares[-1]
        axes.scatter(ranks, whole, s=24 if count < 100 else 8, color=colour(index), linewidths=0)
        axes.set(xlabel="process (rank)", ylabel="share of the time", xlim=(-0.5, count - 0.5), ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        hosts = ", ".join(f"rank {each['rank']} on {each['host']}" for each in run.processes[:MAX_NAMED_RANKS])
        title = f"Waiting for data by process, {run.name}"
        svg = inline_svg(figure, f"waiting-{index}", title)
    dot = "the whole training" if run.processes else "the last epoch"
    caption = f"Line: its epochs, from the least to the largest share. Dot: {dot}. All wait for the slowest."
    return Plot(title, f"{caption} {hosts}" if hosts else caption, svg)


def _mark_evaluations(axes: Axes, run: RunRecord, tint: str) -> None:
    """Test accuracies at the step where they were taken."""
    points = [(event["step"], event["accuracy"]) for event in run.evaluations if _is_finite(event.get("accuracy"))]
    if points:
        axes.plot(*zip(*points, strict=True), linestyle="", marker="D", markersize=5, color=tint)


def class_counts_of(runs: Sequence[RunRecord]) -> Plot | None:
    """The training set's long tail, where the runs that tell it learned from the same one."""
    telling = [run for run in runs if run.data.get("class_counts")]
    if not telling or any(run.data["class_counts"] != telling[0].data["class_counts"] for run in telling):
        return None
    return _class_counts_plot(telling[0])


def _class_counts_plot(run: RunRecord) -> Plot:
    """Training images per class, largest first."""
    counts = run.data["class_counts"]
    order = np.argsort(-np.asarray(counts), kind="stable")
    ordered = np.asarray(counts, dtype=np.float64)[order]
    masks = group_masks(np.asarray(run.data.get("group_counts") or counts)[order].tolist(), boundaries_of(run))
    group_of = np.select([masks[name] for name in GROUP_NAMES], range(len(GROUP_NAMES)))
    starts, heights = _stairs(ordered, group_of)
    # Each run of equal classes as a step as wide as they are many: two points at the same height.
    edges = np.repeat([*starts, len(ordered)], 2)[1:-1]
    with drawing() as (figure, axes):
        for shade, name in enumerate(GROUP_NAMES):
            if masks[name].any():
                where, label = np.repeat(group_of[starts] == shade, 2), f"{name} ({masks[name].sum()})"
                axes.fill_between(
                    edges, np.repeat(heights, 2), 0.5, where=where.tolist(), color=colour(shade), alpha=0.75, lw=0,
                    label=label,
                )  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain_number)
        axes.set_ylim(bottom=0.5 if ordered.min() <= 1 else 1)
        axes.set(xlim=(0, len(ordered)), xlabel="classes, largest first", ylabel="training images")
        axes.legend(loc="upper right")
        svg = inline_svg(figure, "class-counts", "Training images per class, largest class first")
    return Plot("The long tail", "Training images per class, on a logarithmic scale.", svg)


def _stairs(ordered: Floats, group_of: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """Where each run of equal counts and groups begins, and its height.

    Of very many classes heights are rounded to less than what the eye can tell, or every class would be a step of its own.
    """
    if len(ordered) > RASTER_POINTS:
        ordered = 10 ** (np.rint(np.log10(np.maximum(ordered, 0.5)) * STEPS_A_DECADE) / STEPS_A_DECADE)
    changes = (np.diff(ordered) != 0) | (np.diff(group_of) != 0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return starts, ordered[starts]


def group_bars(runs: Sequence[RunRecord]) -> Plot | None:
    """Overall, many, medium and few accuracy of each run, side by side."""
    rows = [run.metrics() for run in runs]
    groups = [name for name in ("accuracy", *GROUP_NAMES) if any(_is_finite(row.get(name)) for row in rows)]
    if not groups:
        return None
    width = 0.8 / len(rows)
    with drawing() as (figure, axes):
        for index, row in enumerate(rows):
            for place, group in enumerate(groups):
                value = row.get(group)
                if value is None or not _is_finite(value):
                    continue
                x = place + (index - (len(rows) - 1) / 2) * width
                axes.bar(x, value, width * 0.92, color=colour(index))
                low, high = _OF_GROUP[group].interval(row) or (value, value)
                if high > low:
                    axes.vlines(x, low, high, color=INK, linewidth=1)
                if len(rows) <= 3:
                    axes.annotate(
                        f"{value:.1f}",
                        (x, max(value, high)),
                        xytext=(0, 2),
                        textcoords="offset points",
                        ha="center",
                        fontsize=8.5,
                    )
        axes.set_xticks(range(len(groups)), ["overall" if name == "accuracy" else name for name in groups])
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set(ylim=(0, 100), ylabel="accuracy (%)")
        description = f"Accuracy overall and by many, medium and few-shot classes, for {names_of(runs)}"
        svg = inline_svg(figure, "groups", description)
    return Plot(
        "Many, medium, few",
        "Mean class accuracy of each group; overall over all test images. Lines: 95 % intervals.",
        svg,
    )


def calibration_plot(runs: Sequence[RunRecord]) -> Plot | None:
    """Accuracy against confidence in bins; on the diagonal a model is as often right as it says."""
    binned = [(index, run, [entry for entry in run.metrics().get("calibration") or [] if entry.get("count")])
              for index, run in enumerate(runs)]  # fmt: skip
    binned = [entry for entry in binned if entry[2]]
    if not binned:
        return None
    with drawing() as (figure, axes):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--")
        for index, _, bins in binned:
            share = np.array([entry["count"] for entry in bins]) / sum(entry["count"] for entry in bins)
            x, y = ([entry[name] for entry in bins] for name in ("confidence", "accuracy"))
            axes.plot(x, y, color=colour(index), linewidth=1.2)
            axes.scatter(x, y, s=12 + 240 * share, color=colour(index), alpha=0.7, linewidths=0)
        axes.set(xlim=(0, 104), ylim=(0, 104), xlabel="confidence (%)", ylabel="accuracy (%)")
        svg = inline_svg(figure, "calibration", f"Accuracy against confidence, for {names_of(runs)}")
    caption = "One dot per bin; its size is the bin's share of the test images. Below the dashed line the model is overconfident."
    return Plot("Calibration", caption, svg)


def boundaries_of(run: RunRecord) -> tuple[int, int]:
    """Of the groups: few < lower <= medium <= upper < many."""
    lower, upper = run.data.get("group_boundaries") or GROUP_BOUNDARIES
    return lower, upper


def plain_number(value: float, _: object) -> str:
    """1000 for the tick that matplotlib would write as a formula."""
    return f"{value:,.6g}"


def names_of(runs: Sequence[RunRecord]) -> str:
    """For alternative texts."""
    return ", ".join(run.name for run in runs)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
