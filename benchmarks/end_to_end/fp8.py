"""What ``--frozen fp8`` does to the logits, emulated on a CPU by torch's own scaled product; its speed needs a GPU."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fastlift import recipes
from fastlift.bench.train import twins
from fastlift.data.loading.loader import build_loader
from fastlift.engine.build import load_data
from fastlift.engine.train import train
from fastlift.evaluation.settings import EnsemblingSettings
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.lift import LiftModel
from fastlift.system.progress import Quiet


def effect_on_a_trained_model() -> dict[str, Any]:
    """LIFT trained on the embedded set in fp32, tested with frozen weights in fp32, bf16 and fp8."""
    config = recipes.lift("shapes_lt", amp="fp32")
    with TemporaryDirectory() as folder:
        model = train(config, output=Path(folder) / "run").model
    loader = build_loader(
        load_data(config.data, Quiet()).test,
        EnsemblingSettings().build(model.preprocessing),
        batch_size=128,
        shuffle=False,
        mean=model.preprocessing.mean,
        std=model.preprocessing.std,
    )
    batches = [(images, labels) for images, labels, _ in loader.epoch(0)]
    labels = torch.cat([labels for _, labels in batches])
    logits = {name: _logits(variant, batches) for name, variant in _variants(model).items()}
    found = {name: _compare(of, logits["fp32"]) for name, of in logits.items() if name != "fp32"}
    accuracies = {name: 100 * float((of.argmax(1) == labels).double().mean()) for name, of in logits.items()}
    return {"against_fp32": found, "accuracy": accuracies, "images": len(labels)}


def effect_on_a_large_model(name: str, batch: int = 16) -> dict[str, Any]:
    """The same for the logits of a large ViT with random weights and random images."""
    model, _ = twins(name, rank=32, classes=1000)
    side = model.preprocessing.image_size
    batches = [(torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)), torch.zeros(batch))]
    logits = {kind: _logits(variant, batches) for kind, variant in _variants(model).items()}
    return {kind: _compare(of, logits["fp32"]) for kind, of in logits.items() if kind != "fp32"}


def _variants(model: LiftModel) -> dict[str, LiftModel]:
    half, eighth = copy.deepcopy(model), copy.deepcopy(model)
    half.set_compute_dtype(torch.bfloat16)
    eighth.set_compute_dtype(torch.bfloat16)
    Fp8Settings("fp8").build(eighth.vit)
    return {"fp32": model, "bf16": half, "fp8": eighth}


@torch.inference_mode()
def _logits(model: LiftModel, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    dtype = model.vit.compute_dtype
    return torch.cat([model(images.to(dtype)).float() for images, _ in batches])


def _compare(logits: Tensor, exact: Tensor) -> dict[str, float]:
    """Root mean square error over the standard deviation of the logits, and share of equal predictions."""
    error = (logits - exact).square().mean().sqrt() / exact.std()
    return {
        "relative_error": float(error),
        "same_prediction": float((logits.argmax(1) == exact.argmax(1)).double().mean()),
    }
