"""The served model computes what the trained one computes, for every tuner, with linear tuners folded away."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import CLASS_NAMES
from torch.nn.utils import parametrize

import fastlift
from fastlift.interop.export import serving_model
from fastlift.models.lift import LiftModel
from fastlift.models.tuners.lora import LoRA
from fastlift.models.tuners.ssf import SSF

TUNERS = [
    "adaptformer", "adapter", "lora", "lora_mlp", "vpt_shallow", "vpt_deep", "ssf_attn", "ssf_mlp", "ssf_ln",
    "bias", "layernorm", "mask", "full",
]  # fmt: skip
COMBINATIONS = [
    ("adaptformer", "ssf_ln"),
    ("lora", "ssf_attn", "lora_mlp", "ssf_mlp", "adapter"),
    ("mask", "lora", "ssf_attn"),
    ("adaptformer", "lora", "vpt_deep"),
]


def trained_model(tiny_clip: tuple[Path, Path], tuner: Any, **options: Any) -> LiftModel:
    config, weights = tiny_clip
    options = {"rank": 4, "mask_ratio": 0.1, "prompt_length": 3} | options
    model = fastlift.create_model(config, pretrained=weights, class_names=CLASS_NAMES, tuner=tuner, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("tuner", [*TUNERS, *COMBINATIONS], ids=str)
def test_every_tuner(tiny_clip: tuple[Path, Path], tuner: Any) -> None:
    model = trained_model(tiny_clip, tuner)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    serving = serving_model(model)
    torch.testing.assert_close(serving(images), model(images), rtol=1e-5, atol=1e-4)
    left = [module for module in serving.modules() if isinstance(module, (LoRA, SSF))]
    assert not left
    assert not any(map(parametrize.is_parametrized, serving.modules()))
    assert not any(parameter.requires_grad for parameter in serving.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), "the trained model was changed"


@pytest.mark.parametrize("classifier", ["linear", "l2", "layernorm", "zero_shot"])
def test_every_classifier(tiny_clip: tuple[Path, Path], classifier: Any) -> None:
    tuner = "none" if classifier == "zero_shot" else "adaptformer"
    model = trained_model(tiny_clip, tuner, classifier=classifier)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(serving_model(model)(images), model(images), rtol=1e-5, atol=1e-4)


def test_a_text_classifier_is_served_with_constant_class_features(tiny_clip: tuple[Path, Path]) -> None:
    model = trained_model(tiny_clip, "none", classifier="text", text_tuner=("coop", "clip_adapter", "projection"))
    images = torch.randn(2, 3, 32, 32)
    serving = serving_model(model)
    with torch.no_grad():
        torch.testing.assert_close(serving(images), model(images), rtol=1e-5, atol=1e-4)
    assert sum(p.numel() for p in serving.classifier.parameters()) < 49408


def test_five_crops_are_the_mean(tiny_clip: tuple[Path, Path]) -> None:
    model = trained_model(tiny_clip, "adaptformer")
    images = torch.randn(2, 5, 3, 32, 32)
    wanted = torch.stack([model(images[:, i]) for i in range(5)]).mean(dim=0)
    torch.testing.assert_close(serving_model(model, crops=5)(images), wanted, rtol=1e-5, atol=1e-4)


def test_a_model_in_bf16_is_served_in_fp32(tiny_clip: tuple[Path, Path]) -> None:
    model = trained_model(tiny_clip, "adaptformer")
    model.set_compute_dtype(torch.bfloat16)
    assert {parameter.dtype for parameter in serving_model(model).parameters()} == {torch.float32}
