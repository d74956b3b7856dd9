"""Runs that keep an average of their weights: it is evaluated, saved, loaded and handed out, and what trained stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_recipe
from safetensors.torch import load_file

import fastlift
from fastlift.cli import main
from fastlift.config import Config
from fastlift.engine.export import Measuring, export_run
from fastlift.engine.sharing import publishable
from fastlift.errors import UserError
from fastlift.models.lift import LiftModel
from fastlift.runs import checkpoints
from fastlift.training.step import Learner

DECAY = 0.8


@pytest.fixture(scope="module")
def settings(tiny_clip: Files, tiny_data: Path) -> Config:
    return tiny_recipe(
        tiny_clip, tiny_data, epochs=2, batch_size=8, lr=0.05, log_steps=1, amp="fp32", ema=DECAY, val_share=0.25
    )


@pytest.fixture(scope="module")
def run(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> fastlift.Run:
    return fastlift.train(settings.override(eval_every=1), output=tmp_path_factory.mktemp("averages") / "run", ui=None)


def checkpoint(run: fastlift.Run) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Of the one that was tested: what trained, and its average."""
    tensors = load_file(run.folder / "checkpoints" / f"{run.results['checkpoint']['name']}.safetensors")
    raw = {name: tensor for name, tensor in tensors.items() if name.startswith(("tuner.", "head."))}
    return raw, {name: tensors[f"ema.{name}"] for name in raw}


def same(model: LiftModel, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(parameter, wanted[name]) for name, parameter in model.trained().items())


def test_a_checkpoint_holds_the_average_of_the_steps(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, expected = Learner.step, dict[str, torch.Tensor]()

    def followed(self: Learner, *arguments: Any) -> bool:
        asked = step(self, *arguments)
        for name, parameter in self.parameters.items():
            now = parameter.detach().double()
            expected[name] = DECAY * expected[name] + (1 - DECAY) * now if name in expected else now
        return asked

    monkeypatch.setattr(Learner, "step", followed)
    folder = fastlift.train(settings, output=tmp_path / "run", ui=None).folder
    tensors = load_file(folder / "checkpoints" / "epoch-002.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[f"ema.{name}"].double(), tensor, rtol=1e-6, atol=1e-7)
    steps = json.loads((folder / "results.json").read_text())["steps"]
    assert int(tensors["ema.updates"]) == steps


def test_both_are_evaluated_and_the_average_is_the_runs(run: fastlift.Run) -> None:
    raw, average = checkpoint(run)
    assert not torch.equal(raw["head.weight"], average["head.weight"])
    assert same(run.model, average)
    results = json.loads((run.folder / "results.json").read_text())
    assert results["weights"] == "ema"
    assert list(run.results["evaluations"]) == ["center", "center (raw)"]
    assert results["evaluations"]["center"] == results["metrics"] == run.metrics.to_dict()
    assert results["evaluations"]["center (raw)"]["log_loss"] != results["metrics"]["log_loss"]
    assert (run.folder / "predictions" / "center (raw).safetensors").is_file()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line.get("split") == "val"]
    assert len(validations) == 2
    for line in validations:
        assert line["log_loss"] != line["raw_log_loss"]


def test_one_or_the_other_is_loaded(run: fastlift.Run) -> None:
    raw, average = checkpoint(run)
    assert same(fastlift.load_run(run.folder), average)
    assert same(fastlift.load_run(run.folder, weights="ema"), average)
    assert same(fastlift.load_run(run.folder, weights="raw"), raw)


def test_evaluating_again_gives_the_same(run: fastlift.Run) -> None:
    """Of the best on the validation split, which is also evaluated there as it was on the way."""
    stored = run.results["evaluations"]
    for weights, name in ((None, "center"), ("ema", "center"), ("raw", "center (raw)")):
        rows = fastlift.evaluate_run(run.folder, weights=weights, ui=None)  # type: ignore[arg-type]
        assert list(rows) == [name]
        assert rows[name]["per_class"] == stored[name]["per_class"]
        assert rows[name]["log_loss"] == pytest.approx(stored[name]["log_loss"], rel=1e-5)
    for weights, beside in (("ema", ""), ("raw", "raw_")):
        (row,) = fastlift.evaluate_run(run.folder, split="val", weights=weights, ui=None).values()  # type: ignore[arg-type]
        assert row["log_loss"] == pytest.approx(run.results["validation"][f"{beside}log_loss"], rel=1e-5)


def test_predictions_and_files_are_of_one_or_the_other(
    run: fastlift.Run, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((tiny_data / "test").rglob("*.jpg"))
    for weights in ("ema", "raw"):
        assert not main(["predict", str(run.folder), str(image), "--json", "--amp", "fp32", "--weights", weights])
        told = json.loads(capsys.readouterr().out)
        expected = fastlift.load_run(run.folder, weights=weights).predict(image)  # type: ignore[arg-type]
        assert told["top"][0]["probability"] == pytest.approx(expected.probabilities[0], abs=1e-5)
    said = [
        export_run(run.folder, ["pt2"], output=tmp_path / which, weights=which, measuring=Measuring(0))  # type: ignore[arg-type]
        for which in ("ema", "raw")
    ]
    assert all(one.exported.difference < 1e-4 for (one,) in said)


def test_another_run_starts_from_the_average(run: fastlift.Run, settings: Config, tmp_path: Path) -> None:
    _, average = checkpoint(run)
    found: list[bool] = []
    step = Learner.step

    def first(self: Learner, *arguments: Any) -> bool:
        if not found:
            found.append(same(self.model, average))
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", first)
        fastlift.train(
            settings.override(ema=None, epochs=1, init_from=str(run.folder)), output=tmp_path / "other", ui=None
        )
    assert found == [True]


def test_what_is_pushed_has_both(run: fastlift.Run, tmp_path: Path) -> None:
    raw, average = checkpoint(run)
    draft = publishable(run.folder, tmp_path / "draft", "someone/something")
    (file,) = (draft / "checkpoints").iterdir()
    found = checkpoints.read(file)
    for wanted, weights in ((raw, found.weights("raw")), (average, found.weights()), (average, found.weights("ema"))):
        assert weights.keys() == wanted.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in wanted.items())
    assert {name.partition(".")[0] for name in found.kept} == {"ema"}, "momentum is nobody's else"


def test_there_is_nothing_to_choose_without_an_average(settings: Config, tmp_path: Path) -> None:
    plain = fastlift.train(settings.override(ema=None, epochs=1), output=tmp_path / "plain", ui=None)
    assert "weights" not in plain.results
    for weights in ("ema", "raw"):
        with pytest.raises(UserError, match=f"^weights {weights}: this run keeps no average of its weights"):
            fastlift.load_run(plain.folder, weights=weights)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="keeps no average"):
            fastlift.evaluate_run(plain.folder, weights=weights, ui=None)  # type: ignore[arg-type]


def test_the_best_on_the_way_is_the_averages(settings: Config, tmp_path: Path) -> None:
    """Where a checkpoint before the last is the best, both of its sets of weights are tested."""
    alike = settings.override(eval_every=0.5, best_by="worst_class", lr=1e-5)  # of equal ones the earlier
    run = fastlift.train(alike, output=tmp_path / "run", ui=None)
    assert run.results["checkpoint"]["step"] < run.results["steps"], "the last is the best: the case is not met"
    raw, average = checkpoint(run)
    assert same(run.model, average)
    rows = fastlift.evaluate_run(run.folder, weights="raw", ui=None)
    assert rows["center (raw)"]["per_class"] == run.results["evaluations"]["center (raw)"]["per_class"]
    assert same(fastlift.load_run(run.folder, weights="raw"), raw)
