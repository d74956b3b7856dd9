"""A run whose steps are captured: the same checkpoints, log and figures, also when it is cut short and goes on."""

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_recipe
from run_files import same_state
from tape import Dispatched, Tape

import fastlift
from fastlift.config import Config
from fastlift.engine import train as engine_train
from fastlift.training.captured import CapturedStep
from fastlift.training.learning_rate import LearningRate
from fastlift.training.step import Learner

STEPS = 4 * 5  # epochs, and steps of each, of which the last is not full


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, epochs=4, batch_size=8, micro_batch=4, lr=0.05, log_steps=1, amp="fp32")


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tape]:
    """Steps are captured on this CPU, with an eager backbone, and in both ways at learning rates that fp32 holds."""
    from fastlift_kernels.cosine_ce import op

    made, at = Tape(), LearningRate.at
    monkeypatch.setattr(engine_train, "CapturedStep", partial(CapturedStep, graphs=made))
    monkeypatch.setattr("fastlift.engine.build.compile_backbone", lambda *_: None)
    monkeypatch.setattr(LearningRate, "at", lambda *given: float(torch.tensor(at(*given), dtype=torch.float32)))
    monkeypatch.setattr(op, "check_labels", lambda labels, classes: None)
    with Dispatched():
        yield made


def events(folder: Path) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "images_per_s", "data_wait_share", "evaluate_s")
    return [{key: value for key, value in event.items() if key not in times} for event in told]


def test_a_captured_run_is_the_same(settings: Config, tmp_path: Path, tape: Tape) -> None:
    plain = fastlift.train(settings.override(compile="off"), output=tmp_path / "plain")
    assert not tape.queued
    captured = fastlift.train(settings.override(compile="max"), output=tmp_path / "captured")
    assert (tape.records, tape.replays, tape.queued) == (1, STEPS - 3 - 4, 3 + 4)
    assert tape.forgotten == 2, "before the record, and before the evaluation"
    for epoch in range(1, 5):
        same_state(plain.folder, captured.folder, f"epoch-{epoch:03d}")
    assert events(plain.folder) == events(captured.folder)
    assert plain.metrics == captured.metrics


def test_it_is_evaluated_on_the_way(settings: Config, tmp_path: Path, tape: Tape) -> None:
    """The graph is given back before each evaluation and recorded again behind it; figures and steps are the same."""
    settings = settings.override(val_share=0.2, epochs=2, batch_size=4, micro_batch=2)
    plain = fastlift.train(settings.override(compile="off", eval_every=1), output=tmp_path / "plain")
    assert not tape.records
    captured = fastlift.train(settings.override(compile="max", eval_every=1), output=tmp_path / "captured")
    assert (tape.records, tape.forgotten) == (2, 5)
    for epoch in (1, 2):
        same_state(plain.folder, captured.folder, f"epoch-{epoch:03d}")
    assert events(plain.folder) == events(captured.folder)
    assert plain.results["checkpoint"] == captured.results["checkpoint"]
    assert plain.metrics == captured.metrics


def test_it_goes_on_where_it_was_stopped(
    settings: Config, tmp_path: Path, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch, by a signal that comes while a step is replayed."""
    plain = fastlift.train(settings.override(compile="off"), output=tmp_path / "plain")
    count = Learner.count

    def stop_after(self: Learner, images: int) -> None:
        count(self, images)
        if self.watch.taken == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "count", stop_after)
        with pytest.raises(fastlift.UserError, match="SIGINT: stopped at step 8, saved"):
            fastlift.train(settings.override(compile="max"), output=tmp_path / "cut")
    assert tape.replays == 8 - 3 - 1
    resumed = fastlift.train(settings.override(compile="max"), output=tmp_path / "cut", resume=True)
    same_state(plain.folder, resumed.folder, "epoch-004")
    assert plain.metrics == resumed.metrics
