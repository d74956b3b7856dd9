"""Runs that differ in the seed alone: mean, spread, and differences of two settings."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastlift.reporting.comparison import setting_differences
from fastlift.reporting.record import RunRecord, read_runs
from fastlift.reporting.seeds import seeds_tables

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
    assert cells[0].interval == f"{min(values[0]):.1f} to {max(values[0]):.1f}"
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
