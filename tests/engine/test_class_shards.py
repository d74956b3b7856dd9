"""Runs whose classifier is split over processes: the same run, log for log, and one that goes on unsplit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from engine.test_processes import fastlift, steps
from fixtures import Files
from ranks import command, told
from safetensors.torch import load_file
from several import Group

ADAMW = ["--optimizer=adamw", "--eps=1e-4", "--lr=0.001", "--lr-schedule=step", "--warmup-epochs=0.5"]
ADAMW += ["--clip-grad=0.5", "--ema=0.8"]


@pytest.mark.parametrize("flags", [["--init", "random"], ["--init", "class_mean", *ADAMW]], ids=["sgd", "adamw"])
def test_a_split_run_goes_on_unsplit(flags: list[str], tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """Three processes of which one is asked to stop, then one alone, then two: as one process all the way."""
    one, several = tmp_path / "one", tmp_path / "several"
    plain = [command(tiny_clip, tiny_data, run, *flags) for run in (one, several)]
    with pytest.raises(SystemExit, match="0"):
        fastlift(plain[0])
    begun = (tmp_path / "three", 3, fastlift, ([*plain[1], "--shard-classifier"], 1, 2))
    stopped = Group(*begun).join()
    assert [outcome.code for outcome in stopped] == [128 + signal.SIGTERM] * 3
    assert "SIGTERM: stopped at step 2, saved as step-00000002.safetensors" in told(stopped)[0]
    with pytest.raises(SystemExit, match="143"):
        fastlift([*plain[1], "--resume", "--no-shard-classifier"], 0, step=3)  # the fifth of the run
    ended = Group(tmp_path / "two", 2, fastlift, ([*plain[1], "--resume", "--shard-classifier"],)).join()
    assert [outcome.code for outcome in ended] == [0] * 2, ended[0].err + ended[1].err
    assert "Overall accuracy" in ended[0].out
    for mine, theirs in zip(steps(one), steps(several), strict=True):
        assert (mine["event"], mine["step"]) == (theirs["event"], theirs["step"])
        for name in {"loss", "accuracy", "train_loss", "train_accuracy"} & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5)
    first, last = (load_file(run / "checkpoints" / "epoch-002.safetensors") for run in (one, several))
    assert first.keys() == last.keys()
    for name, tensor in first.items():
        assert (tensor - last[name]).abs().max() <= 1e-5 + 1e-4 * tensor.abs().max(), name
    results = [json.loads((run / "results.json").read_text()) for run in (one, several)]
    assert results[0]["model"] == results[1]["model"]
    assert results[0]["metrics"]["samples"] == results[1]["metrics"]["samples"] == 24
