"""What a step does, as it is counted, against PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import benchmarks.gpu.toy  # noqa: F401 - timm knows the model from then on
from benchmarks.counting import ATTENTION_BACKWARD, Shape, parts, step_flop
from benchmarks.gpu.sizes import TOY
from fastlift.models.create import create_model
from fastlift.training import losses
from fastlift.training.settings import SGDSettings
from fastlift.training.step import Learner
from fastlift_kernels.adapter.gpu import MOST_FUSED_RANK


@pytest.mark.parametrize("rank", [4, 8])
@pytest.mark.parametrize("model", ["timm:fastlift_toy_vit", "timm:test_vit"])
def test_flop_of_a_step_are_those_that_pytorch_counts(model: str, rank: int) -> None:
    names = [f"class {i}" for i in range(TOY.classes)]
    lift = create_model(model, class_names=names, rank=rank, pretrained="random", init="random", image_size=32)
    shape = replace(TOY.vit, rank=rank, depth=lift.vit.depth)
    learner = Learner(lift, losses.build("LA", torch.arange(TOY.classes, 0, -1)), SGDSettings(lr=0.01))
    images, labels = torch.randn(3, 3, 32, 32), torch.arange(3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        learner.step(images, labels)
    # Written out, attention keeps its scores; the fused kernels that are counted here take a fifth product again.
    again = sum(part.flop for part in parts(shape, 1) if part.group == ATTENTION_BACKWARD) / 5
    assert counter.get_total_flops() / 3 == pytest.approx(step_flop(shape) - again, rel=1e-12)


def test_a_vit_b_16_takes_64_7_gflop() -> None:
    assert step_flop(Shape()) == pytest.approx(64.7e9, rel=1e-3)  # as measured: docs/results.md


def test_weights_count_once_a_batch() -> None:
    one, many = (sum(part.bytes for part in parts(Shape(), batch)) for batch in (1, 512))
    frozen = 85e6 * 2  # of a ViT-B/16 in bf16, which backward reads again
    assert 1.5 * frozen < one - many < 3 * frozen


def test_wide_adapters_read_no_weights_again() -> None:
    def cached(rank: int) -> float:
        return sum(part.cached for part in parts(replace(Shape(), rank=rank), 128))

    assert cached(2 * 32) == 2 * cached(32) > 0
    assert cached(MOST_FUSED_RANK + 1) == 0
