"""Runs that log to other people's services, by their real clients, offline; and to a table."""

from __future__ import annotations

import csv
import json
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from fixtures import Files, tiny_recipe
from stopping import signal_in_step

import fastlift
from fastlift.callbacks.loggers import LogSettings
from fastlift.config import Config
from fastlift.errors import FastliftWarning
from fastlift.system.signals import Interrupted

STEPS = 8  # two epochs of four


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    followed = {"val_share": 0.2, "eval_every": 1, "log_steps": 1, "amp": "fp32"}
    return tiny_recipe(tiny_clip, tiny_data, epochs=2, batch_size=8, lr=0.05, **followed)


def stopped_after_5(settings: Config, output: Path) -> None:
    """Five steps of a run, to be resumed."""
    with pytest.raises(Interrupted), signal_in_step(5):
        fastlift.train(settings, output=output)


def logged(run: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_a_table_beside_the_log(settings: Config, tmp_path: Path) -> None:
    """A row a line of the log, once, also for a run that was stopped and goes on, and whose table has lost its end."""
    settings = settings.override(log="csv")
    stopped_after_5(settings, tmp_path / "run")
    table = tmp_path / "run" / "metrics.csv"
    table.write_bytes(table.read_bytes()[:-7])
    fastlift.train(settings, output=tmp_path / "run", resume=True)
    rows = list(csv.DictReader(table.open()))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["event"], int(row["step"]), row["split"]) for row in rows] == [
        (line["event"], line["step"], line.get("split", "")) for line in lines
    ]
    assert [float(row["loss"]) for row in rows if row["loss"]] == [line["loss"] for line in lines if "loss" in line]
    assert {float(row["few"]) for row in rows if row["split"] == "val"} == {
        line["few"] for line in lines if line.get("split") == "val"
    }
    assert rows[-1]["many"] == ""


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_without_its_client_it_says_what_to_install(
    name: str, settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        "fastlift.callbacks.loggers.find_spec", lambda wanted: None if wanted == name else found(wanted)
    )
    with pytest.raises(fastlift.UserError, match=rf"--log {name}: .*pip install 'fastlift\[{name}\]'"):
        fastlift.train(settings.override(log=name), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loggers_are_named() -> None:
    with pytest.raises(fastlift.UserError, match="log: "):
        Config().override(log="comet")
    assert len(LogSettings(("csv", "csv")).build()) == 1


def test_weights_and_biases_offline(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run folder, as its own files for ``wandb sync``; a run that goes on has the id that it had."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    stopped_after_5(settings.override(log="wandb"), run)
    fastlift.train(settings.override(log="wandb"), output=run, resume=True)
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    own = json.loads((run / "run.json").read_text())["run"]
    assert [file.name for file in files] == [f"run-{own}.wandb"] * 2
    first, second = (file.read_bytes() for file in files)
    assert b"step/loss" in first
    assert b"val/mean_class_accuracy" in first
    assert b"test/accuracy" not in first
    assert b"test/accuracy" in second


def test_mlflow_in_a_database(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, found again when it goes on, with the figures of the log and the settings."""
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tails")
    monkeypatch.chdir(tmp_path)
    settings, run = settings.override(log="mlflow"), tmp_path / "run"
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stopped_after_5(settings, run)
    experiment = client.get_experiment_by_name("tails")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    fastlift.train(settings, output=run, resume=True)
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["training.lr"] == "0.05"
    losses = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "step/loss")}
    assert losses == {line["step"]: line["loss"] for line in logged(run, "step")}
    (tested,) = (line for line in logged(run, "evaluation") if line["split"] == "test")
    assert found.data.metrics["test/accuracy"] == tested["accuracy"]
    validated = client.get_metric_history(found.info.run_id, "val/accuracy")
    assert [metric.step for metric in validated] == [4, STEPS]


def test_trackio_on_this_machine(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads its folder when it is imported
    pytest.importorskip("trackio", reason="Trackio is not installed: it needs a Pillow below 13")
    settings, run = settings.override(log="trackio"), tmp_path / "run"
    stopped_after_5(settings, run)
    fastlift.train(settings, output=run, resume=True)
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("fastlift")
    assert name == f"run-{json.loads((run / 'run.json').read_text())['run'][:8]}"
    rows = SQLiteStorage.get_logs("fastlift", name)
    losses = {row["step"]: row["step/loss"] for row in rows if "step/loss" in row}
    assert losses == {line["step"]: line["loss"] for line in logged(run, "step")}
    assert [row["step"] for row in rows if "test/accuracy" in row] == [STEPS]


def test_a_service_that_is_not_there_loses_no_run(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's server refuses to connect: that is told once, and the run goes on to its end."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(
        FastliftWarning, match="callback mlflow failed and is told nothing more, the run goes on"
    ) as told:
        run = fastlift.train(settings.override(log="mlflow"), output=tmp_path / "run")
    assert sum("callback mlflow" in str(one.message) for one in told) == 1
    assert run.results["steps"] == STEPS


def test_stdout_is_for_results(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Clients tell of themselves elsewhere."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    names = ["wandb", *(["trackio"] if util.find_spec("trackio") else [])]
    fastlift.train(settings.override(log=names, epochs=1), output=tmp_path / "run")
    assert capfd.readouterr().out == ""
