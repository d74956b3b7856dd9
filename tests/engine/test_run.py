"""A run from config to results, its folder, and what happens when it is cut short."""

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
from devices import EVERY_DEVICE, on_gpu
from fixtures import CLASS_COUNTS, CLASS_NAMES, tiny_recipe
from safetensors.torch import load_file

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.engine import evaluate as engine_evaluate
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.claims import InUse, claimed
from fastlift.system.signals import Interrupted

Files = tuple[Path, Path]


@pytest.fixture
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(
        tiny_clip,
        tiny_data,
        epochs=3,
        batch_size=8,
        lr=0.05,
        log_steps=1,
        eval_batch=7,
        amp="fp32",  # what "auto" means depends on the processor
    )


@pytest.mark.parametrize("place", EVERY_DEVICE)
def test_a_run(settings: Config, tmp_path: Path, place: str) -> None:
    settings = settings.override(device=place)
    run = fastlift.train(settings, output=tmp_path / "run")
    folder = runs.RunFolder(run.folder)
    noted = {"threads": torch.get_num_threads()} if place == "cpu" else {}
    assert config.load(folder.config) == settings.override(**noted)
    assert run.results["machine"]["device"] == place
    assert {parameter.device.type for parameter in run.model.parameters()} == {torch.device(place).type}
    results = json.loads(folder.results.read_text())
    assert results["data"]["class_counts"] == list(CLASS_COUNTS)
    assert results["data"]["class_names"] == list(CLASS_NAMES)
    assert results["metrics"]["samples"] == 4 * len(CLASS_NAMES)
    assert results["model"]["tuned_parameters"] == sum(parameter.numel() for parameter in run.model.trained().values())
    assert run.metrics.accuracy == results["metrics"]["accuracy"]
    assert run.metrics.accuracy > 60  # colours are easy; chance is 17
    assert folder.report.read_text().startswith("<!doctype html")
    assert list(folder.tensorboard.glob("events.*"))

    events = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 16))  # 38 images in batches of 8, three times
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    names = [path.name for path in checkpoints.saved(folder.checkpoints)]
    assert names == [f"epoch-{epoch:03d}.safetensors" for epoch in (1, 2, 3)]


def test_a_run_can_be_loaded_and_repeated(settings: Config, tmp_path: Path, device: torch.device) -> None:
    run = fastlift.train(settings.override(device=str(device)), output=tmp_path / "run")
    images = torch.randn(3, 3, 32, 32).to(device)
    torch.testing.assert_close(fastlift.load_run(run.folder).to(device)(images), run.model(images), rtol=0, atol=0)
    early = fastlift.load_run(run.folder, "epoch-001").to(device)
    assert not torch.equal(early.classifier.weight, run.model.classifier.weight)  # type: ignore[arg-type]
    again = fastlift.train(config.load(run.folder / "config.json"), output=tmp_path / "again")
    same_state(run.folder, again.folder, "epoch-003")


def same_state(one: Path, other: Path, name: str) -> None:
    first, second = (load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor), key


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

    step, taken = Learner.step, []

    def stop_after(self: Learner, *arguments: Any) -> bool:
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stop_after)
        with pytest.raises(fastlift.UserError, match=f"SIGINT: stopped at step {stop_at}, saved as .*--resume"):
            fastlift.train(settings, output=tmp_path / "cut")
    assert not (tmp_path / "cut" / "results.json").exists()
    last = runs.RunFolder(tmp_path / "cut").last_checkpoint()
    assert last is not None
    assert checkpoints.read_train_state(last).global_step == stop_at, "nothing that was done is done again"
    resumed = fastlift.train(settings, output=tmp_path / "cut", resume=True)
    same_state(whole.folder, resumed.folder, "epoch-003")
    logged = [strip_times(folder) for folder in (whole.folder, resumed.folder)]
    assert logged[0] == logged[1]


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
    return [{key: value for key, value in event.items() if key not in ("seconds", "images_per_s")} for event in events]


def test_a_killed_run_goes_on(settings: Config, tmp_path: Path) -> None:
    """SIGKILL gives no chance to save: the last checkpoint and the metrics up to it are what counts."""
    settings = settings.override(epochs=4, checkpoint_steps=2)
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


def test_folders_are_not_overwritten(settings: Config, tmp_path: Path) -> None:
    quick = settings.override(epochs=1)
    fastlift.train(quick, output=tmp_path / "run")
    with pytest.raises(fastlift.UserError, match=r"--resume.*--overwrite"):
        fastlift.train(quick, output=tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("of the old run")
    events = [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()]
    fastlift.train(quick.override(seed=1), output=tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "notes.txt").exists()
    assert not {path.name for path in (tmp_path / "run" / "tensorboard").iterdir()} & set(events)
    assert config.load(tmp_path / "run" / "config.json").run.seed == 1
    text = {"classifier": "text", "text_tuner": "coop"}
    with pytest.raises(fastlift.UserError, match="fill all"):  # a refused run replaces nothing
        fastlift.train(quick.override(**text, coop_length=99), output=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "results.json").is_file()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.jpg").write_text("x")
    with pytest.raises(fastlift.UserError, match="not a run folder"):
        fastlift.train(quick, output=tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "precious.jpg").exists()


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


def test_two_processes_in_one_folder(settings: Config, tmp_path: Path) -> None:
    """The second is refused whatever it wants, and changes nothing; who only evaluates keeps his rows to himself."""
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    with claimed(run.folder, print):
        before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
        for how in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(InUse, match=f"in use by process {os.getpid()}"):
                fastlift.train(settings.override(epochs=1), output=run.folder, **how)
        assert {path: path.stat().st_mtime_ns for path in before} == before
    with claimed(tmp_path / "new", print), pytest.raises(InUse):
        fastlift.train(settings.override(epochs=1), output=tmp_path / "new")
    assert os.listdir(tmp_path / "new") == [".lock"]


def test_evaluating_beside_another(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are added to the results as they are when the folder is free, and kept out of another run's."""
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    results = json.loads((run.folder / "results.json").read_text())
    evaluate_on = engine_evaluate.evaluate_on

    def meanwhile(change: dict[str, Any]) -> None:
        def evaluate_while_another_writes(*arguments: Any) -> Any:
            (run.folder / "results.json").write_text(json.dumps(results | change))
            return evaluate_on(*arguments)

        monkeypatch.setattr(engine_evaluate, "evaluate_on", evaluate_while_another_writes)

    meanwhile({"evaluations": {"another's": results["metrics"]}})
    engine_evaluate.evaluate_run(run.folder)
    kept = json.loads((run.folder / "results.json").read_text())["evaluations"]
    assert set(kept) == {"another's", "center"}
    meanwhile({"timing": {"train_s": 1.0}})
    assert set(engine_evaluate.evaluate_run(run.folder, settings={"tte": "fivecrop"})) == {"fivecrop"}
    assert set(json.loads((run.folder / "results.json").read_text())["evaluations"]) == {"center"}
    monkeypatch.setattr(engine_evaluate, "evaluate_on", evaluate_on)
    monkeypatch.setattr(engine_evaluate, "PATIENCE_S", 0.0)
    with claimed(run.folder, print):
        assert set(engine_evaluate.evaluate_run(run.folder, settings={"tte": "fivecrop"})) == {"fivecrop"}
    assert set(json.loads((run.folder / "results.json").read_text())["evaluations"]) == {"center"}


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
    assert config.load(run.folder / "config.json").data.data_root == tiny_data
    evaluated = engine_evaluate.evaluate_run(run.folder)
    assert evaluated["center"]["group_sizes"] == resumed.results["evaluations"]["center"]["group_sizes"]


def test_other_backbone_weights_are_noticed(settings: Config, tmp_path: Path) -> None:
    from fixtures import write_tiny_clip

    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    other = write_tiny_clip(tmp_path, seed=9)[1]
    changed = config.to_dict(settings.override(epochs=1, pretrained=str(other)))
    (run.folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(fastlift.UserError, match="not those"):
        fastlift.load_run(run.folder)


def test_a_run_holds_in_any_working_folder(
    settings: Config, tmp_path: Path, tiny_data: Path, tiny_clip: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_data.parent)
    relative = settings.override(data_root=tiny_data.name, train_list=Path(tiny_data.name) / "train.txt", epochs=1)
    run = fastlift.train(relative, output=tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert config.load(run.folder / "config.json").data.data_root == tiny_data
    again = fastlift.train(config.load(run.folder / "config.json"), output=tmp_path / "again")
    assert again.metrics == run.metrics


def test_replaced_images_are_listed_once(
    settings: Config, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the header scan finds and those that break when decoded, over a resumed run too."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    (root / "train" / "class0" / "3.jpg").write_text("text")
    (root / "test" / "class1" / "2.jpg").unlink()
    changed = settings.override(data_root=root, bad_images="skip", epochs=2, train_list=root / "train.txt")
    from fastlift.engine import train as training

    load = training.load_data

    def load_then_damage(*arguments: Any) -> Any:
        data = load(*arguments)
        (root / "train" / "class2" / "1.jpg").write_bytes(b"")
        return data

    monkeypatch.setattr(training, "load_data", load_then_damage)
    run = fastlift.train(changed, output=tmp_path / "run")
    (run.folder / "results.json").unlink()
    (run.folder / "checkpoints" / "epoch-002.safetensors").unlink()
    resumed = fastlift.train(changed, output=tmp_path / "run", resume=True)
    lines = [line.split("\t") for line in (run.folder / "bad_images.txt").read_text().splitlines()]
    assert [line[:2] for line in lines] == [
        ["list/train", "train/class0/3.jpg"],
        ["list/test", "test/class1/2.jpg"],
        ["list/train", "train/class2/1.jpg"],
    ]
    assert [line[3] for line in lines] == ["train/class0/4.jpg", "test/class1/3.jpg", "train/class2/2.jpg"]
    assert resumed.results["replaced_images"] == 3


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


def test_a_full_disk_is_told(settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    from fastlift.system import sealed

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(sealed, "save_file", full)
    with pytest.raises(fastlift.UserError, match="No space left") as caught:
        fastlift.train(settings, output=tmp_path / "run")
    assert caught.value.exit_code == 1
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_profile_is_a_trace(settings: Config, tmp_path: Path) -> None:
    run = fastlift.train(settings.override(profile=True), output=tmp_path / "run")
    trace = json.loads((run.folder / "profile.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert names >= {
        "adapter_forward",
        "adapter_forwardBackward",
        "cosine_cross_entropy_forward",
        "activation_forward",
    }, "our ops, by their autograd functions"


def test_zero_shot_trains_nothing(settings: Config, tmp_path: Path) -> None:
    zero = settings.override(tuner="none", classifier="zero_shot", epochs=0)
    run = fastlift.train(zero, output=tmp_path / "run")
    assert run.results["model"]["tuned_parameters"] == 0
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(fastlift.load_run(run.folder)(images), run.model(images))
