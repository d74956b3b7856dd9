"""A run that is cut short goes on from its last checkpoint, to the same bits, and under its own settings alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import on_gpu
from run_files import same_state
from stopping import signal_in_step

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.engine import evaluate as engine_evaluate
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.system.signals import Interrupted
from fastlift.training.learning_rate import LearningRateSettings


@pytest.mark.parametrize(
    ("stop_at", "amp", "place"),
    [
        *((stop_at, amp, "cpu") for stop_at, amp in ((3, "fp32"), (5, "fp32"), (9, "fp32"), (5, "bf16"), (9, "fp16"))),
        *(pytest.param(stop_at, amp, "cuda", marks=on_gpu()) for stop_at, amp in ((5, "bf16"), (9, "fp16"))),
    ],
)
def test_resuming_is_bit_identical(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, stop_at: int, amp: str
) -> None:
    """Stopped in the middle of an epoch, at its end, and in the next one: the result has the same bits.

    On a GPU because the images are tiny: over long sequences the gradients of attention are summed in no fixed order.
    """
    settings = settings.override(amp=amp, device=place)
    whole = fastlift.train(settings, output=tmp_path / "whole")

    from fastlift.training.step import Learner

    step = Learner.step
    with (
        pytest.raises(fastlift.UserError, match=f"SIGINT: stopped at step {stop_at}, saved as .*--resume"),
        signal_in_step(stop_at),
    ):
        fastlift.train(settings, output=tmp_path / "cut")
    assert not (tmp_path / "cut" / "results.json").exists()
    last = runs.RunFolder(tmp_path / "cut").last_checkpoint()
    assert last is not None
    assert checkpoints.read_train_state(last).global_step == stop_at, "nothing that was done is done again"
    again: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda self, *arguments: again.append(1) or step(self, *arguments))
        resumed = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    assert len(again) == whole.results["steps"] - stop_at, "only what was not done is done"
    same_state(whole.folder, resumed.folder, "epoch-003")
    logged = [strip_times(folder) for folder in (whole.folder, resumed.folder)]
    assert logged[0] == logged[1]


ALL_OF_IT = {
    "optimizer": "adamw",
    "lr": 0.002,
    "lr_schedule": "step",
    "warmup_epochs": 1.5,
    "min_lr_ratio": 0.1,
    "clip_grad": 0.5,
    "ema": 0.9,
    "micro_batch": 2,
}


@pytest.mark.parametrize("amp", ["fp32", "fp16"])
@pytest.mark.parametrize("stop_at", [3, 9])
def test_resuming_is_bit_identical_with_other_optimisers(
    settings: Config, tmp_path: Path, stop_at: int, amp: str
) -> None:
    """In the warm-up and behind it: moments, counts of updates and the learning rate go on, also those in the log."""
    settings = settings.override(**ALL_OF_IT, amp=amp, log_steps=1)
    whole = fastlift.train(settings, output=tmp_path / "whole")
    with pytest.raises(Interrupted), signal_in_step(stop_at):
        fastlift.train(settings, output=tmp_path / "cut")
    resumed = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    same_state(whole.folder, resumed.folder, "epoch-003")
    assert strip_times(whole.folder) == strip_times(resumed.folder)
    rates = [event["learning_rate"] for event in strip_times(whole.folder) if event["event"] == "step"]
    steps = whole.results["steps"] // 3
    expected = LearningRateSettings.of(settings.flat()).build(0.002, 3, steps)
    assert rates == [expected.at(*divmod(number, steps)) for number in range(3 * steps)]


@pytest.mark.parametrize(
    "stage", ["train.load_data", "model.build_model", "train.training_loader", "train.evaluate", "train.end"]
)
def test_a_signal_outside_the_loop_stops_cleanly(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The message tells the way on from what is there, and that way holds."""

    def signalled(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(f"fastlift.engine.{stage}", signalled)
        with pytest.raises(
            Interrupted, match=r"^SIGUSR1: stopped; .* holds .*run.*fastlift train .*--output"
        ) as caught:
            fastlift.train(settings.override(epochs=1), output=path)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    resume = "--resume" in str(caught.value)
    assert resume == path.exists() == (stage not in ("train.load_data", "model.build_model"))
    run = fastlift.train(settings.override(epochs=1), output=path, resume=resume)
    assert runs.state(run.folder) is runs.State.ENDED


def strip_times(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in event.items() if key not in ("seconds", "images_per_s", "data_wait_share")}
        for event in events
    ]


@pytest.mark.parametrize("options", [{}, ALL_OF_IT], ids=["sgd", "adamw"])
def test_a_killed_run_goes_on(settings: Config, tmp_path: Path, options: dict[str, Any]) -> None:
    """SIGKILL gives no chance to save: the last checkpoint and the metrics up to it are what counts."""
    settings = settings.override(epochs=4, checkpoint_steps=2, **options)
    whole = fastlift.train(settings, output=tmp_path / "whole")
    file, cut = tmp_path / "config.json", tmp_path / "cut"
    file.write_text(json.dumps(config.to_dict(settings)))
    slow = "import fastlift.training.step as l, time; s = l.Learner.step; l.Learner.step = lambda *a: (time.sleep(0.2), s(*a))[1]"
    threads = f"import torch; torch.set_num_threads({torch.get_num_threads()})"
    command = f"{threads}; {slow}; from fastlift.cli import main; main(['train', '--config', r'{file}', '--output', r'{cut}'])"
    process = subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(cut.glob("checkpoints/step-*7*")) and not list(cut.glob("checkpoints/epoch-002*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (cut / "metrics.jsonl").open("a") as log:
        log.write('{"event": "step", "ste')  # as a kill in the middle of a line leaves it
    resumed = fastlift.train(settings, output=cut, resume=True)
    same_state(whole.folder, resumed.folder, "epoch-004")
    assert strip_times(resumed.folder) == strip_times(whole.folder)


def test_a_state_amid_the_last_epoch_does_not_outlive_the_run(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the last epoch's checkpoint and the removal of the one before it, or a power cut that undoes that."""
    settings = settings.override(epochs=1, checkpoint_steps=2)
    remove = checkpoints.remove_old_steps

    def killed(folder: Path, keep: Path) -> None:
        if keep.name.startswith("epoch"):
            raise KeyboardInterrupt
        remove(folder, keep)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "remove_old_steps", killed)
        with pytest.raises(KeyboardInterrupt):
            fastlift.train(settings, output=tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    fastlift.train(settings, output=tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-001.safetensors"]


def test_a_run_that_has_ended_is_not_resumed_but_returned(settings: Config, tmp_path: Path) -> None:
    """As a restart loop does it: exit code 0, nothing changes; and what a kill left undone at the end is done."""
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != ".lock"}
    again = fastlift.train(settings.override(epochs=1), output=run.folder, resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.metrics == run.metrics
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again.model(images), run.model(images), rtol=0, atol=0)

    (run.folder / "report.html").unlink()
    (run.folder / "results.json").write_text('{"metrics": ')
    third = fastlift.train(settings.override(epochs=1), output=run.folder, resume=True)
    assert third.metrics == run.metrics
    assert (run.folder / "results.damaged.json").read_text() == '{"metrics": '
    assert runs.state(run.folder) is runs.State.ENDED
    assert [event["event"] for event in strip_times(run.folder)].count("evaluation") == 1


def test_resuming_with_other_settings_or_data_is_refused(settings: Config, tmp_path: Path, tiny_data: Path) -> None:
    run = fastlift.train(settings.override(epochs=2), output=tmp_path / "run")
    (run.folder / "results.json").unlink()
    with pytest.raises(fastlift.UserError, match=r"lr was 0.05, now 0.1"):
        fastlift.train(settings.override(epochs=2, lr=0.1), output=run.folder, resume=True)
    shorter = tmp_path / "train.txt"
    shorter.write_text("\n".join((tiny_data / "train.txt").read_text().splitlines()[1:]))
    changed = settings.override(epochs=2, train_list=shorter)
    (run.folder / "config.json").write_text(json.dumps(config.to_dict(changed)))
    with pytest.raises(fastlift.UserError, match="other images or labels"):
        fastlift.train(changed, output=run.folder, resume=True)


def test_a_resumed_run_keeps_what_it_went_on_with(settings: Config, tmp_path: Path, tiny_data: Path) -> None:
    """Data that moved, and other groups: later gradings take them from the run."""
    moved = tmp_path / "moved"
    shutil.copytree(tiny_data, moved)
    run = fastlift.train(settings.override(epochs=1, data_root=moved), output=tmp_path / "run")
    (run.folder / "results.json").unlink()
    shutil.rmtree(moved)
    going_on = settings.override(epochs=1, group_boundaries=(3, 8))
    resumed = fastlift.train(going_on, output=run.folder, resume=True)
    assert config.load(run.folder / "config.json").data.data_root == str(tiny_data)
    evaluated = engine_evaluate.evaluate_run(run.folder)
    assert evaluated["center"]["group_sizes"] == resumed.results["evaluations"]["center"]["group_sizes"]


def test_a_run_that_a_test_image_stopped_goes_on_with_skip(
    settings: Config, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of the stop advises it; what was trained before is not lost."""
    from fastlift.engine import train as training

    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    evaluate = training.evaluate

    def damage_then_evaluate(*arguments: Any, **options: Any) -> Any:
        (root / "test" / "class1" / "2.jpg").write_bytes(b"")
        return evaluate(*arguments, **options)

    monkeypatch.setattr(training, "evaluate", damage_then_evaluate)
    stopping = settings.override(data_root=root, epochs=1)
    with pytest.raises(fastlift.UserError, match=r"class1/2\.jpg is empty.*--bad-images skip"):
        fastlift.train(stopping, output=tmp_path / "run")
    resumed = fastlift.train(stopping.override(bad_images="skip"), output=tmp_path / "run", resume=True)
    assert resumed.results["replaced_images"] == 1
    assert (tmp_path / "run" / "bad_images.txt").read_text().count("\n") == 1
