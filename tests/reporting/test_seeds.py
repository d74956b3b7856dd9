"""Runs that differ in the seed alone: mean, spread, and differences of two settings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from fastlift.reporting.comparison import setting_differences
from fastlift.reporting.record import RunRecord, read_runs
from fastlift.reporting.seeds import over_seeds, seeds_tables
from fastlift.reporting.table import over_seeds_table

MakeRun = Callable[..., Path]  # the fixture of conftest.py


def test_means_over_runs_that_differ_in_the_seed_alone(make_run: MakeRun) -> None:
    folders = [make_run(f"lift-s{seed}", seed=seed) for seed in range(3)]
    folders += [make_run(f"wide-seed{seed}", seed=seed + 5, rank=64, tail_bonus=0.5) for seed in range(2)]
    folders += [make_run("alone", rank=9), make_run("going", seed=7, finished=False)]
    runs = read_runs(folders)
    (table,) = seeds_tables(runs)
    assert table.columns == ["lift (3 seeds)", "wide (2 seeds)", "wide (2 seeds) − lift (3 seeds)"]
    values = [[run.metrics()["accuracy"] for run in some] for some in (runs[:3], runs[3:5])]
    cells = table.rows[0][1]
    assert cells[0].text == f"{np.mean(values[0]):.2f} ± {np.std(values[0], ddof=1):.2f}"
    low, high = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    assert cells[0].interval == (
        f"least and largest {min(values[0]):.1f} to {max(values[0]):.1f}; mean {low:.1f} to {min(high, 100):.1f}"
    )
    assert cells[2].text == f"{np.mean(values[1]) - np.mean(values[0]):+.1f}"
    assert cells[2].interval.startswith(("+", "−"))
    assert seeds_tables(runs[2:4]) == []


def test_settings_that_change_nothing_part_no_seeds(make_run: MakeRun) -> None:
    folders = [make_run(f"run{seed}", seed=seed) for seed in range(2)]
    config = json.loads((folders[1] / "config.json").read_text())
    config["run"]["eval_batch"] = 7
    (folders[1] / "config.json").write_text(json.dumps(config))
    runs = read_runs(folders)
    assert [table.columns for table in seeds_tables(runs)] == [["run (2 seeds)"]]
    assert ["run.eval_batch", "–", "7"] in setting_differences(runs)
    config["training"]["lr"] = 0.5
    (folders[1] / "config.json").write_text(json.dumps(config))
    assert seeds_tables(read_runs(folders)) == []


def test_the_metrics_of_a_run_are_read_once(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a large set hold lists of thousands of classes."""
    runs, asked = read_runs([make_run(f"run{seed}", seed=seed) for seed in range(2)]), []
    metrics = RunRecord.metrics
    monkeypatch.setattr(RunRecord, "metrics", lambda run: (asked.append(run.name), metrics(run))[1])
    assert seeds_tables(runs)
    assert sorted(asked) == ["run0", "run1"]


def test_figures_over_seeds_are_those_of_scipy() -> None:
    values = [63.2, 62.5, 64.9, 63.0]
    metrics = [{"accuracy": value, "worst_class": 0.1 * value, "log_loss": 1.0, "few": None} for value in values]
    metrics[0]["few"] = 50.0  # a figure that one run alone has is none over the seeds
    found = over_seeds(metrics)
    assert list(found) == ["accuracy", "worst_class", "log_loss"]
    accuracy = found["accuracy"]
    assert accuracy.mean == pytest.approx(63.4)
    assert accuracy.sd == pytest.approx(stats.tstd(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert accuracy.interval == pytest.approx((expected.low, expected.high))
    assert accuracy.texts() == ("overall", "63.40", "1.04", "61.7 to 65.1", "62.5 to 64.9", "%")
    assert found["log_loss"].interval == (1.0, 1.0)


def test_an_interval_ends_where_the_figure_does() -> None:
    """Two seeds tell so little that Student's interval would hold impossible accuracies."""
    found = over_seeds(
        [{"accuracy": 99.0, "few": 0.0, "log_loss": 0.1}, {"accuracy": 95.0, "few": 9.0, "log_loss": 9.0}]
    )
    assert found["accuracy"].interval == (pytest.approx(97 - 12.706 * 2, abs=0.01), 100.0)
    assert found["few"].interval[0] == found["log_loss"].interval[0] == 0.0
    assert found["log_loss"].interval[1] > 9


def test_the_table_fits_a_terminal() -> None:
    names = ("accuracy", "many", "medium", "few", "worst_class", "expected_calibration_error", "log_loss")
    found = over_seeds([dict.fromkeys(names, 12.3), dict.fromkeys(names, 45.6)])
    console = Console(width=80, record=True)
    console.print(over_seeds_table(found, "lift, 2 seeds"))
    lines = console.export_text().splitlines()
    assert len(lines) == len(names) + 6  # nothing wraps
    assert any("overall" in line and "28.95" in line and "12.3 to 45.6" in line for line in lines)
