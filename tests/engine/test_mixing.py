"""Runs that mix images: the same with any number of processes and micro-batches, resumed bit by bit, and saved with their settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine.test_processes import fastlift as command_line
from engine.test_processes import steps
from fixtures import Files
from ranks import command
from run_files import same_state
from safetensors.torch import load_file
from several import Group
from stopping import signal_in_step

import fastlift
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.runs.identity import settings_digest
from fastlift.training.step import Learner

BOTH = {"mixup": 0.5, "cutmix": 1.0}


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_resuming_is_bit_identical(settings: Config, tmp_path: Path, stop_at: int) -> None:
    """Stopped in the middle of an epoch, at its end and in the next one; smoothed too, at a growing size."""
    settings = settings.override(**BOTH, label_smoothing=0.1, progressive_sizes=(0.5, 1.0), epochs=2)
    whole = fastlift.train(settings, output=tmp_path / "whole")
    with pytest.raises(UserError, match=f"stopped at step {stop_at}"), signal_in_step(stop_at):
        fastlift.train(settings, output=tmp_path / "cut")
    resumed = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    same_state(whole.folder, resumed.folder, "epoch-002")


def near(one: Path, other: Path) -> None:
    for mine, theirs in zip(steps(one), steps(other), strict=True):
        assert (mine["event"], mine["step"]) == (theirs["event"], theirs["step"])
        for name in {"loss", "accuracy", "train_loss", "train_accuracy"} & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5)
    first, last = (load_file(run / "checkpoints" / "epoch-002.safetensors") for run in (one, other))
    for name, tensor in first.items():
        assert (tensor - last[name]).abs().max() <= 1e-5 + 1e-4 * tensor.abs().max(), name


@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (2, ["--loss", "CB", "--label-smoothing", "0.1"]),
        (3, ["--batch-size", "9"]),  # an odd last image in every batch, and ranks without one in the last
        (2, ["--shard-classifier"]),
    ],
)
def test_any_number_of_processes_is_the_same_run(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, ranks: int, more: list[str]
) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    mixing = ["--mixup", "0.5", "--cutmix", "1", *more]
    with pytest.raises(SystemExit, match="0"):
        command_line([*command(tiny_clip, tiny_data, one), *mixing, "--micro-batch", "3"])
    ended = Group(tmp_path / "ranks", ranks, command_line, ([*command(tiny_clip, tiny_data, several), *mixing],)).join()
    assert [outcome.code for outcome in ended] == [0] * ranks, [outcome.err for outcome in ended]
    near(one, several)


def test_it_is_part_of_a_run(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved, in the digest of the settings, refused where it changes; off, a run is the one without the settings."""
    mixed = settings.override(**BOTH, epochs=1)
    step, seen = Learner.step, []
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda self, *given: (seen.append(given[4]), step(self, *given))[1])
        run = fastlift.train(mixed, output=tmp_path / "run")
    assert [len(of.share) for of in seen] == [8, 8, 8, 8, 6], "every step is told of its mixed labels"
    saved = json.loads((run.folder / "config.json").read_text())["training"]
    assert (saved["mixup"], saved["cutmix"]) == (0.5, 1.0)
    with pytest.raises(UserError, match="mixup"):
        fastlift.train(mixed.override(mixup=0.25), output=run.folder, resume=True)
    digests: dict[str, Any] = {
        name: settings_digest(settings.override(**of))
        for name, of in (("off", {}), ("0", {"mixup": 0.0}), ("on", BOTH))
    }
    assert digests["off"] == digests["0"] != digests["on"]
    plain = fastlift.train(settings.override(epochs=1), output=tmp_path / "plain")
    first, last = (load_file(of.folder / "checkpoints" / "epoch-001.safetensors") for of in (run, plain))
    assert any((first[name] != last[name]).any() for name in first)
