"""The classifier's Triton kernels in the interpreter, through the real op, against float64."""

from typing import Any

import pytest
import torch
from error_bounds import assert_within_bounds
from kernel_cases import activation_case, cosine_case

import fastlift_kernels

pytest.importorskip("triton")

from fastlift_kernels.cosine_ce import gpu

VARIANTS: list[dict[str, Any]] = [
    {},
    {"prior": False, "tau": 0.5},
    {"bias": True, "normalize": "none", "scale": 1.0},
    {"normalize": "weight", "scale": 1.0, "bias": True},
    {"weighted": True},
    {"label_smoothing": 0.2, "weighted": True, "bias": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variants(variant: dict[str, Any]) -> None:
    assert_within_bounds(cosine_case(16, 40, 70, **variant), "triton")


@pytest.mark.parametrize(("batch", "width", "classes"), [(1, 8, 1), (50, 24, 67)])
def test_shapes(batch: int, width: int, classes: int) -> None:
    assert_within_bounds(cosine_case(batch, width, classes), "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_chunks_and_parts(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """As beyond 4 million logits and 2048 classes as shipped, which the interpreter takes long over; the last are not full."""
    monkeypatch.setattr(gpu, "CHUNK_FLOATS", 64 * 203)
    monkeypatch.setattr(gpu, "LEAST_PART", 128)
    monkeypatch.setattr(gpu, "BLOCK", 64)
    case = cosine_case(150, 24, 203, bias=True, dtype=dtype)
    assert_within_bounds(case, "triton")
    first, second = (case.run("triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [{}, {"label_smoothing": 0.2, "weighted": True, "bias": True}], ids=str)
def test_half(dtype: torch.dtype, variant: dict[str, Any]) -> None:
    assert_within_bounds(cosine_case(33, 64, 101, dtype=dtype, **variant), "triton")


@pytest.mark.parametrize("batch", [0, 4])
def test_nothing_counts(batch: int) -> None:
    features, weight = torch.randn(batch, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(
        features, weight, torch.full((batch,), -100), impl="triton"
    )
    assert loss.isnan()
    assert predictions.shape == (batch,)
    for gradient in torch.autograd.grad(loss, [features, weight]):
        assert not gradient.any()


def test_strided_parameters() -> None:
    case = cosine_case(5, 16, 7, bias=True, weighted=True)
    expected = case.run("triton")
    for name, x in case.tensors.items():
        strided = torch.stack([x.detach(), x.detach()], dim=-1)[..., 0]
        case.tensors[name] = strided.requires_grad_(x.requires_grad)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(**case.tensors, impl="triton")
    assert torch.equal(loss, expected["loss"])
    assert torch.equal(predictions, expected["predictions"])
    learned = {name: x for name, x in case.tensors.items() if x.requires_grad}
    for name, got in zip(learned, torch.autograd.grad(loss, list(learned.values()), case.gradients[0]), strict=True):
        torch.testing.assert_close(got, expected[f"d_{name}"])


def test_classes_of_weight_zero() -> None:
    features, weight = torch.randn(4, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    labels, class_weight, results = torch.tensor([0, 1, 2, 0]), torch.tensor([0.0, 1.0, 2.0]), []
    for impl in ("reference", "triton"):
        loss, _ = fastlift_kernels.cosine_cross_entropy(features, weight, labels, class_weight=class_weight, impl=impl)
        results.append((loss, *torch.autograd.grad(loss, [features, weight])))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_nan_in_gives_nan_out() -> None:
    features = torch.randn(4, 8)
    features[2, 3] = float("nan")
    labels = torch.zeros(4, dtype=torch.int64)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(features, torch.randn(3, 8), labels, impl="triton")
    assert loss.isnan()
    assert ((predictions >= 0) & (predictions < 3)).all()


@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations(kind: str, dtype: torch.dtype) -> None:
    assert_within_bounds(activation_case(kind, 1031, dtype=dtype), "triton")
