"""A table of ways over seeds: means and spreads, and how sure their differences to the first way are.

Two chances blur a difference: the seeds, and the choice of the test images. Both intervals stand in the table. Legend: S seeds,
N test images, C classes.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.beyond.ways import Measured
from benchmarks.documents import table
from fastlift.evaluation.intervals import Interval, Z, welch
from fastlift.runs.predictions import predictions_path, read_predictions

COLUMNS = ("accuracy", "many", "medium", "few")


def summary(measured: list[Measured], first: list[Measured]) -> dict[str, Any]:
    """Of a way's runs [S]: figures by seed, and 95 % intervals of the overall accuracy's difference to the ``first`` way's."""
    found = [one.metrics for one in measured]
    values = {name: [metrics[name] for metrics in found] for name in COLUMNS}
    result: dict[str, Any] = {"values": values}
    if measured is not first:
        others = [one.metrics["accuracy"] for one in first]
        result["difference"] = statistics.fmean(values["accuracy"]) - statistics.fmean(others)
        if len(measured) > 1 and len(first) > 1:
            result["of_seeds"] = welch(others, values["accuracy"])
        result["of_images"] = of_images(_right(first), _right(measured))
    return result


def of_images(
    first: tuple[NDArray[np.int32], NDArray[np.float64]], second: tuple[NDArray[np.int32], NDArray[np.float64]]
) -> Interval:
    """Of the difference in accuracy, in points, what the choice of the test images leaves open with these trained models.

    The images of each class are a sample; each counts with the difference of the shares of seeds that have it right. The mean of
    such differences is normal enough for a thousand images.

    Args:
        first, second: (labels [N], share of the seeds that are right [N]), of the same images.
    """
    labels, difference = first[0], second[1] - first[1]
    if not np.array_equal(labels, second[0]):
        raise ValueError("the two ways were tested on other images")
    classes = [difference[labels == label] for label in np.unique(labels)]
    variance = sum(len(one) * float(np.var(one, ddof=1)) for one in classes if len(one) > 1) / len(labels) ** 2
    mean, half = float(difference.mean()), Z * variance**0.5
    return 100 * (mean - half), 100 * (mean + half)


def _right(measured: list[Measured]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(labels [N], share of the runs that have each image right [N])."""
    shares, labels = [], None
    for one in measured:
        name = one.evaluation or _ensembling(one.run)
        images = read_predictions(predictions_path(one.run, name)).images
        shares.append((images.predicted == images.labels).astype(np.float64))
        labels = images.labels if labels is None else labels
    assert labels is not None
    return labels, np.mean(shares, axis=0)


def _ensembling(run: Path) -> str:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return {"none": "center"}.get(config["run"]["tte"], config["run"]["tte"])


def markdown(rows: dict[str, dict[str, Any]], seeds: list[int]) -> str:
    """The table as Markdown."""
    head = [
        f"{len(seeds)} seeds, mean ± spread",
        "all",
        "many",
        "medium",
        "few",
        "all: beside the first",
        "seeds",
        "images",
    ]
    lines = []
    for title, row in rows.items():
        cells = [_spread(row["values"][name]) for name in COLUMNS]
        if "difference" in row:
            cells += [f"{row['difference']:+.1f}", _range(row.get("of_seeds")), _range(row["of_images"])]
        else:
            cells += ["", "", ""]
        lines.append([title, *cells])
    return table(head, lines)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:+.1f} … {interval[1]:+.1f}"
