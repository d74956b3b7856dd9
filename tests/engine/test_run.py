"""A run from config to results, and its folder."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import EVERY_DEVICE
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, Told
from run_files import same_state

import fastlift
from fastlift import config
from fastlift.config import Config
from fastlift.engine import evaluate as engine_evaluate
from fastlift.runs import checkpoints
from fastlift.runs import folder as runs
from fastlift.runs.claims import InUse, claimed
from fastlift.runs.predictions import predictions_path, read_predictions


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
        def evaluate_while_another_writes(*arguments: Any, **options: Any) -> Any:
            (run.folder / "results.json").write_text(json.dumps(results | change))
            return evaluate_on(*arguments, **options)

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
    assert os.listdir(run.folder / "predictions") == ["center.safetensors"]  # with the rows go their images


def test_what_is_said_of_each_image_is_kept(settings: Config, tmp_path: Path) -> None:
    """By the training's last evaluation and by each later one, with thumbnails where they are wanted."""
    run = fastlift.train(settings.override(epochs=1), output=tmp_path / "run")
    found = read_predictions(predictions_path(run.folder, "center"))
    assert 100 * np.mean(found.images.predicted == found.images.labels) == pytest.approx(run.metrics.accuracy)
    assert found.of == len(found.images) == len(found.thumbnails) == 24  # all are chosen: few images
    assert found.file(4) == "test/class1/0.jpg"
    assert found.images.labels[4] == 1
    assert found.fingerprint == run.results["data"]["fingerprints"]["test"]
    rows = engine_evaluate.evaluate_run(run.folder, ["epoch-001"], settings={"tte": "fivecrop", "thumbnails": 0})
    (name,) = rows
    later = read_predictions(predictions_path(run.folder, name))
    assert 100 * np.mean(later.images.predicted == later.images.labels) == pytest.approx(rows[name]["accuracy"])
    assert later.thumbnails == {}


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
    assert config.load(run.folder / "config.json").data.data_root == str(tiny_data)
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


def test_a_training_tells_what_it_trains_and_where(settings: Config, tmp_path: Path) -> None:
    ui = Told()
    fastlift.train(settings.override(epochs=1), output=tmp_path / "run", ui=ui)
    assert "38 training and 24 test images, 6 classes of 14 to 2 images" in ui.text
    assert re.search(
        r"adaptformer of rank 1 trains \d+ parameters \(.* % of the backbone\), the cosine classifier 288", ui.text
    )
    assert f"cpu in fp32 (asked for), {torch.get_num_threads()} threads; images by torchvision" in ui.text
