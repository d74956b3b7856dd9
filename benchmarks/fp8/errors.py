"""How far logits and gradients in bf16 and fp8 are from those in fp32, and what the format of the tokens' gradient changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.fp8.emulation import emulated_products, few_bits
from fastlift.bench.train import twins
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.lift import LiftModel
from fastlift.training import losses
from fastlift_kernels.quantise import reference

Backward = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Found:
    """Of one batch: logits [B, C] and the gradients of what trains in the tuner and in the classifier."""

    logits: Tensor
    tuner: Tensor
    head: Tensor


def of_a_large_model(name: str = "ViT-B-16-quickgelu", batch: int = 4) -> dict[str, Any]:
    """Of a large ViT with random weights, adapters that do something, random images and labels."""
    model, _ = twins(name, rank=32, classes=1000)
    side, generator = model.preprocessing.image_size, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.tuner_parameters.items():
            if parameter_name.endswith("up_proj.weight"):
                parameter.normal_(std=0.02, generator=generator)
    images = torch.randn(batch, 3, side, side, generator=generator)
    labels = torch.randint(1000, (batch,), generator=generator)
    return of_a_batch(model, images, labels, torch.arange(1000, 0, -1))


def of_a_batch(model: LiftModel, images: Tensor, labels: Tensor, counts: Tensor) -> dict[str, Any]:
    """Errors relative to fp32 by way; ``counts`` are images of each class."""
    half, eighth = copy.deepcopy(model), copy.deepcopy(model)
    half.set_compute_dtype(torch.bfloat16)
    eighth.set_compute_dtype(torch.bfloat16)
    Fp8Settings("fp8").build(eighth.vit)

    def run(
        of: LiftModel, product: Callable[[Tensor, Tensor], Tensor] = torch.matmul, backward: Backward = nullcontext
    ) -> Found:
        with emulated_products(product):
            return _batch(of, images, labels, counts, backward)

    exact = _batch(model, images, labels, counts, nullcontext)
    ways = {
        "bf16": run(half),
        "fp8": run(eighth),
        "fp8, gradients in e5m2": run(eighth, backward=lambda: _gradients_in(torch.float8_e5m2)),
        "fp8, gradients in bf16": run(eighth, backward=lambda: _gradients_in(torch.bfloat16)),
    }
    return {name: _compare(found, exact) for name, found in ways.items()}


def of_fast_accumulation(rows: int = 64, outputs: int = 64) -> dict[str, Any]:
    """What fast accumulation adds to the error of a product's sums, for the inner sizes of a ViT-B/16."""
    found = {}
    for inner in (768, 2304, 3072):
        generator = torch.Generator().manual_seed(inner)
        x, w = (torch.randn(n, inner, generator=generator) for n in (rows, outputs))
        (a, s), (b, t) = map(reference.quantise_rows_reference, (x, w))
        exact = x.double() @ w.double().T
        rounded = (a.double() * s) @ (b.double() * t).T
        fast = few_bits(a.float(), b.float().T).double() * (s * t.T)
        found[str(inner)] = {
            "rounding": _error(rounded, exact),
            "fast": _error(fast, rounded),
            "both": _error(fast, exact),
        }
    return found


def _batch(model: LiftModel, images: Tensor, labels: Tensor, counts: Tensor, backward: Backward) -> Found:
    for parameter in model.trained().values():
        parameter.grad = None
    features = model.features(images.to(model.vit.compute_dtype))
    loss, _ = losses.build("LA", counts).on_features(model.classifier, features, labels)
    with backward():
        loss.backward()
    tuner, head = (
        torch.cat([parameter.grad.flatten() for parameter in of.values() if parameter.grad is not None])
        for of in (model.tuner_parameters, model.head_parameters)
    )
    with torch.no_grad():
        return Found(model.classifier(features.detach()).float(), tuner, head)


@contextmanager
def _gradients_in(dtype: torch.dtype) -> Iterator[None]:
    """What backward rounds to e4m3 is rounded to another format, with scales of the rows too if it has 8 bits."""
    largest = torch.finfo(dtype).max if dtype == torch.float8_e5m2 else None

    def rounded(x: Tensor) -> tuple[Tensor, Tensor]:
        if largest is None:
            return x.to(dtype), torch.ones(len(x), 1)
        scale = x.float().abs().amax(dim=1, keepdim=True).clamp_min(reference.SMALLEST) / largest
        return (x.float() / scale).to(dtype), scale

    with patch.object(reference, "quantise_rows_reference", rounded):
        yield


def _error(x: Tensor, exact: Tensor) -> float:
    return float((x - exact).norm() / exact.norm())


def _compare(found: Found, exact: Found) -> dict[str, float]:
    """Of the logits the root mean square error over their standard deviation, and the share of equal predictions."""
    return {
        "logits": float((found.logits - exact.logits).square().mean().sqrt() / exact.logits.std()),
        "same_prediction": float((found.logits.argmax(1) == exact.logits.argmax(1)).double().mean()),
        "tuner_gradient": _error(found.tuner, exact.tuner),
        "tuner_gradient_cosine": float(torch.cosine_similarity(found.tuner, exact.tuner, dim=0)),
        "head_gradient": _error(found.head, exact.head),
    }
