"""The confusion matrix on the page: cells with names for few classes, drawings and tables for many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from numpy.typing import NDArray

from fastlift.evaluation.confusion import Confusions, likeness
from fastlift.reporting.plots import Plot
from fastlift.reporting.record import RunRecord
from fastlift.reporting.svg import MUTED, drawing, inline_svg

NAMED_CLASSES = 30
"""Up to so many classes the matrix has a cell a pair, with names."""
_BINS = 100  # cells of a drawn matrix a side, of more classes than twice as many
_PAIRS = 50
_GROUPS = 12
_LEAST_SHARE = 0.002  # of a drawn cell: where the colours begin
_HEAT = "#d9730d"  # as readable on the light page as on the dark one
_NAME_LETTERS = 16


@dataclass(frozen=True)
class NamedCell:
    """Images of a class that were taken for another (or for itself): their number, and their share of the class in 0..1."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """What the page shows of a run's mistakes; what does not fit its number of classes is empty."""

    names: list[str] = field(default_factory=list)
    rows: list[tuple[str, list[NamedCell]]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    by_group: list[list[str]] = field(default_factory=list)
    pairs: list[list[str]] = field(default_factory=list)
    groups: list[tuple[str, str]] = field(default_factory=list)


def matrix(run: RunRecord, key: str) -> Matrix | None:
    """The mistakes of a run; None where neither its predictions nor its figures tell any.

    Args:
        key: unique on the page, for ids.
    """
    confusions, names = run.confusions, run.class_names()
    if confusions is None:
        pairs = _listed_pairs(run, names)
        return Matrix(pairs=pairs) if pairs else None
    by_group = _by_group(run, confusions)
    if confusions.classes <= NAMED_CLASSES:
        order = _by_frequency(run, confusions)
        return Matrix(
            [names[c] for c in order], _named(confusions, order, names), [], by_group, _pairs(confusions, names)
        )
    plots, groups = _drawn(run, confusions, names, key)
    return Matrix([], [], plots, by_group, _pairs(confusions, names), groups)


def _by_frequency(run: RunRecord, confusions: Confusions) -> NDArray[np.int64]:
    """Class numbers by the counts that make the groups, the most first; in their own order where the run does not tell."""
    counts = run.data.get("group_counts") or run.data.get("class_counts") or []
    if len(counts) != confusions.classes:
        return np.arange(confusions.classes)
    return np.argsort(-np.asarray(counts), kind="stable").astype(np.int64)


def _named(confusions: Confusions, order: NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, list[NamedCell]]]:
    whole = confusions.matrix()[np.ix_(order, order)]
    images = np.maximum(confusions.images[order], 1)
    return [
        (
            names[label],
            [NamedCell(int(n), float(n / images[row]), row == column) for column, n in enumerate(whole[row].tolist())],
        )
        for row, label in enumerate(order.tolist())
    ]


def _pairs(confusions: Confusions, names: Sequence[str]) -> list[list[str]]:
    """Class, taken for, images, share of the class in percent, and how many the other way round."""
    top = slice(_PAIRS)
    known = dict(
        zip(
            zip(confusions.label.tolist(), confusions.predicted.tolist(), strict=True),
            confusions.count.tolist(),
            strict=True,
        )
    )
    columns = confusions.label[top].tolist(), confusions.predicted[top].tolist(), confusions.share[top].tolist()
    return [
        [names[a], names[b], f"{known[a, b]:,}", f"{100 * share:.0f}", f"{known.get((b, a), 0):,}"]
        for a, b, share in zip(*columns, strict=True)
    ]


def _listed_pairs(run: RunRecord, names: Sequence[str]) -> list[list[str]]:
    """Those that the results list, of a run without predictions."""
    listed = run.metrics().get("confusions") or []
    known = {(entry["label"], entry["predicted"]): entry["count"] for entry in listed}
    return [
        [_name(names, a), _name(names, b), f"{n:,}", "–", f"{known.get((b, a), 0):,}"] for (a, b), n in known.items()
    ]


def _by_group(run: RunRecord, confusions: Confusions) -> list[list[str]]:
    """For the images of many, medium and few-shot classes: percent right, and taken for another class of each group."""
    masks = {name: mask for name, mask in run.groups().items() if confusions.images[mask].sum()}
    if len(masks) < 2:
        return []
    rows = []
    for name, mask in masks.items():
        images = confusions.images[mask].sum()
        of_it = mask[confusions.label]
        shares = [confusions.count[of_it & other[confusions.predicted]].sum() / images for other in masks.values()]
        cells = [confusions.right[mask].sum() / images, *shares]
        rows.append([f"{name} ({mask.sum()} classes)", f"{images:,}", *(f"{100 * cell:.1f}" for cell in cells)])
    return [["Images of", "Images", "Right (%)", *(f"Taken for {name} (%)" for name in masks)], *rows]


def _drawn(
    run: RunRecord, confusions: Confusions, names: Sequence[str], key: str
) -> tuple[list[Plot], list[tuple[str, str]]]:
    """The matrix in the order of frequency, and, with names, in one that puts like classes beside each other."""
    if not len(confusions.count):
        return [], []
    plots = [_frequency_plot(run, confusions, key)]
    found = likeness(confusions)
    if found is None:
        return plots, []
    plots.append(_likeness_plot(run, confusions, found.order, found.groups, names, key))
    total = confusions.count.sum()
    rows = []
    for group in found.groups[:_GROUPS]:
        mistakes = confusions.among(group)
        listed = ", ".join(names[c] for c in group[np.argsort(-mistakes, kind="stable")].tolist())
        rows.append((listed, f"{mistakes.sum():,} mistakes among them, {100 * mistakes.sum() / total:.1f} % of all"))
    return plots, rows


def _frequency_plot(run: RunRecord, confusions: Confusions, key: str) -> Plot:
    order = _by_frequency(run, confusions)
    ends, labels, start = [], [], 0
    for name, mask in run.groups().items():
        if mask.any():
            labels.append((start + mask.sum() / 2, name))
            start += int(mask.sum())
            ends.append(start)
    caption = f"Classes with the most training images first. {_cells(confusions)} A bright column is a class that others are taken for."
    return Plot(
        "Mistakes, by frequency",
        caption,
        _heat(confusions, order, labels, ends[:-1], f"{key}-frequency",
              f"Share of each class's test images taken for each other class, most frequent classes first, for {run.name}"),
    )  # fmt: skip


def _likeness_plot(
    run: RunRecord,
    confusions: Confusions,
    order: NDArray[np.int64],
    groups: Sequence[NDArray[np.int64]],
    names: Sequence[str],
    key: str,
) -> Plot:
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    labels: list[tuple[float, str]] = []
    apart = len(order) / 16
    for group in groups:
        middle = float(place[group].mean())
        if len(labels) < _GROUPS and all(abs(middle - other) >= apart for other, _ in labels):
            name = names[int(group[np.argmax(confusions.among(group))])]
            labels.append((middle, name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 1] + "…"))
    caption = (
        f"Classes that are taken for each other stand together; a block at the diagonal is a group of them. {_cells(confusions)} "
        "Names: a class of each of the largest groups."
    )
    return Plot(
        "Mistakes, like beside like",
        caption,
        _heat(confusions, order, labels, [], f"{key}-likeness",
              f"Share of each class's test images taken for each other class, similar classes beside each other, for {run.name}"),
    )  # fmt: skip


def _cells(confusions: Confusions) -> str:
    size = _size(confusions)
    if size == confusions.classes:
        return "Row: class; column: what it was taken for; right answers are left out."
    each = math.ceil(confusions.classes / size)
    return f"Row: class; column: what it was taken for; right answers are left out. A cell is {each} x {each} classes."


def _size(confusions: Confusions) -> int:
    return confusions.classes if confusions.classes <= 2 * _BINS else _BINS


def _heat(
    confusions: Confusions,
    order: NDArray[np.int64],
    labels: Sequence[tuple[float, str]],
    lines: Sequence[int],
    key: str,
    description: str,
) -> Markup:
    """The drawing: mistakes as ink on a clear ground, so that it reads on a light page and on a dark one."""
    size = _size(confusions)
    cells = confusions.binned(order, size)
    red, green, blue = (int(_HEAT[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ink = LinearSegmentedColormap.from_list("heat", [(red, green, blue, 0.12), (red, green, blue, 1.0)])
    with drawing(width_in=4.6, height_in=4.9) as (figure, axes):
        most = max(float(cells.max()), 2 * _LEAST_SHARE)
        shown = axes.imshow(
            np.ma.masked_less(cells, _LEAST_SHARE / 10), cmap=ink, norm=LogNorm(_LEAST_SHARE, most), interpolation="nearest",
            extent=(0, confusions.classes, confusions.classes, 0), aspect="equal",
        )  # fmt: skip
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(True)
        for line in lines:
            axes.axhline(line, color=MUTED, linewidth=0.8, linestyle=":")
            axes.axvline(line, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_yticks([at for at, _ in labels], [name for _, name in labels], fontsize=8)
        axes.tick_params(length=2)
        axes.set_xticks([])
        axes.set_xlabel("taken for")
        bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.7, aspect=30, pad=0.02)
        bar.set_label("of the class's images (%)")
        ticks = [tick for tick in (0.002, 0.01, 0.05, 0.2, 0.5, 1.0) if tick <= most]
        bar.set_ticks(ticks, labels=[f"{100 * tick:g}" for tick in ticks])
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)
        return inline_svg(figure, key, description, tight=True)


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if 0 <= place < len(names) else f"class {place}"
