"""Runs whose training images grow from stage to stage: the right size in each epoch, whatever stops them, and their own at the end."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import Files, Told
from loaders import BACKENDS, all_same, make_loader
from run_files import same_state

import fastlift
from fastlift.config import Config
from fastlift.data.sampling.crops import TrainCrops
from fastlift.engine.build import load_data
from fastlift.engine.staged_loader import StagedLoader
from fastlift.errors import OutOfMemory
from fastlift.models import backbones
from fastlift.models.resizing import Resizer
from fastlift.system.signals import Interrupted
from fastlift.training.stages import Stages
from fastlift.training.step import Learner

STEPS = 5  # of an epoch: 38 images in batches of 8


@pytest.fixture
def growing(settings: Config) -> Config:
    """Three epochs at 16, 24 and 32 pixels, with prompts, whose place depends on the size."""
    return settings.override(progressive_sizes=(0.5, 0.75, 1.0), tuner=("adaptformer", "vpt_deep"))


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the images of each training step."""
    seen: list[int] = []
    step = Learner.step
    monkeypatch.setattr(
        Learner, "step", lambda self, images, *rest: (seen.append(images.shape[-1]), step(self, images, *rest))[1]
    )
    return seen


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_s")} for line in lines]


def test_stages_of_the_own_size_are_lift(settings: Config, tmp_path: Path, sides: list[int]) -> None:
    plain = fastlift.train(settings, output=tmp_path / "plain")
    staged = fastlift.train(settings.override(progressive_sizes=(1.0, 1.0, 1.0)), output=tmp_path / "staged")
    same_state(plain.folder, staged.folder, "epoch-003")
    assert events(plain.folder) == events(staged.folder)
    assert set(sides) == {32}


@pytest.mark.parametrize("stop_at", [3, STEPS, STEPS + 2])
def test_resuming_is_bit_identical(
    growing: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: list[int], stop_at: int
) -> None:
    """Stopped in the middle of a stage, at its end, and in the next one: it goes on at the size of its stage."""
    whole = fastlift.train(growing, output=tmp_path / "whole")
    expected = [16] * STEPS + [24] * STEPS + [32] * STEPS
    assert sides == expected
    sides.clear()
    step = Learner.step

    def stop_after(self: Learner, *arguments: Any) -> bool:
        if len(sides) == stop_at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_after)
        with pytest.raises(Interrupted):
            fastlift.train(growing, output=tmp_path / "cut")
    assert sides == expected[:stop_at]
    resumed = fastlift.train(growing, output=tmp_path / "cut", resume=True)
    assert sides == expected
    same_state(whole.folder, resumed.folder, "epoch-003")
    assert events(whole.folder) == events(resumed.folder)


def test_evaluated_at_its_own_size_and_told(growing: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever size the last step had: the model of a run, and of its first checkpoint, take images of the own size."""
    told = Told()
    run = fastlift.train(growing, output=tmp_path / "run", ui=told)
    assert [line for line in told.lines if "pixels" in line] == [
        "from epoch 1 on: images of 16 pixels",
        "from epoch 2 on: images of 24 pixels",
        "from epoch 3 on: images of 32 pixels",
    ]
    logged = events(run.folder)
    assert [event["image_size"] for event in logged if event["event"] == "epoch"] == [16, 24, 32]
    assert [event["image_size"] for event in logged if event["event"] == "step"][::STEPS] == [16, 24, 32]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(fastlift.load_run(run.folder)(images), run.model(images))
    assert fastlift.load_run(run.folder, "epoch-001")(images).shape == (2, 6)
    assert run.results["model"]["image_size"] == 32


def test_a_run_of_one_size_tells_no_stage(settings: Config, tmp_path: Path) -> None:
    told = Told()
    fastlift.train(settings.override(epochs=1), output=tmp_path / "run", ui=told)
    assert "pixels" not in told.text


def test_without_memory_the_advice_is_for_the_largest_stage(
    growing: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastlift.engine import loop

    measured: list[tuple[int, int]] = []
    estimate = loop.estimate

    def noted(model: Any, *given: Any) -> Any:
        measured.append(model.vit.image_size)
        return estimate(model, *given)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(loop, "estimate", noted)
    monkeypatch.setattr(Learner, "step", full)
    with pytest.raises(OutOfMemory, match="out of memory in step 1"):
        fastlift.train(growing, output=tmp_path / "run")
    assert measured == [(32, 32)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_are_those_of_a_loader_of_that_size(settings: Config, tiny_clip: Files, backend: str) -> None:
    """By both backends; samples, crop boxes and flips are those of any size. A loader serves its whole stage."""
    index, vit = load_data(settings.data, Told()).train, backbones.load(*tiny_clip).vit
    opened: list[int] = []

    def make(side: int) -> Any:
        opened.append(side)
        return make_loader(index, TrainCrops(side), backend)

    staged = StagedLoader(Resizer(vit), Stages((16, 24, 32), 4), make, steps_per_epoch=10, backend=backend, ui=Told())
    for epoch, side in enumerate((16, 16, 24, 32)):
        alone = make_loader(index, TrainCrops(side), backend)
        assert all_same(staged.epoch(epoch, 3), alone.epoch(epoch, 3))
        assert vit.image_size == (side, side)
        alone.close()
    assert opened == [16, 24, 32]
    staged.close()
    rows = np.arange(len(index))
    boxes = [TrainCrops(side).boxes(1, 2, rows, index.widths, index.heights) for side in (16, 32)]
    for name, column in vars(boxes[0]).items():
        assert np.array_equal(column, getattr(boxes[1], name)), name


def test_closing_gives_the_backbone_back_at_its_own_size(settings: Config, tiny_clip: Files) -> None:
    index, vit = load_data(settings.data, Told()).train, backbones.load(*tiny_clip).vit
    positions: Any = vit.positions
    loader = StagedLoader(
        Resizer(vit),
        Stages((16, 32), 2),
        lambda side: make_loader(index, TrainCrops(side)),
        steps_per_epoch=1,
        backend="torchvision",
        ui=Told(),
    )
    loader.epoch(0)
    assert vit.image_size == (16, 16)
    loader.close()
    assert vit.image_size == (32, 32)
    assert vit.positions is positions
