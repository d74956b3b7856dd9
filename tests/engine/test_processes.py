"""Processes under torchrun: unlike ones do not start, what ends one ends all, and everything is told once.

All but the last test start processes as torchrun would; that one starts torchrun.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures import Files, write_tiny_data
from PIL import Image
from ranks import command, told, workers
from safetensors.torch import load_file
from several import Group, together
from torch import Tensor

from fastlift import cli
from fastlift.data.datasets import splits
from fastlift.data.index import header_scan
from fastlift.data.index.index import PathTable
from fastlift.engine import pace, processes
from fastlift.engine.data_wait import DataWait
from fastlift.reporting import figures, html
from fastlift.runs.predictions import predictions_path, read_predictions
from fastlift.system import launcher
from fastlift.training.distributed import World
from fastlift.training.step import Learner


def fastlift(arguments: list[str], signalled: int = -1, step: int = 0, number: int = signal.SIGTERM) -> None:
    """The command; the rank ``signalled`` gets a signal, and its echo, in the middle of a step.

    Without the run's page, whose plots take longer than the run: no test here looks at them.
    """
    plain, page, taken = Learner.step, html.render_report, [0]

    def counted(self: Learner, *given: Any, **named: Any) -> bool:
        taken[0] += 1
        if taken[0] == step and os.environ.get("RANK", "0") == str(signalled):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # as where a scheduler signals each process, and torchrun passes it on
        return plain(self, *given, **named)

    Learner.step, html.render_report = counted, lambda *_, **__: ""  # type: ignore
    try:
        code = cli.main(arguments)
    finally:
        Learner.step, html.render_report = plain, page  # type: ignore[method-assign]
    sys.exit(code)


def test_nobody_asks_the_notes_any_more_when_the_processes_have_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is inside of torch while Python ends makes a process abort whose work is done."""
    answers: list[bool] = []

    def slow_question(world: World, over: threading.Event) -> None:
        over.wait(60)
        time.sleep(0.3)
        answers.append(True)

    notes: Any = SimpleNamespace(clone=lambda: notes, set=lambda *_: None)
    monkeypatch.setattr(launcher, "processes", lambda: 2)
    monkeypatch.setattr(processes, "meet", lambda: World(1, 2, store=notes))
    for name in ("listen", "limit"):
        monkeypatch.setattr(processes, name, slow_question)
    with processes.company() as world:
        assert world.rank == 1
    assert answers == [True, True]


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_with_any_number_of_processes(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """One process, then two of which one is asked to stop, then four: as one process all the way, log for log."""
    one, several = tmp_path / "one", tmp_path / "several"
    with pytest.raises(SystemExit, match="0"):
        fastlift(command(tiny_clip, tiny_data, one))
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
    with pytest.raises(SystemExit, match="0"):
        fastlift(command(tiny_clip, tiny_data, run))
    plain = ["evaluate", str(run), "--device", "cpu", "--amp", "fp32", "--eval-batch", "5", "--json"]
    alone, ranks = (Group(tmp_path / str(n), n, fastlift, (plain,)).join() for n in (1, 3))
    assert [outcome.code for outcome in ranks] == [0] * 3
    assert json.loads(ranks[0].out) == json.loads(alone[0].out)
    assert json.loads(ranks[0].out)["center"]["samples"] == 24
    said = read_predictions(predictions_path(run, "center")).images  # by the three
    assert said.rows.tolist() == list(range(24))
    right = (said.predicted == said.labels).mean()
    assert 100 * right == pytest.approx(json.loads(ranks[0].out)["center"]["accuracy"])
    assert ranks[1].out == ranks[2].out == ranks[1].err == ranks[2].err == ""
    stats = ["data", "stats", *command(tiny_clip, tiny_data, run)[1:11]]
    told_once = Group(tmp_path / "stats", 2, fastlift, (stats,)).join()
    assert [(outcome.code, bool(outcome.out)) for outcome in told_once] == [(0, True), (0, False)]


def unlike(clip: Files, data: Path, folder: Path) -> dict[str, tuple[list[str], list[str], str]]:
    """Commands of two ranks, and what must be told of them."""
    other, here = write_tiny_data(folder / "other", seed=1), socket.gethostname()
    plain = command(clip, data, folder / "run")
    return {
        "lr": (plain, [*plain, "--lr", "0.1"], f"lr is 0.05 on rank 0 ({here}) and 0.1 on rank 1 ({here})"),
        "seed": (plain, [*plain, "--seed", "1"], f"seed is 0 on rank 0 ({here}) and 1 on rank 1 ({here})"),
        "loss": (plain, [*plain, "--loss", "CE"], f"loss is LA on rank 0 ({here}) and CE on rank 1 ({here})"),
        "dtype": (plain, [*plain, "--amp", "bf16"], f"amp is fp32 on rank 0 ({here}) and bf16 on rank 1 ({here})"),
        "resume": (
            plain,
            [*plain, "--overwrite"],
            f"overwrite is False on rank 0 ({here}) and True on rank 1 ({here})",
        ),
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


def test_a_broken_image_of_one_rank_ends_all_with_one_message(tiny_clip: Files, tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path / "data")
    file = data / "train" / "class0" / "3.jpg"
    Image.open(file).save(file, "PNG")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + whole[-12:])  # its header and its end are as they should be
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
    assert "(the last: epoch-001.safetensors); it goes on with: fastlift train --resume --output" in message
    assert (tmp_path / "run" / "checkpoints" / "epoch-001.safetensors").is_file()


@dataclass(frozen=True)
class Left:
    """What a rank is left with: exit code, what it trained with its momentum, the first bad step, how many were left out."""

    code: int
    state: dict[str, Tensor]
    first: int
    skipped: int
    scale: float


def with_one_bad_step(arguments: list[str], kind: str) -> Left:
    """The command; in the sixth step rank 1's images are NaN, or its gradient overflows as fp16's do."""
    plain, learners = Learner.step, []

    def spoilt(self: Learner, images: Tensor, *given: Any, **named: Any) -> Any:
        learners.append(self)
        if len(learners) != 6 or launcher.rank() != 1:
            return plain(self, images, *given, **named)
        if kind == "nan":
            return plain(self, images * torch.nan, *given, **named)
        hook = next(iter(self.parameters.values())).register_hook(lambda gradient: gradient * torch.inf)
        taken = plain(self, images, *given, **named)
        hook.remove()
        return taken

    Learner.step = spoilt  # type: ignore[method-assign]
    code = cli.main(arguments)
    learner = learners[-1]
    state = {name: parameter.detach() for name, parameter in learner.parameters.items()}
    state |= learner.kept()
    watch = learner.watch
    return Left(code, state, int(watch.first), int(watch.skipped), learner.scaler.get_scale())


def left_by(folder: Path, arguments: list[str], kind: str) -> tuple[Left, str]:
    """What both ranks are left with, which is the same, and the only message that they gave, if any."""
    outcomes = Group(folder, 2, with_one_bad_step, (arguments, kind)).join()
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes  # of the function: the command's is in its value
    first, second = (outcome.value for outcome in outcomes)
    assert (first.code, first.first, first.skipped) == (second.code, second.first, second.skipped)
    assert first.scale == second.scale
    assert first.state.keys() == second.state.keys()
    for name, tensor in first.state.items():
        assert tensor.isfinite().all()
        assert torch.equal(tensor, second.state[name]), name
    return first, "".join(told(outcomes))


def test_a_bad_step_of_one_rank_is_left_out_by_all(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    stopping = command(tiny_clip, tiny_data, tmp_path / "stop")
    left, message = left_by(tmp_path / "a", stopping, "nan")
    assert (left.code, left.first) == (1, 5)
    assert message.count("fastlift: ") == 1
    assert "not finite at step 6 " in message
    assert "The state before it is step-00000005.safetensors" in message
    saved = load_file(tmp_path / "stop" / "checkpoints" / "step-00000005.safetensors")
    assert saved.keys() == left.state.keys()
    assert all(torch.equal(tensor, left.state[name]) for name, tensor in saved.items())
    skipping = command(tiny_clip, tiny_data, tmp_path / "skip", "--on-nonfinite", "skip")
    left, message = left_by(tmp_path / "b", skipping, "nan")
    assert (left.code, left.first, left.skipped, message) == (0, 5, 1, "")
    assert json.loads((tmp_path / "skip" / "results.json").read_text())["skipped_steps"] == 1
    assert [event["step"] for event in steps(tmp_path / "skip") if event["event"] == "step"] == list(range(1, 9))


def test_an_overflow_of_one_rank_stops_none(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    half = command(tiny_clip, tiny_data, tmp_path / "run", "--amp", "fp16", "--epochs", "2")
    left, message = left_by(tmp_path / "said", half, "overflow")
    assert (left.code, left.skipped, message) == (0, 0, "")
    assert left.scale < torch.amp.GradScaler("cpu").get_scale()


def test_torchrun_itself(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """A run of two processes of which one is killed: torchrun ends the other at once, which still tells the way on."""
    run = tmp_path / "run"
    arguments = command(tiny_clip, tiny_data, run, "--epochs", "100000")
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fastlift"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*started, *arguments], stderr=subprocess.PIPE, text=True, env=environment) as torchrun:
        try:
            deadline = time.monotonic() + 300
            while not (begun := list(run.glob("checkpoints/epoch-*.safetensors"))) and time.monotonic() < deadline:
                assert torchrun.poll() is None, torchrun.communicate()[1]
                time.sleep(0.05)
            assert begun
            os.kill(workers(run)["1"], signal.SIGKILL)
            told_last = torchrun.communicate(timeout=300)[1]
        finally:
            torchrun.terminate()  # nothing where it has ended; otherwise it ends its processes
    assert torchrun.returncode == 1
    (message,) = re.findall("^fastlift: .*", told_last, re.MULTILINE)
    assert "another process of this run has ended without a word" in message
    assert re.search(r"\(the last: epoch-\d+\.safetensors\); it goes on with: torchrun --nproc-per-node 2 -m", message)
    assert "training needs about" in told_last
    assert told_last.count("training needs about") == 1


def scanned(arguments: list[str]) -> list[int]:
    """The command; how many files this process looked at in each scan."""
    scans: list[int] = []

    def counted(root: Path, paths: PathTable, *given: Any) -> Any:
        scans.append(len(paths))
        return header_scan.scan_files(root, paths, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "scan_anywhere", counted)
        patch.setattr(html, "render_report", lambda *_, **__: "")
        assert cli.main(arguments) == 0
    return scans


def test_the_first_process_of_a_machine_reads_the_files_and_the_others_its_index(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    arguments = command(tiny_clip, tiny_data, tmp_path / "run", "--epochs", "1")
    assert together(tmp_path / "said", 3, scanned, arguments) == [[38, 24], [], []]
    assert together(tmp_path / "again", 2, scanned, [*arguments, "--overwrite"]) == [[], []]


def with_slow_storage(arguments: list[str], slow: int) -> None:
    """The command, as if half of one rank's time and a tenth of the others' went into waiting for images."""
    share, clock = 0.5 if launcher.rank() == slow else 0.1, SimpleNamespace(now=0.0)

    def look() -> float:
        clock.now += 1.0
        return clock.now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "time", SimpleNamespace(perf_counter=look))
        patch.setattr(DataWait, "seconds", lambda self: share * clock.now)
        patch.setattr(figures, "LONG_WAIT_S", 0.0)
        sys.exit(cli.main(arguments))


def test_the_log_and_the_results_tell_how_long_each_process_waits_for_data(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    outcomes = Group(tmp_path / "said", 3, with_slow_storage, (command(tiny_clip, tiny_data, run), 1)).join()
    assert [outcome.code for outcome in outcomes] == [0] * 3
    shares = [0.1, 0.5, 0.1]
    for event in steps(run):
        if event["event"] == "epoch":
            assert event["data_wait_by_rank"] == pytest.approx(shares, abs=1e-4)
        if event["event"] in ("epoch", "step"):
            assert event["data_wait_share"] == pytest.approx(0.5, abs=1e-4)
        if event["event"] == "step":
            assert event["data_wait_rank"] == 1
    results = json.loads((run / "results.json").read_text())
    assert [(each["rank"], each["host"]) for each in results["processes"]] == [
        (rank, socket.gethostname()) for rank in range(3)
    ]
    assert [each["data_wait_share"] for each in results["processes"]] == pytest.approx(shares, abs=1e-4)
    assert results["timing"]["data_wait_share"] == pytest.approx(0.5, abs=1e-4)
    assert f"by the clock of process 1 on {socket.gethostname()}, for which the others wait" in outcomes[0].err
    assert "Waiting for data by process" in (run / "report.html").read_text()
