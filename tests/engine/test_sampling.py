"""Runs that re-sample by class: the draws, the crops and the loss of each epoch, whatever stops them and however many share them."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import CLASS_COUNTS, Files, Told, tiny_recipe
from ranks import command
from run_files import newest, same_state
from safetensors.torch import load_file
from several import Group

import fastlift
from fastlift import cli
from fastlift.config import Config
from fastlift.data.sampling.class_draws import expected_draws
from fastlift.engine.train import Run
from fastlift.errors import UserError
from fastlift.runs.identity import settings_digest
from fastlift.system.signals import Interrupted
from fastlift.training.step import Learner

STEPS, EPOCHS = 5, 3  # 38 images in batches of 8


@dataclass
class Whole:
    """An uninterrupted progressive run, and what each of its steps was given."""

    settings: Config
    run: Run
    steps: list[dict[str, Any]]
    told: Told


@pytest.fixture(scope="module")
def whole(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    resampled = {
        "epochs": EPOCHS,
        "sampling": "progressive",
        "batch_size": 8,
        "lr": 0.05,
        "log_steps": 1,
        "amp": "fp32",
    }
    settings, told = tiny_recipe(tiny_clip, tiny_data, **resampled), Told()
    with pytest.MonkeyPatch.context() as patch:
        steps = watched(patch)
        run = fastlift.train(settings, output=tmp_path_factory.mktemp("progressive") / "run", ui=told)
    return Whole(settings, run, steps, told)


def watched(patch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda number: None) -> list[dict[str, Any]]:
    """Labels, images and the loss's prior of each training step from now on."""
    seen: list[dict[str, Any]] = []
    step = Learner.step

    def noted(self: Learner, images: Any, labels: Any, *rest: Any) -> bool:
        before(len(seen))
        seen.append({"labels": labels.tolist(), "images": images.clone(), "prior": self.loss.log_prior.exp().tolist()})  # type: ignore[operator, union-attr]
        return step(self, images, labels, *rest)

    patch.setattr(Learner, "step", noted)
    return seen


def test_each_epoch_has_its_draws_and_their_prior(whole: Whole) -> None:
    assert len(whole.steps) == EPOCHS * STEPS
    for epoch in range(EPOCHS):
        steps = whole.steps[epoch * STEPS : (epoch + 1) * STEPS]
        expected = expected_draws(np.array(CLASS_COUNTS), "progressive", epoch, EPOCHS)
        labels = np.bincount([label for step in steps for label in step["labels"]], minlength=len(CLASS_COUNTS))
        assert (np.abs(labels - expected) < 1).all()
        for step in steps:
            np.testing.assert_allclose(step["prior"], expected / 38, rtol=1e-5)
        images = torch.cat([step["images"] for step in steps])
        assert len({image.numpy().tobytes() for image in images}) == 38, "no draw has the crop of another"


def test_it_is_told_and_groups_are_of_the_data(whole: Whole) -> None:
    (line,) = [line for line in whole.told.lines if line.startswith("sampling")]
    assert "the rarest class, of 2 images, is drawn 6.333 times in the last epoch" in line
    described = whole.run.results["data"]
    assert described["class_counts"] == list(CLASS_COUNTS) == described["group_counts"]


@pytest.mark.parametrize("stop_at", [3, STEPS, STEPS + 2])
def test_resuming_is_bit_identical(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    def interrupt(number: int) -> None:
        if number == stop_at - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        watched(patch, interrupt)
        with pytest.raises(Interrupted):
            fastlift.train(whole.settings, output=tmp_path / "cut", ui=None)
    with monkeypatch.context() as patch:
        steps = watched(patch)
        resumed = fastlift.train(whole.settings, output=tmp_path / "cut", resume=True, ui=None)
    assert [step["labels"] for step in steps] == [step["labels"] for step in whole.steps[stop_at:]]
    assert [step["prior"] for step in steps] == [step["prior"] for step in whole.steps[stop_at:]]
    same_state(whole.run.folder, resumed.folder, "epoch-003")


def test_two_processes_train_the_same_run(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    trained = []
    for processes in (1, 2):
        output = tmp_path / f"run{processes}"
        words = command(tiny_clip, tiny_data, output, "--sampling", "balanced")
        outcomes = Group(tmp_path / str(processes), processes, cli.main, (words,)).join()
        assert all(outcome.code == 0 and outcome.value == 0 for outcome in outcomes), [one.err for one in outcomes]
        trained.append(load_file(newest(output)))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_it_is_a_setting_of_the_run(settings: Config, tmp_path: Path) -> None:
    balanced = settings.override(epochs=1, sampling="balanced")
    assert settings_digest(balanced) != settings_digest(settings.override(epochs=1))
    run = fastlift.train(balanced, output=tmp_path / "run", ui=None)
    with pytest.raises(UserError, match="sampling"):
        fastlift.train(settings.override(epochs=1), output=run.folder, resume=True, ui=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0, "sampling": "balanced"}, "sampling balanced would change nothing here"),
        ({"epochs": 1, "sampling": "progressive"}, "sampling progressive would change nothing .*progressive 2 or more"),
        (
            {"sampling": "balanced", "shuffle_shards": 2},
            "--sampling balanced draws the images of a class from all shards",
        ),
        ({"sampling": "uniform"}, "unknown value of sampling 'uniform'"),
    ],
)
def test_refused(settings: Config, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.override(**given)


def test_an_even_set_is_refused_before_anything_is_written(settings: Config, tiny_data: Path, tmp_path: Path) -> None:
    even = settings.override(sampling="balanced", train_list=tiny_data / "test.txt")
    with pytest.raises(
        UserError, match=r"sampling balanced would change nothing here: all classes of .* have 4 images"
    ):
        fastlift.train(even, output=tmp_path / "run", ui=None)
    assert not (tmp_path / "run" / "config.json").exists()
