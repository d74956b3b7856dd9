"""Runs whose training images grow from stage to stage: the right size in each epoch, whatever stops them, and their own at the end."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import Files, Told, tiny_recipe
from loaders import BACKENDS, all_same, make_loader
from run_files import same_state

import fastlift
from fastlift.config import Config
from fastlift.data.sampling.crops import TrainCrops
from fastlift.engine import loop
from fastlift.engine.build import load_data
from fastlift.engine.staged_loader import StagedLoader
from fastlift.engine.train import Run
from fastlift.errors import OutOfMemory
from fastlift.models import backbones
from fastlift.models.resizing import Resizer
from fastlift.system.signals import Interrupted
from fastlift.training.stages import Stages
from fastlift.training.step import Learner

STEPS = 5  # of an epoch: 38 images in batches of 8
TIMES = ("seconds", "images_per_s", "data_wait_share")


@dataclass
class Whole:
    """An uninterrupted run of three epochs at 16, 24 and 32 pixels, the sides of its steps, and what it told."""

    settings: Config
    run: Run
    sides: list[int]
    told: Told


@pytest.fixture(scope="module")
def whole(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """With prompts, whose place depends on the size."""
    growing = {"epochs": 3, "progressive_sizes": (0.5, 0.75, 1.0), "tuner": ("adaptformer", "vpt_deep")}
    settings = tiny_recipe(tiny_clip, tiny_data, batch_size=8, lr=0.05, log_steps=1, amp="fp32", **growing)
    told = Told()
    with pytest.MonkeyPatch.context() as patch:
        sides = sides_of_steps(patch)
        run = fastlift.train(settings, output=tmp_path_factory.mktemp("growing") / "run", ui=told)
    return Whole(settings, run, sides, told)


def sides_of_steps(patch: pytest.MonkeyPatch) -> list[int]:
    """Of the images of each training step from now on."""
    seen: list[int] = []
    step = Learner.step
    patch.setattr(
        Learner, "step", lambda self, images, *rest: (seen.append(images.shape[-1]), step(self, images, *rest))[1]
    )
    return seen


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def test_stages_of_the_own_size_are_lift(settings: Config, tmp_path: Path) -> None:
    told = Told()
    plain, staged = settings.override(epochs=2), settings.override(epochs=2, progressive_sizes=(1.0, 1.0))
    first = fastlift.train(plain, output=tmp_path / "plain", ui=told)
    second = fastlift.train(staged, output=tmp_path / "staged", ui=told)
    same_state(first.folder, second.folder, "epoch-002")
    assert events(first.folder) == events(second.folder)
    assert "pixels" not in told.text, "there is nothing to tell of one size"


@pytest.mark.parametrize("stop_at", [3, STEPS, STEPS + 2])
def test_resuming_is_bit_identical(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Stopped in the middle of a stage, at its end, and in the next one: it goes on at the size of its stage."""
    assert whole.sides == [16] * STEPS + [24] * STEPS + [32] * STEPS
    sides = sides_of_steps(monkeypatch)
    step = Learner.step

    def stop_after(self: Learner, *arguments: Any) -> bool:
        if len(sides) == stop_at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_after)
        with pytest.raises(Interrupted):
            fastlift.train(whole.settings, output=tmp_path / "cut")
    assert sides == whole.sides[:stop_at]
    resumed = fastlift.train(whole.settings, output=tmp_path / "cut", resume=True)
    assert sides == whole.sides
    same_state(whole.run.folder, resumed.folder, "epoch-003")
    assert events(whole.run.folder) == events(resumed.folder)


def test_evaluated_at_its_own_size_and_told(whole: Whole) -> None:
    """The model of a run, and that of its first checkpoint, take images of the own size, whatever size their last step had."""
    assert [line for line in whole.told.lines if "pixels" in line] == [
        "from epoch 1 on: images of 16 pixels",
        "from epoch 2 on: images of 24 pixels",
        "from epoch 3 on: images of 32 pixels",
    ]
    logged = events(whole.run.folder)
    assert [event["image_size"] for event in logged if event["event"] == "epoch"] == [16, 24, 32]
    assert [event["image_size"] for event in logged if event["event"] == "step"] == whole.sides
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(fastlift.load_run(whole.run.folder)(images), whole.run.model(images))
    assert fastlift.load_run(whole.run.folder, "epoch-001")(images).shape == (2, 6)
    assert whole.run.results["model"]["image_size"] == 32


def test_without_memory_the_advice_is_for_the_largest_stage(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

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
        fastlift.train(whole.settings, output=tmp_path / "run")
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
