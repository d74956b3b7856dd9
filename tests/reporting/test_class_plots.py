"""Class accuracy against training images: the smoothed line, and where the groups part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.reporting.class_plots import group_edges, per_class_plots, smoothed
from fastlift.reporting.record import read_run

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_smoothing_is_a_mean_that_follows_the_counts() -> None:
    counts = np.array([1.0, 10.0, 100.0, 1000.0])
    at = np.array([1.0, 30.0, 1000.0])
    assert smoothed(counts, np.full(4, 7.0), at) == pytest.approx([7.0, 7.0, 7.0])
    values = smoothed(counts, np.array([0.0, 0.0, 50.0, 100.0]), at)
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert values[2] == pytest.approx(100.0, abs=1e-6)
    assert np.isfinite(smoothed(np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([1e12]))).all()


def described(folder: Path, val_share: float = 0.0, **told: Any) -> Path:
    """The run with another description of its data."""
    for name in ("data.json", "results.json"):
        stored = json.loads((folder / name).read_text())
        stored.get("data", stored).update(told)
        (folder / name).write_text(json.dumps(stored))
    config = json.loads((folder / "config.json").read_text())
    config["data"]["val_share"] = val_share
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_groups_part_where_a_validation_split_was_cut_off(make_run: MakeRun) -> None:
    """They go by the counts before that: the lines stand between the classes that are left, and the caption says so."""
    folder = make_run()
    counts = np.array(json.loads((folder / "data.json").read_text())["class_counts"])
    plain = read_run(folder)
    assert group_edges(plain) == (20, 100)
    assert per_class_plots([plain])[0].caption.endswith("Dotted lines part many, medium and few.")
    left = counts - np.rint(0.2 * counts).astype(int)
    cut = read_run(described(folder, 0.2, class_counts=left.tolist(), group_counts=counts.tolist()))
    lower, upper = group_edges(cut) or (0.0, 0.0)
    for edge, boundary in ((lower, counts < 20), (upper, counts <= 100)):
        assert left[boundary].max() < edge < left[~boundary].min()
    for plot in per_class_plots([cut]):
        assert plot.svg.count("medium</text>") == 1
        assert "which go by the counts before the validation split was cut off" in plot.caption
    many = read_run(described(folder, group_counts=(100 * counts).tolist()))
    assert group_edges(many) == (0, 0), "all of them are"


def test_where_the_counts_part_no_groups_there_are_no_lines(make_run: MakeRun) -> None:
    folder = make_run()
    counts = json.loads((folder / "data.json").read_text())["class_counts"]
    run = read_run(described(folder, group_counts=counts[::-1]))
    assert group_edges(run) is None
    for plot in per_class_plots([run]):
        assert "medium</text>" not in plot.svg
        assert "Dotted" not in plot.caption
    one = read_run(described(make_run("few", classes=3), group_boundaries=[10_000, 20_000]))
    assert "Dotted" not in per_class_plots([one])[0].caption, "all classes are of one group"
