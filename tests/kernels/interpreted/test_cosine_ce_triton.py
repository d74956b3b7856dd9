"""The classifier's Triton kernels in the interpreter, through the real op, against float64."""

from typing import Any

import pytest
import torch

import fastlift_kernels

pytest.importorskip("triton")

VARIANTS: list[dict[str, Any]] = [
    {},
    {"prior": False, "tau": 0.5},
    {"bias": True, "normalize": "none", "scale": 1.0},
    {"normalize": "weight", "scale": 1.0, "bias": True},
    {"weighted": True},
    {"label_smoothing": 0.2, "weighted": True, "bias": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_variants(kernels: Any, variant: dict[str, Any]) -> None:
    kernels.assert_within_budget(kernels.run_cosine, kernels.cosine_case(16, 40, 203, **variant), "triton", factor=3.0)


@pytest.mark.parametrize(("batch", "width", "classes"), [(1, 8, 1), (130, 64, 67), (33, 72, 1003)])
def test_shapes(kernels: Any, batch: int, width: int, classes: int) -> None:
    kernels.assert_within_budget(kernels.run_cosine, kernels.cosine_case(batch, width, classes), "triton", factor=3.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half(kernels: Any, dtype: torch.dtype) -> None:
    case = kernels.cosine_case(33, 64, 101, dtype=dtype)
    exact, eager, fused = (
        kernels.run_cosine(case, impl, kind)
        for impl, kind in (("reference", torch.float64), ("reference", None), ("triton", None))
    )
    for name in ("loss", "d_features", "d_weight"):
        error, allowed = ((x[name].double() - exact[name]).abs().max() for x in (fused, eager))
        assert error <= 2.0 * allowed


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


def test_strided_parameters(kernels: Any) -> None:
    case = kernels.cosine_case(5, 16, 7, bias=True, weighted=True)
    expected = kernels.run_cosine(case, "triton")
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
    x = torch.linspace(-6.0, 6.0, 1031).to(dtype).requires_grad_()
    results = []
    for impl, of in (("reference", x.detach().double().requires_grad_()), ("reference", x), ("triton", x)):
        y = getattr(fastlift_kernels, kind)(of, impl=impl)
        results.append((y, torch.autograd.grad(y.sum(), of)[0]))
    for exact, eager, fused in zip(*results, strict=True):
        allowed = 2.0 * (eager.double() - exact).abs().max() + 1e-6
        assert (fused.double() - exact).abs().max() <= allowed
