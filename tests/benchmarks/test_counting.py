"""What a step does, as it is counted, against PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import benchmarks.gpu.toy  # noqa: F401 - timm knows the model from then on
from benchmarks.counting import ATTENTION_BACKWARD, Shape, evaluation_parts, parts, passes_bytes, step_flop
from benchmarks.gpu.sizes import TOY
from fastlift.evaluation.evaluate import mean_logits
from fastlift.models.create import create_model
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner
from fastlift_kernels.adapter.arguments import MOST_FUSED_RANK


@pytest.mark.parametrize("rank", [4, 8])
@pytest.mark.parametrize("model", ["timm:fastlift_toy_vit", "timm:test_vit"])
def test_flop_of_a_step_are_those_that_pytorch_counts(model: str, rank: int) -> None:
    names = [f"class {i}" for i in range(TOY.classes)]
    lift = create_model(model, class_names=names, rank=rank, pretrained="random", init="random", image_size=32)
    shape = replace(TOY.vit, rank=rank, depth=lift.vit.depth)
    learner = Learner(lift, losses.build("LA", torch.arange(TOY.classes, 0, -1)), OptimizerSettings(lr=0.01))
    images, labels = torch.randn(3, 3, 32, 32), torch.arange(3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        learner.step(images, labels)
    # Written out, attention keeps its scores; the fused kernels that are counted here take a fifth product again.
    again = sum(part.flop for part in parts(shape, 1) if part.group == ATTENTION_BACKWARD) / 5
    assert counter.get_total_flops() / 3 == pytest.approx(step_flop(shape) - again, rel=1e-12)


@pytest.mark.parametrize("model", ["timm:fastlift_toy_vit", "timm:test_vit"])
def test_flop_of_an_evaluation_are_those_that_pytorch_counts(model: str) -> None:
    names = [f"class {i}" for i in range(TOY.classes)]
    lift = create_model(model, class_names=names, rank=4, pretrained="random", init="random", image_size=32)
    shape = replace(TOY.vit, rank=4, depth=lift.vit.depth)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        mean_logits(lift, torch.randn(2, 5, 3, 32, 32))
    for fused in ((), ("attention", "mlp")):
        found = sum(part.flop for part in evaluation_parts(replace(shape, fused=fused), 10))
        assert counter.get_total_flops() / 10 == pytest.approx(found, rel=1e-12)


def test_evaluation_keeps_nothing() -> None:
    """Fused, the MLP's pre-activation is written for backward alone: 4 times [L, D] in the ten blocks that need gradients."""
    shape, token = replace(Shape(), fused=("mlp",)), 197 * 768 * 2
    training, evaluation = (
        sum(part.bytes for part in counted(shape, 512) if part.name == "MLP in, QuickGELU")
        for counted in (parts, evaluation_parts)
    )
    assert (training - evaluation) / token == pytest.approx(10 * 4)


def test_a_vit_b_16_takes_64_7_gflop() -> None:
    assert step_flop(Shape()) == pytest.approx(64.7e9, rel=1e-3)  # as measured: docs/results.md


def test_weights_count_once_a_batch() -> None:
    one, many = (sum(part.bytes for part in parts(Shape(), batch)) for batch in (1, 512))
    frozen = 85e6 * 2  # of a ViT-B/16 in bf16, which backward reads again
    assert 1.5 * frozen < one - many < 3 * frozen


def test_wide_adapters_read_nothing_again() -> None:
    def cached(rank: int) -> float:
        return sum(part.cached for part in parts(replace(Shape(), rank=rank), 128))

    # twice the weights by every 64 tokens, each way; and twice what the 11 other blocks of columns read of the bottleneck
    more = 2 * 2 * 768 * 32 * 2 / 64 + 11 * 2 * 32 * 2
    assert cached(2 * 32) - cached(32) == pytest.approx(11 * 197 * more)
    assert cached(MOST_FUSED_RANK + 1) == 0


def test_kernels_chosen_by_name_leave_out_three_tenths_of_the_bytes_beside_the_products() -> None:
    plain, fused = Shape(), Shape(fused=("attention", "mlp"))
    assert passes_bytes(fused, 512) < 0.7 * passes_bytes(plain, 512)
    assert step_flop(fused) == step_flop(plain)


def test_what_epilogues_read_and_write_counts_as_passes() -> None:
    plain, fused = Shape(), Shape(fused=("mlp",))
    token, blocks = plain.tokens * plain.width * plain.bytes, plain.depth - 1
    # Left out: the activation's 2 x 4 T forward and 3 x 4 T backward (but in the first block), 3 T of the residual.
    # Instead: the pre-activation written and read, 4 T each (but in the first block), and the residual read.
    less = blocks * (8 + 3) + (blocks - 1) * 12 - (blocks - 1) * (4 + 4) - blocks
    assert passes_bytes(plain, 512) - passes_bytes(fused, 512) == pytest.approx(less * token)


def test_attention_in_two_passes_computes_its_scores_twice_and_reads_from_the_caches() -> None:
    def backward(tokens: int) -> tuple[float, float]:
        shape = replace(Shape(), tokens=tokens, fused=("attention",))
        (part,) = (part for part in parts(shape, 1) if part.group == ATTENTION_BACKWARD)
        return part.flop / tokens**2, part.cached

    once, twice = backward(256), backward(257)
    assert twice[0] / once[0] == pytest.approx(7 / 5, rel=1e-3)
    assert once[1] == 0 < twice[1]
