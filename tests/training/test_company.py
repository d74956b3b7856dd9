"""Processes under torchrun: unlike ones do not start, what ends one ends all, and everything is told once."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures import write_tiny_data
from PIL import Image
from safetensors.torch import load_file
from several import Group, Outcome

from fastlift import cli
from fastlift.learner import Learner

Files = tuple[Path, Path]


def command(clip: Files, data: Path, output: Path, *more: str) -> list[str]:
    """Two epochs of four steps: three of 12 images and one of 2."""
    lists = ["--dataset", "list", "--data-root", str(data), "--class-names", str(data / "class_names.txt")]
    lists += ["--train-list", str(data / "train.txt"), "--test-list", str(data / "test.txt")]
    model = ["--model", str(clip[0]), "--pretrained", str(clip[1]), "--init", "random", "--device", "cpu"]
    training = ["--epochs", "2", "--batch-size", "12", "--lr", "0.05", "--amp", "fp32", "--log-steps", "1"]
    return ["train", *lists, *model, *training, "--workers", "1", "--output", str(output), *more]


def fastlift(arguments: list[str], signalled: int = -1, step: int = 0, number: int = signal.SIGTERM) -> None:
    """The command; the rank ``signalled`` gets a signal in the middle of a step."""
    plain, taken = Learner.step, [0]

    def counted(self: Learner, *given: Any, **named: Any) -> bool:
        taken[0] += 1
        if taken[0] == step and os.environ.get("RANK", "0") == str(signalled):
            os.kill(os.getpid(), number)
        return plain(self, *given, **named)

    Learner.step = counted  # type: ignore[method-assign]
    try:
        code = cli.main(arguments)
    finally:
        Learner.step = plain  # type: ignore[method-assign]
    sys.exit(code)


def told(outcomes: list[Outcome]) -> list[str]:
    """What all ranks said of an error; no traceback, no warning of torch's."""
    lines = [line for outcome in outcomes for line in outcome.err.splitlines()]
    assert not [line for line in lines if "Traceback" in line or "[W" in line or "[rank" in line], lines
    return [line for line in lines if line.startswith("fastlift: ")]


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_with_any_number_of_processes(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """One process, then two of which one is asked to stop, then four: as one process all the way, log for log."""
    one, several = tmp_path / "one", tmp_path / "several"
    assert cli.main(command(tiny_clip, tiny_data, one)) == 0
    with pytest.raises(SystemExit, match="143"):
        fastlift(command(tiny_clip, tiny_data, several), 0, step=2)
    resumed = command(tiny_clip, tiny_data, several, "--resume")
    # the third step here, the fifth of the run
    stopped = Group(tmp_path / "two", 2, fastlift, (resumed, 1, 3, signal.SIGUSR1)).join()
    assert [outcome.code for outcome in stopped] == [128 + signal.SIGUSR1] * 2
    (message,) = told(stopped)
    assert "SIGUSR1: stopped at step 5, saved as step-00000005.safetensors" in message
    ended = Group(tmp_path / "four", 4, fastlift, (resumed,)).join()
    assert [outcome.code for outcome in ended] == [0] * 4
    assert "Overall accuracy" in ended[0].out
    assert not any(outcome.out or outcome.err for outcome in ended[1:])
    for mine, theirs in zip(steps(one), steps(several), strict=True):
        assert (mine["event"], mine["step"]) == (theirs["event"], theirs["step"])
        for name in {"loss", "accuracy", "train_loss", "train_accuracy"} & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5)
    last = [load_file(run / "checkpoints" / "epoch-002.safetensors") for run in (one, several)]
    for name, tensor in last[0].items():
        assert (tensor - last[1][name]).abs().max() <= 1e-5 + 1e-4 * tensor.abs().max(), name


def test_an_evaluation_is_shared_exactly_and_told_once(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.main(command(tiny_clip, tiny_data, run)) == 0
    plain = ["evaluate", str(run), "--device", "cpu", "--amp", "fp32", "--eval-batch", "5", "--json"]
    alone, ranks = (Group(tmp_path / str(n), n, fastlift, (plain,)).join() for n in (1, 3))
    assert [outcome.code for outcome in ranks] == [0] * 3
    assert json.loads(ranks[0].out) == json.loads(alone[0].out)
    assert json.loads(ranks[0].out)["center"]["samples"] == 24
    assert ranks[1].out == ranks[2].out == ranks[1].err == ranks[2].err == ""
    pages = Group(tmp_path / "report", 2, fastlift, (["report", str(run)],)).join()
    assert [(outcome.code, bool(outcome.out)) for outcome in pages] == [(0, True), (0, False)]


def unlike(clip: Files, data: Path, folder: Path) -> dict[str, tuple[list[str], list[str], str]]:
    """Commands of two ranks, and what must be told of them."""
    other = write_tiny_data(folder / "other", seed=1)
    plain = command(clip, data, folder / "run")
    return {
        "lr": (plain, [*plain, "--lr", "0.1"], "lr is 0.05 on rank 0 and 0.1 on rank 1"),
        "seed": (plain, [*plain, "--seed", "1"], "seed is 0 on rank 0 and 1 on rank 1"),
        "loss": (plain, [*plain, "--loss", "CE"], "loss is LA on rank 0 and CE on rank 1"),
        "dtype": (plain, [*plain, "--amp", "bf16"], "amp is fp32 on rank 0 and bf16 on rank 1"),
        "resume": (plain, [*plain, "--overwrite"], "overwrite is False on rank 0 and True on rank 1"),
        "data": (plain, command(clip, other, folder / "run"), "the training data is"),
        "mistake": ([*plain, "--no-such-flag"], [*plain, "--no-such-flag"], "--no-such-flag"),
        "mistake of one": (plain, [*plain, "--epochs", "-1"], "epochs: must not be negative"),
    }


@pytest.mark.parametrize("what", ["lr", "seed", "loss", "dtype", "resume", "data", "mistake", "mistake of one"])
def test_unlike_processes_do_not_start(what: str, tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    first, second, message = unlike(tiny_clip, tiny_data, tmp_path)[what]
    outcomes = Group(tmp_path / "said", 2, fastlift, [(first,), (second,)], own=True).join()
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert len(told(outcomes)) == 1
    assert message in outcomes[0].err + outcomes[1].err
    assert not (tmp_path / "run").exists()


def test_a_broken_picture_of_one_rank_ends_all_with_one_message(tiny_clip: Files, tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data")
    picture = data / "train" / "class0" / "3.jpg"
    Image.open(picture).save(picture, "PNG")
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2] + whole[-12:])  # its header and its end are as they should be
    run = tmp_path / "run"
    outcomes = Group(tmp_path / "said", 3, fastlift, (command(tiny_clip, data, run),)).join()
    assert [outcome.code for outcome in outcomes] == [1, 1, 1]
    (message,) = told(outcomes)
    assert "class0/3.jpg" in message


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_all_with_one_message(
    killed: int, tiny_clip: Files, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = (command(tiny_clip, tiny_data, tmp_path / "run"), killed, 6, signal.SIGKILL)
    outcomes = Group(tmp_path / "said", 3, fastlift, arguments).join()
    assert [outcome.code for outcome in outcomes if outcome.code != -signal.SIGKILL] == [1, 1]
    (message,) = told(outcomes)
    assert "another process of this run has ended" in message
    assert (tmp_path / "run" / "checkpoints" / "epoch-001.safetensors").is_file()
