"""What cannot fit is refused before it is made; the bounds are below what is needed in truth, for every tuner."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fixtures import CLASS_NAMES, Files

import fastlift
from fastlift.config import Config
from fastlift.engine import memory
from fastlift.engine import model as training
from fastlift.engine.memory import Work, check_memory, saved_bytes, storages
from fastlift.models import backbones
from fastlift.models import footprint as bounds
from fastlift.models.tuners import TUNERS
from fastlift.system import memory as free

MIB = 2**20
CPU = torch.device("cpu")


def build(tiny_clip: Files, **settings: Any) -> Any:
    return fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, init="random", **settings
    )


@pytest.fixture
def config(tiny_clip: Files) -> Config:
    model = {"model": str(tiny_clip[0]), "pretrained": str(tiny_clip[1]), "amp": "fp32", "device": "cpu"}
    return fastlift.recipes.lift(**model, batch_size=8, eval_batch=8, init="random")


@pytest.fixture
def only_100_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size is ever allocated by these tests, on a machine of any size."""
    monkeypatch.setattr(free, "memory", lambda: memory_of(100 * MIB))


def memory_of(size: int) -> Any:
    from fastlift.system.machine import Memory

    return Memory(size, size)


@pytest.mark.parametrize("tuner", TUNERS)
@pytest.mark.parametrize("layers", [None, 2])
def test_bounds_of_what_trains(tiny_clip: Files, tuner: str, layers: int | None) -> None:
    model = build(tiny_clip, tuner=tuner, rank=None if tuner not in ("adaptformer", "adapter", "lora", "lora_mlp") else 24,
                  layers=layers if tuner not in ("none", "vpt_shallow") else None)  # fmt: skip
    settings = model.tuner_settings
    bound = settings.trained_bytes(model.vit, settings.context(model.vit, len(CLASS_NAMES)))
    real = 4 * sum(parameter.numel() for parameter in model.tuner_parameters.values())
    assert sum(bound.values()) <= real
    if tuner in ("adaptformer", "adapter", "lora", "lora_mlp", "vpt_shallow", "vpt_deep"):
        assert sum(bound.values()) > 0.9 * real


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
@pytest.mark.parametrize("tuner", ["adaptformer", "lora", "vpt_deep", "bias", "full", "ssf_mlp", "none"])
def test_bounds_of_what_is_kept(tiny_clip: Files, tuner: str, recompute: str) -> None:
    model = build(tiny_clip, tuner=tuner)
    model.vit.activation_checkpointing = recompute
    real = saved_bytes(lambda: model.vit(torch.zeros(4, 3, 32, 32)), storages(model))
    settings = model.tuner_settings
    prompts, first = (settings.prompt_length if tuner == "vpt_deep" else 0), (3 if tuner == "none" else 0)
    bound = bounds.kept_bytes(model.vit, 4, prompts, 4, first, recompute)
    assert bound <= real
    assert (bound > real / 6) == (tuner != "none"), "near enough to refuse what is far too large"


def test_the_outline_is_the_model_without_its_numbers(tiny_clip: Files) -> None:
    shape, real = backbones.outline(tiny_clip[0]), backbones.load(tiny_clip[0], tiny_clip[1])
    assert shape is not None
    assert {name: p.shape for name, p in shape.vit.named_parameters()} == {
        name: p.shape for name, p in real.vit.named_parameters()
    }
    assert {p.device.type for p in shape.vit.parameters()} == {"meta"}
    large = backbones.outline(tiny_clip[0], 50_000)
    assert large is not None
    assert large.weights > (50_000 // 8) ** 2 * 48 * 4
    timm_shape = backbones.outline("timm:vit_tiny_patch16_224", 64)
    assert timm_shape is not None
    assert timm_shape.weights == 4 * sum(
        p.numel() for p in timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).parameters()
    )


@pytest.mark.usefixtures("only_100_mib")
@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        ({"image_size": 50_000}, "image_size: 50000"),
        ({"rank": 10**6}, "rank: 1000000"),
        ({"rank": 10**12}, "rank: expected a whole number"),
        ({"tuner": "lora", "rank": 10**6}, "lora_rank: 1000000"),
        ({"tuner": ["adaptformer", "lora"], "rank": 4, "lora_rank": 10**6}, "lora_rank: 1000000"),
        ({"tuner": "vpt_deep", "prompt_length": 10**6}, "prompt_length: 1000000"),
        ({"tuner": "none", "classifier": "text", "text_tuner": "lora", "text_rank": 10**6}, "text_lora_rank: 1000000"),
        (
            {"tuner": "none", "classifier": "text", "text_tuner": "clip_adapter", "clip_adapter_rank": 10**7},
            "clip_adapter_rank: 10000000",
        ),
        ({"tuner": "none", "classifier": "text", "text_tuner": "coop", "coop_length": 10**12}, "coop_length: expected"),
        ({"seed": 2**64}, "seed: expected a whole number from 0"),
        ({"mask_seed": -1}, "mask_seed: expected a whole number from 0"),
    ],
)
def test_models_that_cannot_be(tiny_clip: Files, settings: dict[str, Any], blamed: str) -> None:
    with pytest.raises(fastlift.UserError, match=f"^{blamed}"):
        build(tiny_clip, **settings)


@pytest.mark.usefixtures("only_100_mib")
@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        ({"image_size": 50_000}, "image_size: 50000"),
        ({"rank": 10**6}, "rank: 1000000"),
        ({"tuner": "vpt_deep", "prompt_length": 10**6}, "prompt_length: 1000000"),
        ({"batch_size": 10**6}, "batch_size: 1000000 .*Choose a smaller batch_size; --memory ignore"),
        ({"eval_batch": 10**6}, "eval_batch: 1000000"),
        ({"tte": "random", "tte_crops": 10**6}, "tte_crops: 1000000 .* smaller tte_crops"),
        ({"image_size": 2048, "batch_size": 1, "eval_batch": 1}, "image_size: 2048"),
    ],
)
def test_runs_that_cannot_be(config: Config, settings: dict[str, Any], blamed: str) -> None:
    config = config.override(**settings)
    work = Work.of(config.training, config.run, 10**6, 10**6)
    with pytest.raises(fastlift.UserError, match=f"^{blamed}"):
        check_memory(config.model, config.run, 6, work, CPU)
    check_memory(config.model, config.override(memory="ignore").run, 6, work, CPU)


@pytest.mark.usefixtures("only_100_mib")
def test_only_trainings_are_told_of_a_flag_that_they_have(config: Config, tiny_clip: Files) -> None:
    config, vit = config.override(eval_batch=10**6), build(tiny_clip).vit
    with pytest.raises(fastlift.UserError, match=r"^eval_batch: 1000000 .*Choose a smaller eval_batch$"):
        memory.check_images(vit, config.run, Work.of_evaluation(config.run, 10**6), {}, {}, CPU)


@pytest.mark.usefixtures("only_100_mib")
def test_no_batch_is_larger_than_its_split(config: Config) -> None:
    """A batch size beyond the data set is every image at once, which may well fit."""
    config = config.override(batch_size=10**6, eval_batch=10**6)
    work = Work.of(config.training, config.run, 40, 24)
    assert work == Work(40, 40, 24, batch_size=10**6, copies=3)
    check_memory(config.model, config.run, 6, work, CPU)


def test_no_folder_is_made_for_it(config: Config, tmp_path: Path, tiny_data: Path, monkeypatch: Any) -> None:
    """By the measured forward pass, for what the bound does not tell; and as the command line says it."""
    monkeypatch.setattr(free, "free_bytes", lambda: 1000)
    monkeypatch.setattr(training, "check_memory", lambda *_: None)
    lists = {
        name: tiny_data / f"{name.removesuffix('_list')}.txt" for name in ("train_list", "test_list", "class_names")
    }
    config = config.override(dataset="list", data_root=tiny_data, **lists)
    with pytest.raises(fastlift.UserError, match=r"needs about .* GiB more .*--memory ignore"):
        fastlift.train(config, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_of_a_run_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free, "memory", lambda: memory_of(80 * MIB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free.free_bytes() == 20 * MIB


@pytest.mark.usefixtures("only_100_mib")
@pytest.mark.parametrize("rank", [10**6, 10**12])
def test_adapters_that_cannot_be(rank: int) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(fastlift.UserError, match=r"^rank: "):
        fastlift.add_adapters(model, rank=rank)
    assert all(parameter.requires_grad for parameter in model.parameters()), "left as it was"
