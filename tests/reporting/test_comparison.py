"""Runs beside each other: intervals, differences to the first."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlift.evaluation.intervals import mean_of_classes, wilson
from fastlift.evaluation.resampling import RESAMPLED
from fastlift.reporting.comparison import (
    BESIDE,
    difference_of,
    final_tables,
    interval_of,
    other_tables,
    time_tables,
)
from fastlift.reporting.figures import FIGURES, Figure
from fastlift.reporting.record import read_runs

MakeRun = Callable[..., Path]  # the fixture of conftest.py
BY_NAME: dict[str, Figure] = {figure.name: figure for figure in FIGURES}


def test_intervals_come_from_the_images(make_run: MakeRun) -> None:
    (run,) = read_runs([make_run()])
    images = run.metrics()["samples"]
    right = round(run.metrics()["accuracy"] * images / 100)
    assert interval_of(run, BY_NAME["accuracy"]) == pytest.approx([100 * bound for bound in wilson(right, images)])
    assert run.confusions is not None
    few = run.groups()["few"]
    expected = mean_of_classes(run.confusions.right[few], run.confusions.images[few])
    found = interval_of(run, BY_NAME["few"])
    assert found == pytest.approx([100 * bound for bound in expected])
    assert found[0] < run.metrics()["few"] < found[1]
    for name in RESAMPLED:
        low, high = interval_of(run, BY_NAME[name]) or (0.0, 0.0)
        assert low < run.metrics()[name] < high
    without = {figure.label for figure in FIGURES if interval_of(run, figure) is None}
    assert without == {"Worst class", "Harmonic mean of classes", "Geometric mean of classes"}
    (table,) = final_tables([run])
    assert "Worst class, harmonic and geometric mean have none: " in table.note
    assert {label for label, cells, _ in table.rows if not cells[0].interval} == without


def test_of_a_run_of_an_earlier_version_without_predictions_only_the_overall_accuracy_has_one(
    make_run: MakeRun,
) -> None:
    folder = make_run(thumbnails=None)
    results = json.loads((folder / "results.json").read_text())
    for metrics in (results["metrics"], *results["evaluations"].values()):
        del metrics["intervals"]
    (folder / "results.json").write_text(json.dumps(results))
    (run,) = read_runs([folder])
    assert interval_of(run, BY_NAME["accuracy"]) is not None
    assert interval_of(run, BY_NAME["many"]) is interval_of(run, BY_NAME["macro_f1"]) is None


def test_an_evaluation_again_by_a_later_version_is_the_same_one(make_run: MakeRun) -> None:
    """It has intervals, which the results of an earlier version have not: the predictions are those of the run's figures."""
    folder = make_run()
    results = json.loads((folder / "results.json").read_text())
    del results["metrics"]["intervals"]
    (folder / "results.json").write_text(json.dumps(results))
    (run,) = read_runs([folder])
    assert run.predictions is not None
    low, high = interval_of(run, BY_NAME["few"]) or (0.0, 0.0)
    assert low < run.metrics()["few"] < high


def test_ways_of_testing_have_intervals_too(make_run: MakeRun) -> None:
    (table,) = other_tables(read_runs([make_run()]))
    cells = {label: cells for label, cells, _ in table.rows}["Overall accuracy"]
    assert [bool(cell.interval) for cell in cells] == [True, True]


def test_differences_are_paired_where_the_test_images_are_the_same(make_run: MakeRun) -> None:
    one, other, blind = read_runs(
        [make_run("a"), make_run("b", seed=1, tail_bonus=0.2), make_run("c", seed=1, thumbnails=None)]
    )
    for name in ("accuracy", "many", "medium", "few", "mean_class_accuracy", *RESAMPLED):
        difference = other.metrics()[name] - one.metrics()[name]
        low, high = difference_of(one, other, BY_NAME[name]) or (0.0, 0.0)
        assert low < difference < high
    assert difference_of(one, one, BY_NAME["few"]) == (0.0, 0.0)
    assert difference_of(one, blind, BY_NAME["few"]) is None
    apart = difference_of(one, blind, BY_NAME["accuracy"])  # Newcombe's
    assert apart is not None
    assert difference_of(one, other, BY_NAME["worst_class"]) is difference_of(one, blind, BY_NAME["log_loss"]) is None


def test_tables_of_few_runs_and_of_many(make_run: MakeRun) -> None:
    runs = read_runs([make_run(f"r{seed}", seed=seed, rank=seed) for seed in range(BESIDE + 1)])
    (few,) = final_tables(runs[:2])
    assert few.columns == ["r0", "r1", "r1 − r0"]
    label, cells, unit = few.rows[0]
    values = [run.metrics()["accuracy"] for run in runs[:2]]
    assert (label, unit) == ("Overall accuracy", "%")
    assert [cell.text for cell in cells[:2]] == [f"{value:.1f}" for value in values]
    assert cells[2].text == f"{values[1] - values[0]:+.1f}".replace("-", "−")
    assert cells[2].interval.count(" to ") == 1
    assert "paired bootstrap" in few.note
    whole, changes = final_tables(runs)
    assert [name for name, _, _ in whole.rows] == [f"r{seed}" for seed in range(BESIDE + 1)]
    assert [name for name, _, _ in changes.rows] == [f"r{seed}" for seed in range(1, BESIDE + 1)]
    assert whole.columns == changes.columns
    assert not whole.has_units
    assert changes.rows[0][1][0] == cells[2]
    assert len(final_tables(runs[:1])[0].columns) == 1
    assert "Differences" not in final_tables(runs[:1])[0].note


def test_times_and_waiting_stand_beside_each_other(make_run: MakeRun) -> None:
    runs = read_runs([make_run("a"), make_run("b", data_wait_share=0.41)])
    (table,) = time_tables(runs)
    assert [[cell.text for cell in cells] for _, cells, _ in table.rows] == [
        ["1 min 21 s", "310", "2", "4.5 s"],
        ["1 min 21 s", "310", "41", "4.5 s"],
    ]
    assert time_tables(runs[:1]) == []
