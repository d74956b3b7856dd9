"""Steps that are not finite: nothing is updated by one, nothing bad is saved, and the run says how to go on."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_batch, tiny_learner, tiny_recipe
from safetensors.torch import load_file
from torch import Tensor

import fastlift
from fastlift.config import Config
from fastlift.data import pack as packing
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.stream import Stream, epoch_order
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.settings import OnNonFinite
from fastlift.training.step import Learner

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def state(some: Learner) -> dict[str, Tensor]:
    both = {**some.parameters, **some.kept()}
    return {name: tensor.detach().clone() for name, tensor in both.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def nan_images(some: Learner) -> None:
    images, labels = tiny_batch(some)
    images[6, 0, 0, 0] = torch.nan
    some.step(images, labels)


def infinite_loss(some: Learner) -> None:
    """Its own gradients are finite."""
    on_features = some.loss.on_features

    def spoilt(*arguments: Any) -> tuple[Tensor, Tensor]:
        loss, predictions = on_features(*arguments)
        return loss + torch.inf, predictions

    some.loss.on_features = spoilt  # type: ignore[method-assign]
    some.step(*tiny_batch(some))
    some.loss.on_features = on_features  # type: ignore[method-assign]


def infinite_gradient(some: Learner) -> None:
    """Of one parameter, with a finite loss."""
    hook = next(iter(some.parameters.values())).register_hook(lambda gradient: gradient + torch.inf)
    some.step(*tiny_batch(some))
    hook.remove()


@pytest.mark.parametrize("spoil", [nan_images, infinite_loss, infinite_gradient])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_step_is_skipped(
    tiny_clip: Files, device: torch.device, dtype: torch.dtype, spoil: Callable[[Learner], None]
) -> None:
    """With the bits of a training that never met it, sums included."""
    some, other = (tiny_learner(tiny_clip, device, dtype=dtype, on_nonfinite="skip") for _ in range(2))
    for one in (some, other):
        one.step(*tiny_batch(one, 1))
    before, sums = state(some), some.sums.read()
    spoil(some)
    assert equal(state(some), before)
    if dtype is torch.float16 and spoil is infinite_gradient:
        return  # which is what the scaler is for: it counts as a step that looked for a scale
    assert some.sums.read() == sums
    assert int(some.watch.skipped) == 1
    assert some.watch.first_step() == 1
    if dtype is torch.float16:
        some.scaler.load_state_dict(other.scaler.state_dict())  # which has backed off meanwhile
    for one in (some, other):
        one.step(*tiny_batch(one, 2))
    assert equal(state(some), state(other))
    assert some.sums.read() == other.sums.read()


@pytest.mark.parametrize("spoil", [nan_images, infinite_loss, infinite_gradient])
def test_nothing_moves_after_the_step_that_stops(
    tiny_clip: Files, device: torch.device, spoil: Callable[[Learner], None]
) -> None:
    some = tiny_learner(tiny_clip, device)
    for number in range(3):
        some.step(*tiny_batch(some, number))
    assert some.watch.first_step() is None
    before, sums = state(some), some.sums.read()
    spoil(some)
    for number in range(3):
        some.step(*tiny_batch(some, number))
    assert equal(state(some), before)
    assert some.sums.read() == sums
    assert some.watch.first_step() == 3


def test_fp16_stops_at_a_loss_and_not_at_an_overflow(tiny_clip: Files, device: torch.device) -> None:
    some = tiny_learner(tiny_clip, device, dtype=torch.float16)
    infinite_gradient(some)
    assert some.watch.first_step() is None
    some.step(*tiny_batch(some))
    before = state(some)
    nan_images(some)
    some.step(*tiny_batch(some))
    assert some.watch.first_step() == 2
    assert equal(state(some), before)


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_fp16_that_no_scale_helps_is_not_finite(tiny_clip: Files, device: torch.device, mode: OnNonFinite) -> None:
    """The scaler halves its scale from 2^16 at each overflow: at 2^-13 the search is over."""
    some = tiny_learner(tiny_clip, device, dtype=torch.float16, on_nonfinite=mode)
    before = state(some)
    for _ in range(16 + 13):
        infinite_gradient(some)
    assert some.watch.first_step() is None
    assert int(some.watch.skipped) == 0
    for _ in range(2):
        infinite_gradient(some)
    assert some.watch.first_step() == 16 + 13
    assert int(some.watch.skipped) == 2
    assert equal(state(some), before)


def test_a_bad_part_of_a_batch_spoils_the_batch(tiny_clip: Files, device: torch.device) -> None:
    some = tiny_learner(tiny_clip, device, micro_batch=2, on_nonfinite="skip")
    before = state(some)
    nan_images(some)
    assert equal(state(some), before)
    assert some.sums.counted() == 0
    assert some.sums.read() == (0.0, 0.0)


def test_plain_sgd_skips_too(tiny_clip: Files, device: torch.device) -> None:
    some = tiny_learner(tiny_clip, device, optimizer=OptimizerSettings(lr=0.05, momentum=0.0), on_nonfinite="skip")
    assert some.kept() == {}
    before = state(some)
    nan_images(some)
    assert equal(state(some), before)
    some.step(*tiny_batch(some))
    assert not equal(state(some), before)


# Runs. Their bad steps are images that a patched step makes NaN, by the number of the step in the run.


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(
        tiny_clip,
        tiny_data,
        tuner="none",
        epochs=2,  # of 5 steps each
        batch_size=8,
        lr=0.05,
        log_steps=1000,
        amp="fp32",
    )


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the images of some steps NaN; ask the run to stop after one."""
    step = Learner.step

    def from_now_on(*bad: int, stop_after: int | None = None) -> None:
        def spoilt(self: Learner, images: Tensor, labels: Tensor, *more: Any) -> Any:
            number = self.watch.taken
            if number + 1 == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, images * torch.nan if number in bad else images, labels, *more)

        monkeypatch.setattr(Learner, "step", spoilt)

    return from_now_on


def events(folder: Path) -> list[dict[str, Any]]:
    """Lines of strict JSON, which has no NaN."""

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("log_steps", [1, 3, 1000])
def test_a_run_stops_before_a_bad_step(
    settings: Config, tiny_data: Path, tmp_path: Path, spoil: Callable[..., None], log_steps: int
) -> None:
    spoil(7)
    run = tmp_path / "run"
    with pytest.raises(fastlift.UserError, match="not finite at step 8 ") as caught:
        fastlift.train(settings.override(log_steps=log_steps, checkpoint_steps=2), output=run)
    said, lines = str(caught.value), (tiny_data / "train.txt").read_text().splitlines()
    batch = [str(tiny_data / lines[row].split()[0]) for row in epoch_order(len(lines), 0, 1)[16:24]]
    assert "epoch 2, learning rate 0.025" in said
    assert f"Its images: {', '.join(batch[:5])} and 3 more" in said
    assert f"--resume --output {run} --on-nonfinite skip" in said
    assert "The state before it is step-00000007" in said
    assert caught.value.exit_code == 1
    assert names(run) == ["epoch-001", "step-00000007"]
    at = checkpoints.read(run / "checkpoints" / "step-00000007.safetensors").state
    assert (at.epoch, at.step, at.global_step, at.images) == (1, 2, 7, 16)
    (event,) = [event for event in events(run) if event["event"] == "nonfinite"]
    assert event["images"] == batch


def test_going_on_without_the_bad_step(settings: Config, tmp_path: Path, spoil: Callable[..., None]) -> None:
    """As the message advises: the same bits as a run that skipped from the start, cut short anywhere."""
    spoil(3, 7)
    skipping = settings.override(on_nonfinite="skip", checkpoint_steps=2)
    whole = fastlift.train(skipping, output=tmp_path / "whole")
    assert whole.results["skipped_steps"] == 2
    with pytest.raises(fastlift.UserError, match="not finite at step 4 "):
        fastlift.train(settings, output=tmp_path / "stopped")
    resumed = fastlift.train(settings.override(on_nonfinite="skip"), output=tmp_path / "stopped", resume=True)
    spoil(3, 7, stop_after=9)
    with pytest.raises(fastlift.UserError, match="stopped at step 9"):
        fastlift.train(skipping, output=tmp_path / "cut")
    cut = fastlift.train(skipping, output=tmp_path / "cut", resume=True)
    first = load_file(whole.folder / "checkpoints" / "epoch-002.safetensors")
    for other in (resumed, cut):
        assert equal(first, load_file(other.folder / "checkpoints" / "epoch-002.safetensors"))
        assert other.results["skipped_steps"] == 2
    told = [[{**event, "seconds": 0, "data_wait_share": 0} for event in events(run.folder)] for run in (whole, cut)]
    assert told[0] == told[1]


def test_a_bad_first_step_of_an_epoch(settings: Config, tmp_path: Path, spoil: Callable[..., None]) -> None:
    spoil(5)
    with pytest.raises(fastlift.UserError, match=r"at step 6 .*The state before it is epoch-001"):
        fastlift.train(settings, output=tmp_path / "run")
    assert names(tmp_path / "run") == ["epoch-001"]
    spoil(0)
    with pytest.raises(fastlift.UserError, match=r"at step 1 .*Nothing was trained before it"):
        fastlift.train(settings, output=tmp_path / "other")
    assert names(tmp_path / "other") == []


def test_an_epoch_of_bad_steps_ends_the_run(settings: Config, tmp_path: Path, spoil: Callable[..., None]) -> None:
    spoil(*range(5, 10))
    with pytest.raises(fastlift.UserError, match="not one step of epoch 2 was finite"):
        fastlift.train(settings.override(on_nonfinite="skip", log_steps=1), output=tmp_path / "run")
    assert [event["step"] for event in events(tmp_path / "run") if event["event"] == "step"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["stop", "skip"])
def test_weights_that_overflowed_are_not_saved(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The update itself was too large: no later step can be finite, and the good checkpoint stays."""
    step = Learner.step

    def overflow(self: Learner, images: Tensor, labels: Tensor, *more: Any) -> Any:
        done = step(self, images, labels, *more)
        if self.watch.taken == 7:
            with torch.no_grad():
                next(iter(self.parameters.values()))[0, 0] = torch.inf
        return done

    monkeypatch.setattr(Learner, "step", overflow)
    changed = settings.override(on_nonfinite=mode, checkpoint_steps=6)
    with pytest.raises(
        fastlift.UserError, match=r"What trains is not finite \(head\.weight\).*step-00000006"
    ) as caught:
        fastlift.train(changed, output=tmp_path / "run")
    assert "lower --lr" in str(caught.value)
    assert names(tmp_path / "run") == ["epoch-001", "step-00000006"]
    assert runs.RunFolder(tmp_path / "run").last_checkpoint() is not None
    events(tmp_path / "run")


def test_a_learning_rate_that_overflows(settings: Config, tmp_path: Path) -> None:
    with pytest.raises(fastlift.UserError, match="not finite"):
        fastlift.train(settings.override(lr=1e30, scale=1e6, checkpoint_steps=1), output=tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoints.read(path)


def test_the_images_of_a_bad_step_are_those_of_its_window_of_shards(
    settings: Config, tiny_data: Path, tmp_path: Path, spoil: Callable[..., None]
) -> None:
    """With --shuffle-shards an epoch has another order, and the message names the files of that one."""
    lists = {"train_list": tiny_data / "train.txt", "test_list": tiny_data / "test.txt"}
    lists["class_names"] = tiny_data / "class_names.txt"
    packing.run("list", tmp_path / "pack", shard_bytes=4000, data_root=tiny_data, **lists)
    packed = load_data_set("list", data_root=tmp_path / "pack").train
    assert int(packed.shards.max()) > 3  # type: ignore[union-attr]
    stream = Stream(packed, TrainCrops(8), 8, seed=0, shuffle_shards=2)
    batch = [packed.label_of(int(row)) for row in stream.order(1)[16:24]]
    spoil(7)
    run = tmp_path / "run"
    changes = {"data_root": tmp_path / "pack", "train_list": None, "test_list": None, "class_names": None}
    with pytest.raises(fastlift.UserError, match="not finite at step 8 ") as caught:
        fastlift.train(settings.merged(**changes).override(shuffle_shards=2), output=run)
    assert f"Its images: {', '.join(batch[:5])} and 3 more" in str(caught.value)
    (event,) = [event for event in events(run) if event["event"] == "nonfinite"]
    assert event["images"] == batch
