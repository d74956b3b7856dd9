"""Runs that go on for more epochs than they were begun with: by the schedule of so many, and they say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures import Told
from run_files import same_state
from stopping import signal_in_step

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.system.signals import Interrupted
from fastlift.training.learning_rate import LearningRate
from fastlift.training.step import Learner

STEPS = 5  # of an epoch


@pytest.fixture
def ended(settings: Config, tmp_path: Path) -> Path:
    return fastlift.train(settings.override(epochs=2), output=tmp_path / "run").folder


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_that_had_ended(settings: Config, ended: Path) -> None:
    """Its results are kept under another name, its history stays, and the new epochs have the longer schedule."""
    told, before = Told(), (ended / "results.json").read_bytes()
    run = fastlift.train(settings.override(epochs=4), output=ended, resume=True, ui=told)
    assert (ended / "results-002.json").read_bytes() == before
    assert (run.results["epochs"], run.results["steps"]) == (4, 4 * STEPS)
    assert run.results["plan"] == [[0, 2], [2 * STEPS, 4]]
    assert config.load(ended / "config.json").training.epochs == 4
    rates = {event["epoch"]: event["learning_rate"] for event in events(ended, "step")}
    assert rates == {epoch: LearningRate(0.05, 2 if epoch < 2 else 4, STEPS).at(epoch, 0) for epoch in range(4)}
    assert [event["step"] for event in events(ended, "evaluation")] == [2 * STEPS, 4 * STEPS]
    assert "4 epochs, 2 before: from step 11 on learning rate (0.025; 0 by the schedule before)" in told.text
    assert "not that of 4 epochs from the start" in told.text
    again = fastlift.train(settings.override(epochs=4), output=ended, resume=True)
    assert again.results == run.results, "it has ended"


def test_it_is_resumed_to_the_same_bits(
    settings: Config, ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first new step, and stopped among them: it stays a run of four epochs."""
    import shutil

    whole = Path(shutil.copytree(ended, tmp_path / "whole"))
    fastlift.train(settings.override(epochs=4), output=whole, resume=True)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            fastlift.train(settings.override(epochs=4), output=ended, resume=True)
    assert runs.state(ended) is runs.State.TRAINED
    with pytest.raises(Interrupted), signal_in_step(3):
        fastlift.train(settings.override(epochs=4), output=ended, resume=True)
    last = runs.RunFolder(ended).last_checkpoint()
    assert last is not None
    assert checkpoints.read_train_state(last).plan == ((0, 2), (2 * STEPS, 4))
    run = fastlift.train(settings.override(epochs=4), output=ended, resume=True)
    same_state(whole, run.folder, "epoch-004")
    assert run.results["plan"] == [[0, 2], [2 * STEPS, 4]]


def test_fewer_epochs_or_some_for_none_are_refused(settings: Config, ended: Path, tmp_path: Path) -> None:
    with pytest.raises(fastlift.UserError, match="epochs was 2, now 1"):
        fastlift.train(settings.override(epochs=1), output=ended, resume=True)
    nothing = fastlift.train(settings.override(epochs=0), output=tmp_path / "nothing").folder
    with pytest.raises(fastlift.UserError, match="epochs was 0, now 1"):
        fastlift.train(settings.override(epochs=1), output=nothing, resume=True)
    assert (ended / "results.json").exists()


def test_what_cannot_go_on_keeps_its_results(settings: Config, ended: Path, tiny_data: Path, tmp_path: Path) -> None:
    moved = settings.override(epochs=4, data_root=tmp_path / "nowhere")
    with pytest.raises(fastlift.UserError, match="nowhere"):
        fastlift.train(moved, output=ended, resume=True)
    assert runs.state(ended) is runs.State.ENDED
