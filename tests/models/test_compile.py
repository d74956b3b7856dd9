"""Compilation: one graph without breaks for training and one for evaluation, whatever the last batch's size."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, tiny_batch, tiny_learner
from torch import nn
from torch._dynamo.utils import counters

import fastlift
from fastlift.engine import evaluate as engine_evaluate
from fastlift.models import compile as compiling
from fastlift.models.compile import CompileSettings, compile_backbone, training_tflop
from fastlift.models.lift import LiftModel
from fastlift.models.resizing import Resizer
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner
from fastlift_kernels import code_digest, dispatch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def build(tiny_clip: Files, **settings: Any) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, **settings)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and differentiated as always, then run op by op: inductor's minutes prove nothing here."""
    compile_module = nn.Module.compile

    def quick(self: nn.Module, *, mode: str, **options: Any) -> None:
        compile_module(self, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", quick)
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_two_graphs_no_breaks_no_recompilation(tiny_clip: Files, device: torch.device, recompute: Any) -> None:
    plain, model = build(tiny_clip).to(device), build(tiny_clip).to(device)
    model.vit.activation_checkpointing = recompute
    compile_backbone(model, "default", {4})
    loss = fastlift.losses.build("LA", CLASS_COUNTS).to(device)
    expected, found = Learner(plain, loss, OptimizerSettings(lr=0.05)), Learner(model, loss, OptimizerSettings(lr=0.05))
    for size in (4, 4, 3, 4, 1):
        images, labels = torch.randn(size, 3, 32, 32).to(device), torch.arange(size, device=device)
        expected.step(images, labels)
        found.step(images, labels)
    assert found.sums.read() == pytest.approx(expected.sums.read(), rel=1e-4)
    with torch.inference_mode():
        for size in (4, 2, 4):
            images = torch.randn(size, 3, 32, 32).to(device)
            torch.testing.assert_close(model(images), plain(images), rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("tuner", ["lora", "adapter", "ssf_attn", "vpt_deep", "mask", "bias"])
def test_other_tuners_are_one_graph_too(tiny_clip: Files, tuner: str) -> None:
    some = tiny_learner(tiny_clip, model={"tuner": tuner})
    compile_backbone(some.model, "default", {4})
    some.step(*tiny_batch(some, size=4))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("traced")
def test_each_image_size_is_one_graph(tiny_clip: Files) -> None:
    """Also where there are more of them than torch would compile by itself, and where training goes back to one."""
    plain, model = build(tiny_clip, tuner="vpt_deep"), build(tiny_clip, tuner="vpt_deep")
    loss = fastlift.losses.build("LA", CLASS_COUNTS)
    expected, found = Learner(plain, loss, OptimizerSettings(lr=0.05)), Learner(model, loss, OptimizerSettings(lr=0.05))
    sides = (16, 24, 32)
    with torch._dynamo.config.patch(recompile_limit=2):
        compile_backbone(model, "default", {4}, image_sizes=len(sides))
        resizers = Resizer(plain.vit), Resizer(model.vit)
        for side in (*sides, *sides):
            for resizer in resizers:
                resizer.resize(side)
            for size in (4, 4, 3):
                images, labels = torch.randn(size, 3, side, side), torch.arange(size)
                expected.step(images, labels)
                found.step(images, labels)
    assert found.sums.read() == pytest.approx(expected.sums.read(), rel=1e-4)
    assert counters["stats"]["unique_graphs"] == len(sides)
    assert not counters["graph_break"]


def test_auto_waits_for_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: True)
    assert CompileSettings("auto").plan(CPU, 99, 1.0).mode is None
    assert CompileSettings("auto").plan(CPU, 100, 1.0).mode == "default"
    assert CompileSettings("auto").plan(CPU, 100, 0.02).mode is None
    assert CompileSettings("auto").plan(GPU, 1000, 0.0).mode == "default"
    assert CompileSettings("auto").plan(GPU, 1000, 0.0, sizes=3).mode is None
    assert "warm-ups of 3 image sizes" in CompileSettings("auto").plan(GPU, 1000, 0.0, sizes=3).reason
    assert CompileSettings("auto").plan(CPU, 300, 1.0, sizes=3).mode == "default"
    assert CompileSettings("auto").plan(CPU, 299, 1.0, sizes=3).mode is None
    assert CompileSettings("off").plan(GPU, 10**6, 1.0).mode is None
    assert CompileSettings("max").plan(CPU, 1, 1.0).mode == "max-autotune-no-cudagraphs"
    assert [CompileSettings(name).captures for name in ("auto", "off", "default", "max")] == [False, False, False, True]
    assert "would not earn" in CompileSettings("auto").plan(CPU, 20, 1.0).reason
    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: False)
    without = CompileSettings("auto").plan(CPU, 10**6, 1.0)
    assert without.mode is None
    assert "C++ compiler" in without.reason


def test_work_of_a_step(tiny_clip: Files) -> None:
    """Twice the frozen products forward: 2 FLOP a weight of the blocks and a token, and attention."""
    model = build(tiny_clip, rank=4)
    vit: Any = model.vit
    weights = sum(p.numel() for p in vit.blocks.parameters() if p.dim() == 2)
    rough = 2 * 2 * 8 * weights * vit.sequence_length / 1e12
    assert 0.5 * rough < training_tflop(model, 8) < 1.5 * rough


def test_grading_compiles_for_its_own_batches(
    tiny_clip: Files, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: None
) -> None:
    """Five crops of 3 images make full batches of 15; the last batch and another ensembling stay eager."""
    lists = {"train_list": tiny_data / "train.txt", "test_list": tiny_data / "test.txt"}
    names = {"class_names": tiny_data / "class_names.txt", "data_root": tiny_data}
    files = {"model": str(tiny_clip[0]), "pretrained": str(tiny_clip[1])}
    config = fastlift.recipes.lift("list", **lists, **names, **files, epochs=0, device="cpu", amp="fp32", eval_batch=17)
    run = fastlift.train(config, output=tmp_path / "run")
    sizes: list[set[int]] = []
    compiled = engine_evaluate.compile_backbone
    monkeypatch.setattr(
        engine_evaluate, "compile_backbone", lambda m, mode, s: (sizes.append(s), compiled(m, mode, s))[1]
    )
    eager = engine_evaluate.evaluate_run(run.folder, settings={"tte": "fivecrop", "compile": "off"})
    fast = engine_evaluate.evaluate_run(run.folder, settings={"tte": "fivecrop", "compile": "default"})
    assert sizes == [{15}]
    figures = {name: value for name, value in eager["fivecrop"].items() if isinstance(value, float)}
    assert {name: fast["fivecrop"][name] for name in figures} == pytest.approx(figures, rel=1e-4)


def test_compiled_graphs_are_kept_by_the_kernels_code(
    tiny_clip: Files, traced: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # as it was is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compile_backbone(build(tiny_clip), "default", {4})
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).name == code_digest()
    copy = shutil.copytree(
        Path(dispatch.__file__).parent, tmp_path / "kernels", ignore=shutil.ignore_patterns("_native*")
    )
    assert code_digest(copy) == code_digest()
    (copy / "adapter" / "registered.py").write_text("other = 1\n")
    assert code_digest(copy) != code_digest()
