"""Runs that evaluate a validation split while they train: the same training, the best checkpoint, and an early end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_processes import fastlift as run_command
from fixtures import Files, Told
from ranks import command
from run_files import flip, same_state
from safetensors.torch import load_file
from several import Group
from stopping import signal_in_step

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.engine import train as training
from fastlift.engine import validation
from fastlift.engine.evaluate import evaluate_run
from fastlift.errors import OutOfMemory
from fastlift.evaluation.evaluate import Evaluation
from fastlift.runs import folder as runs
from fastlift.runs.events import evaluations
from fastlift.system.signals import Interrupted
from fastlift.training.step import Learner

TIMES = ("seconds", "images_per_s", "data_wait_share", "evaluate_s")


@pytest.fixture
def settings(settings: Config) -> Config:
    """Three epochs of four steps, 30 images for training and 8 for validation."""
    return settings.override(val_share=0.2)


def events(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [event for event in told if kind is None or event["event"] == kind]
    return [{key: value for key, value in event.items() if key not in TIMES} for event in told]


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"progressive_sizes": (0.5, 0.75, 1.0), "tuner": ("adaptformer", "vpt_deep")},
        {"classifier": "text", "text_tuner": "coop"},
        {"tte": "fivecrop", "micro_batch": 4},
    ],
)
def test_training_is_the_same_with_and_without(settings: Config, tmp_path: Path, more: dict[str, Any]) -> None:
    """Every epoch has the same bits, and the log the same steps, also where the evaluation has another image size."""
    settings = settings.override(**more)
    without = fastlift.train(settings, output=tmp_path / "without")
    followed = fastlift.train(settings.override(eval_every=0.5), output=tmp_path / "with")
    for epoch in (1, 2, 3):
        same_state(without.folder, followed.folder, f"epoch-{epoch:03d}")
    for kind in ("step", "epoch"):
        assert events(without.folder, kind) == events(followed.folder, kind)
    assert [event["step"] for event in evaluations(followed.folder / "metrics.jsonl", "val")] == [2, 4, 6, 8, 10, 12]


def test_it_says_what_it_finds(settings: Config, tmp_path: Path) -> None:
    told = Told()
    run = fastlift.train(settings.override(eval_every=2), output=tmp_path / "run", ui=told)
    found = evaluations(run.folder / "metrics.jsonl", "val")
    assert [(event["epoch"], event["checkpoint"], event["samples"]) for event in found] == [
        (1, "epoch-002", 8),
        (2, "epoch-003", 8),
    ]
    for event in found:
        line = next(line for line in told.lines if line.startswith(f"epoch {event['epoch'] + 1}: validation"))
        assert re.search(rf"{event['accuracy']:.1f} % \([0-9.]+ - [0-9.]+; few {event['few']:.1f}\)", line), (
            "no image of many or medium classes"
        )
    (tested,) = evaluations(run.folder / "metrics.jsonl", "test")
    assert (tested["samples"], tested["step"]) == (24, 12)
    chosen = run.results["checkpoint"]
    assert f"the test split is evaluated with {chosen['name']}: the best mean class accuracy of 2" in told.text
    best = next(event for event in found if event["checkpoint"] == chosen["name"])
    assert run.results["validation"].items() <= best.items()
    figures = {name for name, value in run.results["metrics"].items() if not isinstance(value, list | dict)}
    assert set(run.results["validation"]) == figures, "all figures of the evaluation, and nothing else about it"
    assert run.results["timing"]["validate_s"] == pytest.approx(sum(event["evaluate_s"] for event in found))
    page = (run.folder / "report.html").read_text()
    assert "Validation" in page


def test_evaluations_are_no_time_of_the_training(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which each of them takes eleven days."""
    evaluate, clock, later = validation.evaluate, time.perf_counter, [0.0]

    def slow(*given: Any, **named: Any) -> Evaluation:
        later[0] += 1e6
        return evaluate(*given, **named)

    monkeypatch.setattr(validation, "evaluate", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + later[0])
    run = fastlift.train(settings.override(eval_every=0.5), output=tmp_path / "run")
    assert later[0] == 6e6
    assert 0 < run.results["timing"]["train_s"] < 1e5
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(event["seconds"] < 1e5 for event in logged if event.get("split") != "test")
    assert all(event["images_per_s"] > 1e-4 for event in logged if event["event"] == "step"), (
        "30 images or fewer in a pause"
    )


def test_the_test_split_is_touched_once(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for module in (training, validation):
        evaluate = module.evaluate
        monkeypatch.setattr(module, "evaluate", _noting(seen, evaluate))
    fastlift.train(settings.override(eval_every=1), output=tmp_path / "run")
    assert seen == ["list/val"] * 3 + ["list/test"]


def _noting(seen: list[str], evaluate: Callable[..., Any]) -> Callable[..., Any]:
    return lambda model, index, *rest, **named: (seen.append(index.name), evaluate(model, index, *rest, **named))[1]


def test_without_a_validation_split_it_is_refused(settings: Config, tmp_path: Path) -> None:
    with pytest.raises(fastlift.UserError, match=r"--eval-every: list has no validation split.*--val-share 0\.1"):
        fastlift.train(settings.override(val_share=0.0, eval_every=1), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def plant(monkeypatch: pytest.MonkeyPatch, curve: list[float]) -> None:
    """The figures of the validation split are those of the curve, one after another."""
    evaluate, left = validation.evaluate, iter(curve)

    def planted(*given: Any, **named: Any) -> Evaluation:
        found = evaluate(*given, **named)
        return replace(found, metrics=replace(found.metrics, mean_class_accuracy=next(left)))

    monkeypatch.setattr(validation, "evaluate", planted)


def test_the_best_of_a_planted_curve(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of six, amid the first epoch's end: kept, tested, and what the run's users get."""
    plant(monkeypatch, [10, 20, 50, 50, 30, 40])
    run = fastlift.train(settings.override(eval_every=0.5), output=tmp_path / "run")
    assert run.results["checkpoint"] == {
        "name": "step-00000006",
        "step": 6,
        "best_by": "mean_class_accuracy",
        "evaluations": 6,
    }
    assert names(run.folder) == ["epoch-001", "epoch-002", "epoch-003", "step-00000006"]
    monkeypatch.undo()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(fastlift.load_run(run.folder)(images), run.model(images))
    assert torch.equal(fastlift.load_run(run.folder, "best")(images), run.model(images))
    assert not torch.equal(fastlift.load_run(run.folder, "last")(images), run.model(images))
    assert torch.equal(fastlift.load_run(run.folder, "last")(images), fastlift.load_run(run.folder, "3")(images))
    rows = evaluate_run(run.folder, ("best", "last", "epoch-001"))
    assert list(rows) == ["center@step-00000006", "center@epoch-003", "center@epoch-001"]
    assert rows["center@step-00000006"] == run.results["metrics"] == evaluate_run(run.folder)["center"]
    assert evaluate_run(run.folder, split="val")["center (val)"]["samples"] == 8


def test_a_best_checkpoint_that_is_damaged(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next best is used, and says so; where none is left, the last is to be named."""
    plant(monkeypatch, [50, 20, 30])
    run = runs.RunFolder(fastlift.train(settings.override(eval_every=1), output=tmp_path / "run").folder)
    flip(run.checkpoints / "epoch-001.safetensors")
    said: list[str] = []
    path = run.find_checkpoint("best", said.append)
    assert path is not None
    assert path.stem == "epoch-003"
    assert "epoch-001.safetensors" in said[0]
    assert list(evaluate_run(run.path)) == ["center@epoch-003"], "its row does not pass for the run's"
    for name in ("epoch-002", "epoch-003"):
        flip(run.checkpoints / f"{name}.safetensors")
    with pytest.raises(
        fastlift.UserError, match="no checkpoint that was evaluated on the validation split can be used"
    ):
        run.find_checkpoint("best")


def test_without_evaluations_there_is_no_best_checkpoint(settings: Config, tmp_path: Path) -> None:
    run = runs.RunFolder(fastlift.train(settings.override(epochs=1), output=tmp_path / "run").folder)
    with pytest.raises(fastlift.UserError, match=r"has no best checkpoint.*--eval-every"):
        run.find_checkpoint("best")
    assert run.find_checkpoint(None) == run.find_checkpoint("last") == run.find_checkpoint("1")


def test_patience_ends_a_run(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid an epoch; what is resumed stays ended, and says the same."""
    settings, told = settings.override(eval_every=0.5, patience=2), Told()
    plant(monkeypatch, [40, 30, 20])
    run = fastlift.train(settings, output=tmp_path / "run", ui=told)
    assert "training ends early: no better mean class accuracy in 2 evaluations since step-00000002" in told.text
    assert (run.results["steps"], run.results["epochs"]) == (6, 2)
    assert names(run.folder) == ["epoch-001", "step-00000002", "step-00000006"]
    before = load_file(run.folder / "checkpoints" / "step-00000006.safetensors")
    logged = events(run.folder)
    (run.folder / "results.json").unlink()
    again = fastlift.train(settings, output=run.folder, resume=True)
    assert again.results["checkpoint"] == run.results["checkpoint"]
    assert events(run.folder) == logged
    after = load_file(run.folder / "checkpoints" / "step-00000006.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.fixture
def whole(settings: Config, tmp_path: Path) -> Path:
    return fastlift.train(settings.override(eval_every=0.5, patience=4), output=tmp_path / "whole").folder


@pytest.mark.parametrize("kill", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_kill_around_an_evaluation(
    settings: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str, number: int
) -> None:
    """Between a checkpoint and its evaluation, and between that and its line in the log: the resumed run is the same."""
    call, calls = validation.Validation.__call__, [0]

    def killed(self: validation.Validation, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and kill == "before":
            raise KeyboardInterrupt
        found = call(self, *given)
        if calls[0] == number:
            raise KeyboardInterrupt
        return found

    settings = settings.override(eval_every=0.5, patience=4)
    with monkeypatch.context() as patch:
        patch.setattr(validation.Validation, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            fastlift.train(settings, output=tmp_path / "cut")
    again = [0]
    with monkeypatch.context() as patch:
        step = Learner.step
        patch.setattr(Learner, "step", lambda self, *rest: (again.__setitem__(0, again[0] + 1), step(self, *rest))[1])
        run = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    assert again[0] == 12 - 2 * number, "the state was saved before"
    same_state(whole, run.folder, "epoch-003")
    assert events(whole) == events(run.folder)
    assert names(whole) == names(run.folder)
    assert run.results["checkpoint"] == json.loads((whole / "results.json").read_text())["checkpoint"]


@pytest.mark.parametrize("stop_at", [3, 4, 5])
def test_a_stop_between_evaluations(settings: Config, whole: Path, tmp_path: Path, stop_at: int) -> None:
    settings = settings.override(eval_every=0.5, patience=4)

    with pytest.raises(Interrupted, match=f"stopped at step {stop_at}, saved"), signal_in_step(stop_at):
        fastlift.train(settings, output=tmp_path / "cut")
    run = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    same_state(whole, run.folder, "epoch-003")
    assert events(whole) == events(run.folder)
    assert names(whole) == names(run.folder)


def test_a_signal_stops_an_evaluation_at_once(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is saved: there is nothing to wait for."""
    evaluate = validation.evaluate

    def signalled(*given: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "evaluate", signalled)
        with pytest.raises(Interrupted, match=r"^SIGTERM: stopped; .*the last: epoch-001.*--resume"):
            fastlift.train(settings.override(eval_every=1), output=tmp_path / "run")
    assert not evaluations(tmp_path / "run" / "metrics.jsonl", "val")
    fastlift.train(settings.override(eval_every=1), output=tmp_path / "run", resume=True)
    assert len(evaluations(tmp_path / "run" / "metrics.jsonl", "val")) == 3


def test_without_memory_it_says_what_to_try(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on with that from the state before."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    settings = settings.override(eval_every=1)
    with monkeypatch.context() as patch:
        patch.setattr("fastlift.evaluation.evaluate.add_batch", full)
        with pytest.raises(OutOfMemory, match=r"in evaluation with 7 crops.*--eval-batch 3.*epoch-001.*--resume"):
            fastlift.train(settings, output=tmp_path / "run")
    run = fastlift.train(settings.override(eval_batch=3), output=tmp_path / "run", resume=True)
    assert len(evaluations(run.folder / "metrics.jsonl", "val")) == 3


@pytest.mark.parametrize("more", [[], ["--shard-classifier"]])
def test_processes_share_it_and_agree(tiny_clip: Files, tiny_data: Path, tmp_path: Path, more: list[str]) -> None:
    """Two ranks find what one finds, choose the same checkpoint, and train the same; also with a classifier that is split."""
    followed = ["--val-share", "0.2", "--eval-every", "0.5", "--patience", "3"]
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(SystemExit, match="0"):
        run_command(command(tiny_clip, tiny_data, one, *followed))
    outcomes = Group(tmp_path / "ranks", 2, run_command, (command(tiny_clip, tiny_data, two, *followed, *more),)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    mine, theirs = (evaluations(run / "metrics.jsonl", "val") for run in (one, two))
    assert [event["step"] for event in mine] == [event["step"] for event in theirs]
    for event, other in zip(mine, theirs, strict=True):
        assert event["samples"] == other["samples"] == 8
        assert event["log_loss"] == pytest.approx(other["log_loss"], rel=1e-4)
    results = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    assert results[0]["checkpoint"] == results[1]["checkpoint"]
    assert names(one) == names(two)
    plain = tmp_path / "plain"
    outcomes = Group(
        tmp_path / "more", 2, run_command, (command(tiny_clip, tiny_data, plain, "--val-share", "0.2", *more),)
    ).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    for name in set(names(plain)) & set(names(two)):
        same_state(plain, two, name)


def follow_a_falling_curve(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, [50, 40, 30, 20])
        run_command(arguments)


@pytest.mark.parametrize("more", [[], ["--shard-classifier"]])
def test_all_processes_test_the_best(tiny_clip: Files, tiny_data: Path, tmp_path: Path, more: list[str]) -> None:
    """Each has its share of the test split, and the first one alone reads the checkpoint."""
    run, followed = tmp_path / "run", ["--val-share", "0.2", "--eval-every", "0.5", *more]
    arguments = command(tiny_clip, tiny_data, run, *followed)
    outcomes = Group(tmp_path / "ranks", 2, follow_a_falling_curve, (arguments,)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].err + outcomes[1].err
    results = json.loads((run / "results.json").read_text())
    assert (results["checkpoint"]["name"], results["steps"]) == ("step-00000001", 6)
    alone = evaluate_run(run, ("best",))["center@step-00000001"]
    assert results["metrics"]["log_loss"] == pytest.approx(alone["log_loss"], rel=1e-4)


def test_how_it_is_followed_may_change(settings: Config, tmp_path: Path) -> None:
    """It computes nothing else of the training: a run may begin to be evaluated when it is resumed."""
    with pytest.raises(Interrupted), signal_in_step(6):
        fastlift.train(settings, output=tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "plain")
    run = fastlift.train(settings.override(eval_every=1, best_by="log_loss"), output=tmp_path / "run", resume=True)
    plain = fastlift.train(settings, output=tmp_path / "plain", resume=True)
    same_state(plain.folder, run.folder, "epoch-003")
    assert run.results["checkpoint"]["evaluations"] == 2
    assert config.load(run.folder / "config.json").run.best_by == "log_loss"
