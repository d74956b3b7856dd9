"""A run has one compute dtype: what ``auto`` was when it was made, kept by resuming, evaluating and predicting."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_recipe
from safetensors.torch import load_file

import fastlift
from fastlift.commands import evaluate, predict
from fastlift.config import Config
from fastlift.engine import agreement
from fastlift.engine import evaluate as engine_evaluate
from fastlift.engine.evaluate import evaluate_run
from fastlift.errors import UserError
from fastlift.models import precision
from fastlift.models.lift import LiftModel
from fastlift.system.progress import Quiet


@pytest.fixture(scope="module")
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(tiny_clip, tiny_data, tuner="none", epochs=2, batch_size=8, lr=0.05)


def auto_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What this machine would choose."""
    resolve = precision.resolve_amp

    def chosen(amp: str, *more: Any, **options: Any) -> precision.Amp:
        return resolve(name if amp == "auto" else amp, *more, **options)

    monkeypatch.setattr(agreement, "resolve_amp", chosen)


@pytest.fixture(scope="module")
def trained(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ``auto`` was bf16."""
    with pytest.MonkeyPatch.context() as patch:
        auto_is(patch, "bf16")
        return fastlift.train(settings, output=tmp_path_factory.mktemp("dtypes") / "run").folder


def test_a_resumed_run_keeps_its_dtype(
    settings: Config, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, or after another measurement, ``auto`` may be something else."""
    auto_is(monkeypatch, "bf16")
    run = fastlift.train(settings.override(epochs=2), output=tmp_path / "run").folder
    (run / "results.json").unlink()
    (run / "checkpoints" / "epoch-002.safetensors").unlink()
    auto_is(monkeypatch, "fp32")
    (run / ".replaced").mkdir()  # as a killed --overwrite leaves it: what tells the dtype has to come back first
    shutil.copy(run / "config.json", run / ".replaced")
    for name in ("run.json", "checkpoints"):
        (run / name).rename(run / ".replaced" / name)
    told: list[str] = []
    monkeypatch.setattr(Quiet, "say", lambda self, message: told.append(message))
    resumed = fastlift.train(settings, output=run, resume=True, ui=None)
    assert resumed.model.vit.compute_dtype is torch.bfloat16
    assert any("cpu in bf16 (as the run began)" in line for line in told)
    one, other = (load_file(folder / "checkpoints" / "epoch-002.safetensors") for folder in (run, trained))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_is_graded_in_its_dtype(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto_is(monkeypatch, "fp32")
    assert json.loads((trained / "run.json").read_text())["dtype"] == "bf16"
    own = json.loads((trained / "results.json").read_text())["evaluations"]["center"]
    rows = evaluate_run(trained)
    assert rows == {"center": own}, "the same figures in the same row"
    for amp in ("bf16", "auto"):
        assert evaluate_run(trained, settings={"amp": amp}) == rows
    assert list(evaluate_run(trained, settings={"amp": "fp32"})) == ["center (fp32)"]
    kept = json.loads((trained / "results.json").read_text())["evaluations"]
    assert kept["center"] == own
    assert sorted(kept) == ["center", "center (fp32)"]


def test_fp8_has_a_row_of_its_own(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(trained, tmp_path / "run")  # other tests look at all rows of theirs
    monkeypatch.setattr("fastlift.models.fp8.Fp8Settings.check", lambda *_: None)
    monkeypatch.setattr("fastlift.models.fp8.Fp8Settings.build", lambda *_: 0)
    assert list(evaluate_run(run, settings={"frozen": "fp8"})) == ["center (fp8)"]


def test_commands_take_the_runs_dtype(
    trained: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[torch.dtype] = []
    change = LiftModel.set_compute_dtype
    monkeypatch.setattr(LiftModel, "set_compute_dtype", lambda self, dtype: (asked.append(dtype), change(self, dtype)))
    image = str(tiny_data / "test" / "class0" / "0.jpg")
    assert predict.run([str(trained), image]) == 0
    assert evaluate.run([str(trained), "--json"]) == 0
    assert predict.run([str(trained), image, "--amp", "fp32"]) == 0
    assert asked == [torch.bfloat16, torch.bfloat16, torch.float32]
    capsys.readouterr()


def test_a_run_is_loaded_in_fp32_or_in_the_dtype_that_is_asked_for(trained: Path) -> None:
    asked: dict[Any, torch.dtype] = {None: torch.float32, "auto": torch.bfloat16, "fp16": torch.float16}
    for amp, dtype in asked.items():
        model = fastlift.load_run(trained, **({} if amp is None else {"amp": amp}), device="cpu")
        assert model.vit.compute_dtype == dtype
    with pytest.raises(UserError, match="did you mean fp32"):
        fastlift.load_run(trained, amp="fp3")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="device 'gpu'"):
        fastlift.load_run(trained, device="gpu")


# Numbers that are not finite, where a model is used


def spoilt(model: LiftModel, row: int | None = None) -> LiftModel:
    with torch.no_grad():
        weight = model.classifier.weight
        (weight if row is None else weight[row]).fill_(torch.nan)  # type: ignore[operator, index]
    return model


@pytest.mark.parametrize("row", [None, 2])
def test_a_model_without_finite_logits_is_not_evaluated(
    trained: Path, monkeypatch: pytest.MonkeyPatch, row: int | None
) -> None:
    load = engine_evaluate.load_run
    monkeypatch.setattr(engine_evaluate, "load_run", lambda *arguments, **named: spoilt(load(*arguments, **named), row))
    before = (trained / "results.json").read_bytes()
    with pytest.raises(fastlift.UserError, match="NaN or infinity for all 24 images") as caught:
        evaluate_run(trained)
    assert caught.value.exit_code == 1
    assert (trained / "results.json").read_bytes() == before


def test_zero_shot_without_finite_logits_is_refused(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    build = engine_evaluate.build_model

    def broken(*arguments: Any) -> LiftModel:
        model = build(*arguments)
        with torch.no_grad():
            next(model.vit.parameters()).fill_(torch.nan)
        return model

    monkeypatch.setattr(engine_evaluate, "build_model", broken)
    zero = settings.override(classifier="zero_shot", epochs=0)
    with pytest.raises(fastlift.UserError, match="NaN or infinity for all"):
        engine_evaluate.zero_shot(zero)


def test_images_without_finite_logits_get_no_prediction(
    trained: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastlift.engine import predict as loading

    load = loading.load_run
    monkeypatch.setattr(loading, "load_run", lambda *arguments, **named: spoilt(load(*arguments, **named), 1))
    image = tiny_data / "test" / "class0" / "0.jpg"
    assert predict.run([str(trained), str(image), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{image}: the model gives NaN or infinity for it" in printed.err
