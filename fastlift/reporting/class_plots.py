"""The accuracy of each class against its training images, with the groups marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from fastlift.data.index.groups import group_masks
from fastlift.reporting.plots import RASTER_POINTS, Floats, Plot, boundaries_of, colour, names_of, plain_number
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import INK, MUTED, WIDTH_IN, drawing, inline_svg

SMOOTHING_DECADES = 0.12  # standard deviation of the kernel over log10(training images)


def smoothed(counts: Floats, values: Floats, at: Floats) -> Floats:
    """Gaussian kernel mean of values over log10(counts), at the given counts: how accuracy goes with the tail."""
    distance = (np.log10(at)[:, None] - np.log10(counts)[None, :]) / SMOOTHING_DECADES  # [at, counts]
    # The nearest class gets weight 1, so that gaps in the counts do not underflow to 0 / 0.
    exponent = -0.5 * distance**2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return np.asarray((weights @ values) / weights.sum(axis=1), dtype=np.float64)


def per_class_plots(runs: Sequence[RunRecord]) -> list[Plot]:
    """Accuracy of each class against its training images, for wide pages and for narrow ones; none where no run tells it."""
    found = _per_class_plot(runs, 7.0, "per-class"), _per_class_plot(runs, WIDTH_IN, "per-class-narrow")
    return [plot for plot in found if plot is not None]


def _per_class_plot(runs: Sequence[RunRecord], width_in: float, key: str) -> Plot | None:
    """With a smoothed line for each run."""
    pairs = [(index, run, *_class_pairs(run)) for index, run in enumerate(runs)]
    pairs = [pair for pair in pairs if len(pair[2])]
    if not pairs:
        return None
    points = sum(len(pair[2]) for pair in pairs)
    with drawing(width_in=width_in, height_in=3.3) as (figure, axes):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain_number)
        for index, _, counts, accuracies in pairs:
            axes.scatter(
                counts, accuracies, s=16 if points < 400 else 8, alpha=0.5 if len(pairs) == 1 else 0.35,
                color=colour(index), linewidths=0, rasterized=points > RASTER_POINTS,
            )  # fmt: skip
            if len(np.unique(counts)) >= 5:
                at = np.geomspace(counts.min(), counts.max(), 80)
                axes.plot(at, smoothed(counts, accuracies, at), color=colour(index), linewidth=2.2)
        edges = {group_edges(run) for _, run, _, _ in pairs}
        marked = edges.pop() if len(edges) == 1 else None
        has_lines = marked is not None and _mark_groups(axes, marked)
        axes.set(ylim=(-2, 102), xlabel="training images of the class", ylabel="test accuracy of the class (%)")
        svg = inline_svg(figure, key, f"Class accuracy against training images, for {names_of(runs)}")
    caption = (
        "One dot per class. The line is a Gaussian mean over neighbouring counts. The rare classes are at the left."
    )
    if has_lines:
        caption += f" Dotted lines part many, medium and few{_counted_before([run for _, run, _, _ in pairs])}."
    return Plot("Each class, by its training images", caption, svg)


def _class_pairs(run: RunRecord) -> tuple[Floats, Floats]:
    """(training images, accuracy) of the classes that have both."""
    counts = run.data.get("class_counts") or []
    accuracies = run.metrics().get("per_class") or []
    both = zip(counts, accuracies, strict=False)
    pairs = [(count, accuracy) for count, accuracy in both if accuracy is not None and count > 0]
    if not pairs:
        return np.empty(0), np.empty(0)
    first, second = np.asarray(pairs, dtype=np.float64).T
    return first, second


def group_edges(run: RunRecord) -> tuple[float, float] | None:
    """(few | medium, medium | many) in training images, where the groups part; None where these counts do not part them.

    The boundaries of the groups, where those go by the same counts. With ``--val-share`` they go by the counts before it, and
    of CIFAR-100-LT with ratio 10 by those of ratio 100: there the middle between the groups' nearest classes.
    """
    counts = np.asarray(run.data.get("class_counts") or [], dtype=np.float64)
    if _groups_follow_counts(run):
        return boundaries_of(run)
    masks = group_masks(run.data["group_counts"], boundaries_of(run))
    if len(counts) != len(masks["few"]):
        return None
    edges = []
    for below in (masks["few"], ~masks["many"]):
        low, high = counts[below].max(initial=0.0), counts[~below].min(initial=math.inf)
        if low > high:
            return None
        edges.append(math.sqrt(low * high))  # 0 or infinite where a side has no class
    return edges[0], edges[1]


def _groups_follow_counts(run: RunRecord) -> bool:
    return run.data.get("group_counts") in (None, run.data.get("class_counts"))


def _counted_before(runs: Sequence[RunRecord]) -> str:
    """By what the groups go, where that is not what the drawing shows."""
    if all(_groups_follow_counts(run) for run in runs):
        return ""
    if all(run.config.get("data", {}).get("val_share") for run in runs):
        return ", which go by the counts before the validation split was cut off"
    return ", which go by other counts"


def _mark_groups(axes: Axes, edges: tuple[float, float]) -> bool:
    """Whether a line was drawn; the classes may all be of one group."""
    lower, upper = edges
    left, right = axes.get_xlim()
    inside = [edge for edge in edges if left < edge < right]
    for edge in inside:
        axes.axvline(edge, color=MUTED, linewidth=1, linestyle=":")
    spans = {"few": (left, lower), "medium": (lower, upper), "many": (upper, right)}
    for name, (start, end) in spans.items():
        start, end = max(start, left), min(end, right)
        if end > start:
            axes.annotate(
                name, (math.sqrt(start * end), 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", fontsize=9, color=INK, annotation_clip=False,
            )  # fmt: skip
    axes.set_xlim(left, right)
    return bool(inside)
