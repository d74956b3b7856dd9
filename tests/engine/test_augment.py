"""Runs with augmented, re-sampled and growing crops: resumed bit by bit, told, and a setting of their own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Told
from run_files import same_state

import fastlift
from fastlift.config import Config
from fastlift.data import TrainViews, build_loader
from fastlift.engine.build import load_data
from fastlift.engine.train import Run
from fastlift.errors import UserError
from fastlift.runs.identity import settings_digest
from fastlift.system.signals import Interrupted
from fastlift.training.step import Learner


@pytest.fixture
def augmented(settings: Config) -> Config:
    """LIFT+'s crops of both sizes."""
    return settings.override(
        epochs=2,
        augmentation="minimalist",
        augment="randaugment",
        randaugment_ops=3,
        sampling="progressive",
        progressive_sizes=(0.5, 1.0),
    )


def test_a_run_is_resumed_bit_by_bit(augmented: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, step = Told(), Learner.step
    shown: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda self, images, *rest: (shown.append(images), step(self, images, *rest))[1])
        whole = fastlift.train(augmented, output=tmp_path / "whole", ui=told)
    assert "images by torchvision (--augment randaugment changes pixels that the threads make)" in told.text
    assert all(torch.equal(one, other) for one, other in zip(shown, batches(augmented, whole), strict=True))
    taken = [0]

    def stop_in_the_second_epoch(self: Learner, *arguments: Any) -> bool:
        taken[0] += 1
        if taken[0] == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_in_the_second_epoch)
        with pytest.raises(Interrupted):
            fastlift.train(augmented, output=tmp_path / "cut", ui=None)
    resumed = fastlift.train(augmented, output=tmp_path / "cut", resume=True, ui=None)
    same_state(whole.folder, resumed.folder, "epoch-002")
    with pytest.raises(UserError, match="randaugment_magnitude"):
        fastlift.train(augmented.override(randaugment_magnitude=10), output=whole.folder, resume=True, ui=None)


def batches(config: Config, run: Run) -> Iterator[torch.Tensor]:
    """The images of all steps, by loaders made by hand: of two epochs, each at its size."""
    prepared, train = run.model.preprocessing, load_data(config.data, Told()).train
    how: dict[str, Any] = {
        "mean": prepared.mean,
        "std": prepared.std,
        "seed": config.run.seed,
        "sampling": "progressive",
    }
    for epoch, size in enumerate((16, 32)):
        views = TrainViews(size, "minimalist", epochs=2, augment="randaugment", randaugment_ops=3)
        for batch in build_loader(train, views, batch_size=8, **how).epoch(epoch):
            yield batch.images


def test_it_is_in_the_digest_and_dali_is_refused(augmented: Config, settings: Config) -> None:
    changed = (
        {"augment": "trivialaugment"},
        {"augment": "randaugment"},
        {"augment": "randaugment", "randaugment_ops": 3},
    )
    assert len({settings_digest(settings.override(**one)) for one in ({}, *changed)}) == 4
    with pytest.raises(UserError, match="--executor dali leaves them to DALI"):
        augmented.override(executor="dali")
