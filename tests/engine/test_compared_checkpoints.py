"""Several checkpoints on the same images: intervals of all, and the others tested against the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fastlift
from fastlift.cli import main
from fastlift.config import Config
from fastlift.evaluation.paired_tests import PairedTest
from fastlift.reporting import html
from fastlift.runs.predictions import predictions_path, read_predictions


@pytest.fixture(autouse=True)
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "render_report", lambda *_, **__: "")


def test_checkpoints_are_tested_against_the_first(
    settings: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fastlift.train(settings.override(epochs=2), output=tmp_path / "run").folder
    rows = fastlift.evaluate_run(run, ["epoch-001", "epoch-002"])
    first, second = rows
    assert "against" not in rows[first]
    assert rows[second]["against"]["first"] == first
    test = PairedTest(**rows[second]["against"]["tests"]["overall"])
    said = [read_predictions(predictions_path(run, name)).images for name in rows]
    right = [one.predicted == one.labels for one in said]
    assert (test.only_first, test.only_second) == ((right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum())
    assert test.difference == pytest.approx(rows[second]["accuracy"] - rows[first]["accuracy"])
    stored = json.loads((run / "results.json").read_text())["evaluations"]
    assert stored[second] == {name: value for name, value in rows[second].items() if name != "against"}
    assert stored[second]["intervals"].keys() == {
        *("accuracy", "few", "mean_class_accuracy", "macro_f1", "expected_calibration_error", "log_loss")
    }
    assert main(["evaluate", str(run), "--checkpoint", "1", "2"]) == 0
    shown = capsys.readouterr().out
    assert "95 % intervals (%)" in shown
    assert f"{second} against {first}: " in " ".join(shown.split())
    assert main(["evaluate", str(run), "--checkpoint", "1", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[second]["against"]["tests"]["overall"]["p"] == test.p


def test_the_results_and_their_evaluation_hold_the_same_intervals(settings: Config, tmp_path: Path) -> None:
    run = fastlift.train(settings.override(epochs=0), output=tmp_path / "run")
    results = json.loads((run.folder / "results.json").read_text())
    assert results["metrics"] == results["evaluations"]["center"] == run.results["metrics"]
    low, high = run.metrics.intervals["accuracy"]
    assert results["metrics"]["intervals"]["accuracy"] == [low, high]
    assert low < run.metrics.accuracy < high
    assert fastlift.evaluate_run(run.folder)["center"] == results["metrics"]
