"""``fastlift export`` of a trained run: which files, what is measured of them, and what is refused before any work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, Told, tiny_recipe

import fastlift
from fastlift.commands import export as command
from fastlift.engine import export as exporting
from fastlift.engine.export import Measuring, export_run
from fastlift.interop.export import verify
from fastlift.interop.export.formats import KINDS


@pytest.fixture(scope="module")
def run(tiny_clip: Files, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = tiny_recipe(tiny_clip, tiny_data, epochs=1, amp="fp32")
    return fastlift.train(recipe, output=tmp_path_factory.mktemp("export") / "run").folder


def test_verify_compares_and_times_every_format(run: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    flags = ["--format", "onnx", "onnx-int8", "pt2", "--verify", "--images", "9", "--batch", "3"]
    assert command.run([str(run), *flags, "--output", str(tmp_path), "--json"]) == 0
    rows = {row["format"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["onnx", "onnx-int8", "pt2"]
    for row in rows.values():
        measured = row["measured"]
        assert measured == json.loads(Path(row["description"]).read_text())["measured"]
        assert (measured["images"], set(measured["latency_ms"])) == (9, {"1", "3"})
        assert measured["run_latency_ms"] == rows["pt2"]["measured"]["run_latency_ms"]
        assert row["bytes"] == Path(row["model"]).stat().st_size
    for name in ("onnx", "pt2"):
        assert rows[name]["measured"]["same_class"] == 1.0
        assert rows[name]["measured"]["accuracy"] == rows[name]["measured"]["run_accuracy"]
        assert rows[name]["measured"]["largest_difference"] < 1e-4
    assert rows["onnx-int8"]["measured"]["largest_difference"] > 1e-4
    assert rows["onnx"]["measured"]["runtime"].startswith("onnxruntime ")
    assert command.run([str(run), *flags, "--output", str(tmp_path), "--overwrite"]) == 0
    table = capsys.readouterr().out
    for text in ("run (eager)", "onnx-int8", "same class", "batch 3", "on 9 test images", "medians"):
        assert text in table


def test_int8_alone_tells_its_accuracy(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    found = export_run(run, ["onnx", "onnx-int8"], output=tmp_path, measuring=Measuring(images=5))
    assert found[0].measured is None
    assert found[1].measured is not None
    assert found[1].measured["images"] == 5
    assert "latency_ms" not in found[1].measured


def test_images_that_are_gone(run: Path, tmp_path: Path) -> None:
    moved = Measuring(data_root=str(tmp_path / "nowhere"))
    with pytest.raises(fastlift.UserError, match=r"onnx-int8 .*nowhere.*--data-root says where.*--images 0"):
        export_run(run, ["pt2", "onnx-int8"], output=tmp_path / "a", measuring=moved)
    assert not (tmp_path / "a").exists()
    told = Told()
    moved = Measuring(verify=True, batch=2, data_root=str(tmp_path / "nowhere"))
    (found,) = export_run(run, ["pt2"], output=tmp_path / "b", measuring=moved, ui=told)
    assert "accuracy is not measured" in told.text
    assert found.measured is not None
    assert "accuracy" not in found.measured
    assert found.measured["latency_ms"]["2"] > 0


def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(exporting, "load_run", never)
    (tmp_path / "model.pt2").write_text("old")
    with pytest.raises(fastlift.UserError, match=r"model\.pt2 exists already; use --overwrite"):
        command.run([str(run), "--format", "pt2", "--output", str(tmp_path)])
    with pytest.raises(fastlift.UserError, match="names one file"):
        command.run([str(run), "--format", "pt2", "onnx", "--output", str(tmp_path / "one.onnx")])
    with pytest.raises(fastlift.UserError, match="opset"):
        command.run([str(run), "--opset", "17"])


def test_the_default_place_and_a_checkpoint(run: Path, tmp_path: Path, capsys: Any) -> None:
    copied = shutil.copytree(run, tmp_path / "copied")
    assert command.run([str(copied), "--format", "pt2", "--checkpoint", "epoch-001"]) == 0
    out = capsys.readouterr().out
    assert str(copied / "export" / "model.pt2") in out
    assert (copied / "export" / "model.pt2.json").is_file()


def test_a_compiler_that_is_missing_is_one_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **more: object) -> None:
        raise RuntimeError("No working C++ compiler found\nand so on")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", missing)
    with pytest.raises(fastlift.UserError, match=r"No working C\+\+ compiler found\); it needs a C\+\+ compiler"):
        export_run(run, ["aoti"], output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_agreement_counts_what_was_planted() -> None:
    """Of four images the run gets three right; the other file gets one of these wrong and the last one right."""
    right = torch.eye(4)
    own = right.clone()
    own[3] = right[0]
    other = right.clone()
    other[1] = right[2]
    batches = [(torch.zeros(4, 1), torch.arange(4))]
    mine, found = verify.agreements({"other": lambda x: other}, lambda x: own, batches)
    assert (mine.images, mine.correct) == (4, 3)
    assert (found["other"].correct, found["other"].same, found["other"].difference) == (3, 2, 1.0)


def test_a_file_whose_logits_of_images_are_nan_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits of the random images are right. max() of Python passes over NaN, which made its difference 0."""
    pt2 = KINDS["pt2"]

    def nan_for_images(path: Path, threads: int) -> Any:
        served, seen = pt2.open(path, threads), []

        def of(images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return served(images) * (torch.nan if len(seen) == 1 else 1.0)  # in the first of the batches alone

        return of if threads == 7 else served

    monkeypatch.setitem(KINDS, "pt2", replace(pt2, open=nan_for_images))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(exporting, "AT_A_TIME", 3)
    measuring = Measuring(verify=True, images=6, batch=2)
    with pytest.raises(
        fastlift.UserError, match=r"^pt2: logits of test images are NaN or infinite.*model\.pt2$"
    ) as told:
        export_run(run, ["pt2", "torchscript"], output=tmp_path, measuring=measuring)
    assert told.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.torchscript", "model.torchscript.json"]


def test_latencies_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    ticks = iter(range(10**6))
    monkeypatch.setattr(verify.time, "perf_counter", lambda: float(next(ticks)))
    served: Any = {name: lambda x, name=name: calls.append((name, len(x))) for name in ("a", "b")}
    found = verify.latencies(served, torch.zeros, (1, 4))
    assert found == {"a": {1: 1000.0, 4: 1000.0}, "b": {1: 1000.0, 4: 1000.0}}
    assert [name for name, _ in calls] == ["a", "b"] * (len(calls) // 2)


def test_every_format_says_how_it_is_loaded() -> None:
    assert all("FILE" in kind.load for kind in KINDS.values())
