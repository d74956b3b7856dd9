"""Which dtype a CPU is faster in: what is decided by the numbers, what is kept, and that a run keeps its dtype."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import Files, Told

import fastlift
from fastlift.config import Config
from fastlift.engine import evaluate as engine_evaluate
from fastlift.models import backbones
from fastlift.models import precision as products
from fastlift.models.precision import Shape, Speeds, measure, resolve_amp, shape_of, speeds, summarise
from fastlift.runs import folder as runs

TINY = Shape(images=2, tokens=17, width=48, hidden=192, heads=3)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("fp32", "bf16", "faster"),
    [
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5], torch.bfloat16),
        ([1.0, 1.0, 1.0], [1.5, 1.5, 1.5], torch.float32),
        ([1.0, 1.0, 1.0], [0.95, 0.95, 0.95], torch.float32),  # within the margin: noise must not decide
        ([1.0, 9.0, 8.0], [0.5, 4.5, 4.0], torch.bfloat16),  # other work came, and slowed both
        ([1.0, 9.0, 1.0], [1.2, 1.2, 1.2], torch.float32),  # it slowed one of them once
    ],
)
def test_the_choice(fp32: list[float], bf16: list[float], faster: torch.dtype) -> None:
    found = summarise(fp32, bf16, 100e9)
    assert found.faster is faster


def test_what_is_told() -> None:
    assert str(summarise([0.5], [2 / 3], 100e9)) == "a block runs at 200 GFLOP/s in fp32, 150 in bf16"


@pytest.mark.parametrize("shape", [TINY, Shape(images=1, tokens=64, width=8, hidden=8, heads=0)])
def test_measuring(shape: Shape) -> None:
    """It gives numbers, and draws from no generator that a run draws from."""
    state = torch.random.get_rng_state()
    found = measure(shape)
    assert min(found.fp32, found.bf16, found.ratio) > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.inference_mode():
        measure(shape)


def test_shapes(tiny_clip: Files) -> None:
    vit = backbones.load(*tiny_clip).vit
    assert shape_of(vit, 2) == TINY
    assert shape_of(vit, 10**9).images * shape_of(vit, 1).flop == pytest.approx(products.WORK, rel=0.01)
    large = backbones.outline("ViT-L-14", 336)
    assert large is not None
    assert shape_of(large.vit, 128) == Shape(images=1, tokens=577, width=1024, hidden=4096, heads=16)
    huge = backbones.outline("ViT-L-14", 50_000)
    assert huge is not None
    assert shape_of(huge.vit, 128) == Shape(images=1, tokens=1024, width=1024, hidden=4096, heads=16)
    resnet = backbones.outline("RN50")
    assert resnet is not None
    assert shape_of(resnet.vit, 1) == Shape(images=1, tokens=28 * 28, width=128, hidden=128, heads=0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Shape]:
    """What was measured; the cache is empty."""
    found: list[Shape] = []

    def fake(shape: Shape) -> Speeds:
        found.append(shape)
        return Speeds(100.0, 300.0, 3.0)

    monkeypatch.setattr(products, "measure", fake)
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))
    return found


def test_it_is_measured_once(measured: list[Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    assert speeds(TINY) == speeds(TINY)
    assert measured == [TINY]
    other = Shape(2, 17, 48, 96, 3)
    speeds(other)
    assert measured == [TINY, other], "of each shape"
    monkeypatch.setattr(products, "processor_name", lambda: "another processor")
    speeds(TINY)
    assert measured == [TINY, other, TINY]


@pytest.mark.parametrize("damage", ["{", '{"key": {}}', '{"fp32": 1}', "nan"])
def test_a_damaged_file_is_measured_anew(measured: list[Shape], tmp_path: Path, damage: str) -> None:
    speeds(TINY)
    (file,) = (tmp_path / "cache/speeds").iterdir()
    text = json.loads(file.read_text())
    file.write_text(json.dumps({**text, "ratio": float("nan")}) if damage == "nan" else damage)
    assert speeds(TINY).ratio == 3.0
    assert len(measured) == 2
    assert json.loads(file.read_text()) == text


def test_looking_writes_nothing(measured: list[Shape], tmp_path: Path) -> None:
    speeds(TINY, keep=False)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_stops_nothing(measured: list[Shape], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    assert speeds(TINY).ratio == 3.0


def test_resolving(measured: list[Shape]) -> None:
    chosen = resolve_amp("auto", CPU, TINY)
    assert (chosen.dtype, chosen.why) == (torch.bfloat16, "a block runs at 100 GFLOP/s in fp32, 300 in bf16")
    assert resolve_amp("auto", CPU).dtype is torch.float32
    for name, dtype in products.DTYPES.items():
        assert resolve_amp(name, CPU, TINY).dtype is dtype
    assert measured == [TINY], "only where it decides"


def test_a_run_keeps_its_dtype(
    measured: list[Shape], tiny_clip: Files, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is not asked again: not at a resume, not in an evaluation."""
    lists: dict[str, Any] = {f"{split}_list": tiny_data / f"{split}.txt" for split in ("train", "test")}
    lists |= {"class_names": tiny_data / "class_names.txt", "data_root": tiny_data}
    model = {"model": str(tiny_clip[0]), "pretrained": str(tiny_clip[1]), "init": "random"}
    settings: Config = fastlift.recipes.lift("list", **lists, **model, epochs=1, batch_size=16, device="cpu")
    told = Told()
    run = fastlift.train(settings, output=tmp_path / "run", ui=told)
    assert "cpu in bf16 (a block runs at 100 GFLOP/s in fp32, 300 in bf16)" in told.text
    assert run.model.vit.compute_dtype is torch.bfloat16
    folder = runs.RunFolder(run.folder)
    monkeypatch.setattr(products, "measure", lambda shape: Speeds(300.0, 100.0, 1 / 3))
    for file in (tmp_path / "cache/speeds").iterdir():
        file.unlink()
    told = Told()
    engine_evaluate.evaluate_run(run.folder, settings={"amp": "auto"}, ui=told)
    assert "cpu in bf16 (asked for)" in told.text
    folder.results.unlink()
    resumed = fastlift.train(settings, output=tmp_path / "run", resume=True)
    assert resumed.model.vit.compute_dtype is torch.bfloat16
    assert fastlift.train(settings, output=tmp_path / "new").model.vit.compute_dtype is torch.float32
