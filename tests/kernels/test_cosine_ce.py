"""The classifier with its loss on a CPU: every variant against float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from error_bounds import Draws, assert_errors_as_of_eager, assert_within_bounds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import cosine_case

import fastlift_kernels

VARIANTS: list[dict[str, Any]] = [
    {},
    {"prior": False},
    {"tau": 0.5},
    {"bias": True, "normalize": "none", "scale": 1.0},
    {"normalize": "weight", "scale": 1.0},
    {"bias": True},
    {"weighted": True},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.2, "weighted": True, "bias": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_all_results_are_within_their_bounds(way: Any, variant: dict[str, Any]) -> None:
    way.check(cosine_case(33, 64, 203, **variant))


@pytest.mark.parametrize(("batch", "width", "classes"), [(1, 8, 1), (16, 64, 8142), (500, 16, 5003)])
def test_odd_and_large_shapes(fused: Any, batch: int, width: int, classes: int) -> None:
    fused.check(cosine_case(batch, width, classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "width", "classes"), [(5, 8, 3), (33, 64, 101), (64, 256, 1003)])
def test_errors_over_many_draws(way: Any, batch: int, width: int, classes: int, dtype: torch.dtype) -> None:
    if way.impl == "triton" and dtype != torch.float32:
        pytest.skip("GPUs multiply bfloat16 as it is: eager PyTorch's float32 is no yardstick")
    draws = Draws(cosine_case, (batch, width, classes), (("bias", True), ("weighted", True), ("dtype", dtype)))
    assert_errors_as_of_eager(draws, way.run)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bfloat16_features_and_float32_weight(way: Any, smoothing: float) -> None:
    way.check(cosine_case(33, 64, 101, dtype=torch.bfloat16, label_smoothing=smoothing))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one instruction set for all examples
@given(
    batch=st.integers(1, 70),
    width=st.integers(1, 60),
    classes=st.integers(1, 90),
    bias=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_any_shape(isa: str, batch: int, width: int, classes: int, bias: bool, weighted: bool, seed: int) -> None:
    assert_within_bounds(cosine_case(batch, width, classes, bias=bias, weighted=weighted, seed=seed), "native")


def test_matches_pytorch_written_out() -> None:
    features, weight = torch.randn(6, 16), torch.randn(5, 16)
    labels, prior = torch.tensor([0, 4, 2, 2, -100, 1]), torch.rand(5).log()
    logits = 25.0 * F.normalize(features) @ F.normalize(weight).T
    loss, predictions = fastlift_kernels.cosine_cross_entropy(features, weight, labels, prior, tau=2.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits + 2.0 * prior, labels))
    assert torch.equal(predictions, logits.argmax(1))


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.parametrize("batch", [0, 4])
def test_nothing_counts(native: Any, impl: str, batch: int) -> None:
    features, weight = torch.randn(batch, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    labels = torch.full((batch,), -100)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(features, weight, labels, impl=impl)
    assert loss.isnan()
    assert predictions.shape == (batch,)
    for gradient in torch.autograd.grad(loss, [features, weight]):
        assert not gradient.any()


def test_nan_in_gives_nan_out(isa: str) -> None:
    features, weight, labels = torch.randn(4, 8), torch.randn(3, 8), torch.zeros(4, dtype=torch.int64)
    features[2, 3] = float("nan")
    loss, predictions = fastlift_kernels.cosine_cross_entropy(features, weight, labels, impl="native")
    assert loss.isnan()
    expected = fastlift_kernels.cosine_cross_entropy(features, weight, labels, impl="reference")[1]
    assert torch.equal(predictions, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_classes_of_weight_zero(isa: str, smoothing: float) -> None:
    """A label that must not pull leaves its sample out; its gradient is zero, not 0 / 0."""
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (4, 3))
    labels, class_weight = torch.tensor([0, 1, 2, 0]), torch.tensor([0.0, 1.0, 2.0])
    results = []
    for impl in ("reference", "native"):
        loss, _ = fastlift_kernels.cosine_cross_entropy(
            features, weight, labels, class_weight=class_weight, label_smoothing=smoothing, impl=impl
        )
        results.append((loss, *torch.autograd.grad(loss, [features, weight])))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_strided_parameters(native: Any) -> None:
    case = cosine_case(9, 16, 7, bias=True, weighted=True)
    expected = case.run("native")
    for name, x in case.tensors.items():
        strided = torch.stack([x.detach(), x.detach()], dim=-1)[..., 0]
        assert not strided.is_contiguous()
        case.tensors[name] = strided.requires_grad_(x.requires_grad)
    loss, predictions = fastlift_kernels.cosine_cross_entropy(**case.tensors, impl="native")
    assert torch.equal(loss, expected["loss"])
    assert torch.equal(predictions, expected["predictions"])
    (d_weight,) = torch.autograd.grad(loss, [case.tensors["weight"]], case.gradients[0])
    torch.testing.assert_close(d_weight, expected["d_weight"])


def test_zero_rows_are_not_divided_by_zero(isa: str) -> None:
    features, weight = torch.randn(4, 8), torch.randn(3, 8)
    features[1] = 0.0
    weight[2] = 0.0
    labels = torch.tensor([0, 1, 2, 0])
    losses = [
        fastlift_kernels.cosine_cross_entropy(features, weight, labels, impl=i)[0] for i in ("native", "reference")
    ]
    torch.testing.assert_close(*losses)


def test_gradients_asked_for_twice(native: Any) -> None:
    features, weight = torch.randn(4, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    loss, _ = fastlift_kernels.cosine_cross_entropy(features, weight, torch.tensor([0, 1, 2, 0]), impl="native")
    first = torch.autograd.grad(loss, [features, weight], retain_graph=True)
    second = torch.autograd.grad(2.0 * loss, [features, weight])
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(two, 2.0 * one)


def arguments(**change: Any) -> dict[str, Any]:
    good = {"features": torch.randn(4, 8), "weight": torch.randn(3, 8), "labels": torch.tensor([0, 1, 2, -100])}
    return {**good, **change}


BAD = [
    (arguments(features=torch.randn(4, 2, 8)), ValueError, r"features: expected \[B, D\]"),
    (arguments(weight=torch.randn(3, 9)), ValueError, r"weight: expected shape \[3, 8\], got \[3, 9\]"),
    (arguments(weight=torch.randn(0, 8)), ValueError, r"weight: expected .* at least one class"),
    (arguments(labels=torch.tensor([0, 1, 2])), ValueError, r"labels: expected int64 of shape \[4\]"),
    (arguments(labels=torch.zeros(4)), ValueError, r"labels: expected int64"),
    (arguments(labels=torch.tensor([0, 1, 3, 0])), ValueError, r"labels: expected 0 to 2, .* got 3 at position 2"),
    (arguments(labels=torch.tensor([0, -1, 2, 0])), ValueError, r"labels: expected 0 to 2, .* got -1 at position 1"),
    (arguments(log_prior=torch.randn(4)), ValueError, r"log_prior: expected shape \[3\]"),
    (arguments(log_prior=torch.randn(3, requires_grad=True)), ValueError, r"log_prior: expected a constant"),
    (arguments(bias=torch.randn(2)), ValueError, r"bias: expected shape \[3\]"),
    (arguments(scale=0.0), ValueError, r"scale: expected a finite number above 0"),
    (arguments(features=torch.randn(4, 8).to_sparse()), TypeError, r"features: expected a dense tensor"),
    (arguments(weight=None), TypeError, r"weight: expected a tensor \[C, 8\], got NoneType"),
    (arguments(labels=[0, 1, 2, 0]), TypeError, r"labels: expected a tensor of int64 of shape \[4\], got list"),
    (arguments(scale=None), TypeError, r"scale: expected a number, got NoneType"),
    (arguments(scale=torch.tensor(2.0, requires_grad=True)), TypeError, r"scale: expected a number, got Tensor"),
    (arguments(tau="1"), TypeError, r"tau: expected a number, got str"),
    (arguments(label_smoothing=None), TypeError, r"label_smoothing: expected a number, got NoneType"),
    (arguments(label_smoothing=1.5), ValueError, r"label_smoothing: expected 0 to 1"),
    (arguments(normalize="l2"), ValueError, r"normalize: expected 'both', 'weight' or 'none'"),
]


@pytest.mark.parametrize("impl", ["reference", "native"])
@pytest.mark.parametrize(("given_arguments", "error", "message"), BAD)
def test_bad_input(
    native: Any, impl: str, given_arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastlift_kernels.cosine_cross_entropy(**given_arguments, impl=impl)


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_bad_input_under_compile(native: Any, impl: str) -> None:
    """One graph or none: the message is inside the compiler's exception; labels are looked at when the graph runs."""
    torch._dynamo.reset()  # sizes seen before would become symbols in the message
    compiled = torch.compile(fastlift_kernels.cosine_cross_entropy, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"weight: expected shape \[3, 8\], got \[3, 9\]"):
        compiled(**arguments(weight=torch.randn(3, 9)), impl=impl)
    message = r"labels: expected 0 to 2, .* got 3 at position 2" if impl == "native" else "out of bounds"
    with pytest.raises((ValueError, IndexError), match=message):
        compiled(**arguments(labels=torch.tensor([0, 1, 3, 0])), impl=impl)
