"""Models and learners to time: random weights, random images, everything on the device."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.sizes import TOY, Sizes
from fastlift.models.create import create_model
from fastlift.models.lift import LiftModel
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner


@functools.cache
def _model(sizes: Sizes, rank: int) -> LiftModel:
    """On the CPU, in fp32: drawing it takes seconds, copying it none."""
    if sizes is TOY:
        import benchmarks.gpu.toy  # noqa: F401 - timm knows the model from then on
    names = [f"class {i}" for i in range(sizes.classes)]
    return create_model(
        sizes.model, class_names=names, rank=rank, pretrained="random", init="random", image_size=sizes.image_size
    )


def model_of(bench: Bench, rank: int) -> LiftModel:
    """A LIFT model of its own on the device, computing in the run's dtype."""
    model = copy.deepcopy(_model(bench.sizes, rank)).to(bench.device)
    model.set_compute_dtype(bench.dtype)
    return model


def learner_of(bench: Bench, model: LiftModel, micro_batch: int | None = None) -> Learner:
    """LIFT's loss and optimiser on a long tail of counts."""
    loss = losses.build("LA", torch.arange(bench.sizes.classes, 0, -1)).to(bench.device)
    return Learner(model, loss, OptimizerSettings(lr=0.01), micro_batch=micro_batch)


def batch_of(bench: Bench, model: LiftModel, images: int) -> tuple[Tensor, Tensor]:
    """(images [B, 3, S, S], labels [B])."""
    side = model.preprocessing.image_size
    drawn = torch.randn(images, 3, side, side, device=bench.device, dtype=bench.dtype)
    return drawn, torch.randint(bench.sizes.classes, (images,), device=bench.device)
