"""Calibrating a small run: what is kept, the figures before and after, whose it is, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from fixtures import Files, Told, tiny_recipe

import fastlift
from fastlift.commands import calibrate as command
from fastlift.commands import evaluate, predict
from fastlift.config import Config
from fastlift.data.image_sources import ImageSources
from fastlift.engine.calibrate import calibrate_run
from fastlift.engine.evaluate import evaluate_run
from fastlift.engine.export import Measuring, export_run
from fastlift.engine.predict import Wanted
from fastlift.engine.prediction_file import PredictionFile, _asked
from fastlift.engine.sharing import publishable
from fastlift.evaluation.calibration import log_prior
from fastlift.interop.export.formats import KINDS
from fastlift.models.prediction.result import AnswerSettings
from fastlift.runs.calibration import write_calibration
from fastlift.runs.folder import RunFolder

SINGLE = ("accuracy", "few", "mean_class_accuracy", "worst_class", "expected_calibration_error", "log_loss")


def recipe(clip: Files, data: Path, **settings: Any) -> Config:
    """Two epochs at so low a rate that some images stay wrong; a validation image of every class."""
    given = {"epochs": 2, "batch_size": 8, "lr": 0.001, "val_share": 0.34, "amp": "fp32", "eval_batch": 7} | settings
    return tiny_recipe(clip, data, **given)


@pytest.fixture(scope="module")
def trained(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fastlift.train(recipe(tiny_clip, tiny_data), output=tmp_path_factory.mktemp("calibrate") / "run").folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_what_is_found_is_kept_with_the_run(run: Path) -> None:
    told = Told()
    found = calibrate_run(run, settings={"reject": 0.2}, ui=told)
    kept = json.loads((run / "calibration.json").read_text())
    assert {name: value for name, value in kept.items() if name != "blake2b"} == json.loads(json.dumps(found))
    assert (kept["fitted_on"]["checkpoint"], kept["fitted_on"]["tte"]) == ("epoch-002", "none")
    assert kept["fitted_on"]["fingerprint"] == json.loads((run / "data.json").read_text())["fingerprints"]["val"]
    assert kept["weighted_log_loss"]["after"] < kept["weighted_log_loss"]["before"]
    assert kept["class_counts"] == json.loads((run / "data.json").read_text())["class_counts"]
    assert "the fit leans on few images: 13 in all, 1 of the smallest class" in told.text
    low, high = kept["intervals"]["strength"] or (-1e9, 1e9)
    assert low <= kept["strength"] <= high


def test_before_is_what_evaluate_finds_and_after_what_the_formula_says(run: Path, tiny_data: Path) -> None:
    found = calibrate_run(run, ui=None)
    splits: tuple[Literal["val", "test"], ...] = ("val", "test")
    for split in splits:
        (evaluated,) = evaluate_run(run, split=split, settings={"eval_batch": 5}, ui=None).values()
        for name in SINGLE:
            assert found["before"][split][name] == pytest.approx(evaluated[name], abs=1e-4), (split, name)
    plain, calibrated = (fastlift.load_run(run, calibrated=on, ui=None) for on in (False, True))
    images = [tiny_data / "test" / f"class{label}" / "0.jpg" for label in range(4)]
    prior = log_prior(found["class_counts"])
    for one, other in zip(plain.predict(images, top=6), calibrated.predict(images, top=6), strict=True):
        logits = torch.tensor(one.probabilities).double().log()
        expected = ((logits + found["strength"] * prior[list(one.classes)]) / found["temperature"]).softmax(dim=0)
        got = dict(zip(other.classes, other.probabilities, strict=True))
        assert [got[label] for label in one.classes] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_command_tells_both_splits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run([str(run), "--by", "mean_class_accuracy", "--selective-accuracy", "0.3"]) == 0
    told = capsys.readouterr().out
    for text in ("strength of the prior", "temperature", "threshold", "30 % were wanted", "Coverage", "by mean class"):
        assert text in " ".join(told.split()), text
    assert command.run([str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] is None


def test_test_time_ensembling_is_that_of_the_run_unless_asked(run: Path) -> None:
    plain, five = calibrate_run(run, ui=None), calibrate_run(run, settings={"tte": "fivecrop"}, ui=None)
    assert five["fitted_on"]["tte"] == "fivecrop"
    assert five["before"]["test"]["log_loss"] != plain["before"]["test"]["log_loss"]


def test_a_calibration_holds_for_its_checkpoint_alone(run: Path, tiny_clip: Files, tiny_data: Path) -> None:
    with pytest.raises(fastlift.UserError, match="is not calibrated: fit it with: fastlift calibrate"):
        fastlift.load_run(run, calibrated=True, ui=None)
    calibrate_run(run, "epoch-001", ui=None)
    assert fastlift.load_run(run, "epoch-001", calibrated=True, ui=None).calibration is not None
    with pytest.raises(fastlift.UserError, match=r"stale: it was fitted to epoch-001, not to epoch-002; .*epoch-002"):
        fastlift.load_run(run, calibrated=True, ui=None)
    kept = (run / "calibration.json").read_text()
    fastlift.train(recipe(tiny_clip, tiny_data, lr=0.002), output=run, overwrite=True)
    assert not (run / "calibration.json").exists(), "a new run in its place begins without"
    (run / "calibration.json").write_text(kept)
    with pytest.raises(fastlift.UserError, match="epoch-001 as it was before it was trained anew"):
        fastlift.load_run(run, "epoch-001", calibrated=True, ui=None)


def test_a_damaged_file_is_told(run: Path) -> None:
    calibrate_run(run, ui=None)
    file = run / "calibration.json"
    whole = file.read_text()
    file.write_text(whole.replace('"images": 13', '"images": 14'))
    with pytest.raises(fastlift.UserError, match=r"calibration\.json was changed or damaged; fit it with"):
        fastlift.load_run(run, calibrated=True, ui=None)
    file.write_text(whole[:-20])
    with pytest.raises(fastlift.UserError, match=r"calibration\.json"):
        fastlift.load_run(run, calibrated=True, ui=None)


def test_classes_without_a_validation_image(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    run = fastlift.train(recipe(tiny_clip, tiny_data, val_share=0.2, epochs=1), output=tmp_path / "run").folder
    with pytest.raises(
        fastlift.UserError, match=r"1 of 6 classes have no validation image \(black coal\).*--val-share"
    ):
        calibrate_run(run, ui=None)
    assert not (run / "calibration.json").exists()
    told = Told()
    found = calibrate_run(run, settings={"missing_classes": "skip"}, ui=told)
    assert found["fitted_on"]["classes_without_images"] == 1
    assert "1 classes have no validation image" in told.text


def test_without_a_validation_split(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    run = fastlift.train(recipe(tiny_clip, tiny_data, val_share=0.0, epochs=1), output=tmp_path / "run").folder
    with pytest.raises(fastlift.UserError, match=r"calibrate: list has no validation split.*--val-share"):
        calibrate_run(run, ui=None)


def test_several_processes_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(fastlift.UserError, match="one process"):
        calibrate_run(run, ui=None)


def test_a_run_in_training_is_left_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run has taken its place while the logits were computed."""
    from fastlift.engine import calibrate as module

    fit = module._fit

    def replaced(*given: Any) -> Any:
        known = json.loads((run / "run.json").read_text())
        from fastlift.runs.identity import Identity, store_identity

        store_identity(run / "run.json", Identity("f" * 32, known["settings"], known["dtype"]))
        return fit(*given)

    monkeypatch.setattr(module, "_fit", replaced)
    with pytest.raises(fastlift.UserError, match="another run has taken the place"):
        calibrate_run(run, ui=None)
    assert not (run / "calibration.json").exists()


def test_evaluate_keeps_a_row_of_its_own(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrate_run(run, settings={"reject": 0.2}, ui=None)
    assert evaluate.run([str(run), "--calibrated", "--device", "cpu"]) == 0
    assert "Coverage: accepted images" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert set(results["evaluations"]) == {"center", "center (calibrated)"}
    row = results["evaluations"]["center (calibrated)"]
    told = ("coverage", "selective_accuracy", "right_rejected", "coverage_interval")
    for name in (*SINGLE, *told):
        assert row[name] == pytest.approx(found["after"]["test"][name], abs=1e-3), name
    assert results["evaluations"]["center"]["log_loss"] == pytest.approx(found["before"]["test"]["log_loss"], abs=1e-5)
    assert (row["strength"], row["threshold"]) == (found["strength"], found["threshold"])
    assert "center (calibrated)" in (run / "report.html").read_text()
    with pytest.raises(fastlift.UserError, match=r"fitted with --tte none.*--tte fivecrop"):
        evaluate_run(run, settings={"tte": "fivecrop"}, calibrated=True, ui=None)
    shutil.rmtree(run / "predictions")
    (run / "calibration.json").unlink()
    with pytest.raises(fastlift.UserError, match="is not calibrated: fit it with: fastlift calibrate"):
        evaluate_run(run, calibrated=True, ui=None)
    assert not (run / "predictions").exists(), "told before the work"


def test_predict_answers_by_the_fitted_threshold(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one between the two images: the less sure one is none of these, unless another threshold is asked for."""
    calibrate_run(run, settings={"reject": 0.2}, ui=None)
    model = fastlift.load_run(run, calibrated=True, ui=None)
    images = sorted((tiny_data / "test").rglob("*.jpg"), key=lambda image: model.predict(image).probabilities[0])
    ends = [str(images[0]), str(images[-1])]
    least, most = (model.predict(end).probabilities[0] for end in ends)
    stored = json.loads((run / "calibration.json").read_text())
    del stored["blake2b"]
    write_calibration(RunFolder(run), stored | {"threshold": (least + most) / 2})
    flags = [str(run), *ends, "--device", "cpu", "--json"]
    assert predict.run([*flags, "--calibrated"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found[0]["answer"] is None
    assert found[1]["answer"] == found[1]["top"][0]["class"]
    assert [one["top"][0]["probability"] for one in found] == pytest.approx([least, most], abs=1e-5)
    assert predict.run([*flags, "--calibrated", "--threshold", "0"]) == 0
    assert None not in [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert predict.run([*flags]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert None not in [one["answer"] for one in plain]
    assert plain[0]["top"][0]["probability"] != found[0]["top"][0]["probability"]
    file = tmp_path / "found.csv"
    assert predict.run([*flags[:-1], "--calibrated", "--output", str(file)]) == 0
    rows = [line.split(",")[1] for line in file.read_text().splitlines()[1:]]
    assert rows[0] == ""
    assert rows[1] == found[1]["answer"]
    with pytest.raises(fastlift.UserError, match="fitted with --tte none"):
        predict.run([*flags, "--calibrated", "--tte", "fivecrop"])


def test_a_file_that_was_begun_uncalibrated_is_not_gone_on_with(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    calibrate_run(run, ui=None)
    file, images = PredictionFile(tmp_path / "found.csv", "csv", resume=True), ImageSources([tiny_data / "test"])
    for calibrated in (False, True):
        wanted = Wanted(run, None, images, AnswerSettings(), calibrated)
        asked = _asked(file, wanted, Config().override(device="cpu").run)
        assert ("calibration" in asked) == calibrated
        assert asked["threshold"] == 0.0


@pytest.mark.parametrize("format", ["pt2", "onnx"])
def test_an_exported_file_gives_calibrated_logits(run: Path, format: Literal["pt2", "onnx"]) -> None:
    for package in ("onnxscript", "onnxruntime") if format == "onnx" else ():
        pytest.importorskip(package)
    found = calibrate_run(run, settings={"selective_accuracy": 0.3}, ui=None)
    (plain,), (one,) = (
        export_run(run, [format], calibrated=calibrated, measuring=Measuring(images=9, verify=True))
        for calibrated in (False, True)
    )
    assert one.exported.model.name == f"model-calibrated.{format}"
    assert one.measured is not None
    assert one.measured["same_class"] == 1.0
    assert one.measured["largest_difference"] < 1e-4
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, after = (KINDS[format].open(file.exported.model, 1)(images) for file in (plain, one))
    expected = (before.double() + found["strength"] * log_prior(found["class_counts"])) / found["temperature"]
    torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=1e-4)
    told = json.loads(one.exported.description.read_text())["calibration"]
    assert (told["strength"], told["threshold"]) == (found["strength"], found["threshold"])
    assert "calibration" not in json.loads(plain.exported.description.read_text())
    with pytest.raises(fastlift.UserError, match="fitted with --tte none"):
        export_run(run, [format], calibrated=True, ensembling="fivecrop")


def test_a_shared_run_takes_its_calibration_along(
    run: Path, tiny_clip: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is of the checkpoint that is shared: by the same weights it holds there too."""
    monkeypatch.chdir(tiny_clip[0].parent)  # a shared run names no folders
    found = calibrate_run(run, "epoch-001", ui=None)
    shared = publishable(run, tmp_path / "first", "me/run", checkpoint="epoch-001")
    model = fastlift.load_run(shared, calibrated=True, ui=None)
    assert model.calibration is not None
    assert model.calibration.strength == found["strength"]
    assert str(run.parent) not in (shared / "calibration.json").read_text()
    other = publishable(run, tmp_path / "second", "me/run", checkpoint="epoch-002")
    assert not (other / "calibration.json").exists()


def test_a_calibration_is_of_one_checkpoint(run: Path) -> None:
    calibrate_run(run, ui=None)
    with pytest.raises(fastlift.UserError, match="of one checkpoint"):
        evaluate_run(run, ("epoch-001", "epoch-002"), calibrated=True, ui=None)
