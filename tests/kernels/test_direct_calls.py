"""Calls of the registered ops that do not come through the public functions: what does not fit raises, nothing is read."""

from typing import Any

import pytest
import torch
from attention_cases import attention_case
from kernel_cases import adapter_case, cosine_case

import fastlift_kernels
from fastlift_kernels.native import library

OPS = torch.ops.fastlift_kernels
N, D, R, B, C = 50, 64, 4, 6, 5


def forward(**change: Any) -> Any:
    arguments = {**adapter_arguments(), "products": torch.float32, "keep": True, "impl": "native"}
    return OPS.adapter_forward(**{**arguments, **change})


def backward(**change: Any) -> Any:
    incoming = {"d_residual": torch.randn(N, D), "d_ln2": torch.randn(N, D)}
    kept = {"statistics": torch.rand(2, N), "hidden": torch.rand(N, R), "weights": torch.rand(0), "sums": torch.rand(0)}
    arguments = {**adapter_arguments(), **incoming, **kept, "need_t": True, "impl": "native"}
    return OPS.adapter_backward(**{**arguments, **change})


def adapter_arguments() -> dict[str, Any]:
    return {**adapter_case(N, D, rank=R).constants(), "fixed_scale": 1.0, "eps": 1e-5, "ln_eps": 1e-5}


def classifier(**change: Any) -> Any:
    numbers = {"scale": 25.0, "tau": 1.0, "label_smoothing": 0.0, "normalize": "both"}
    wanted = {"need_features": True, "need_weight": True, "need_bias": True}
    arguments = {**cosine_case(B, D, C, prior=False).constants(), **numbers, **wanted, "impl": "native"}
    return OPS.cosine_cross_entropy_forward(**{**arguments, **change})


def activation(x: torch.Tensor | None = None, kind: str = "gelu", impl: str = "native") -> Any:
    return OPS.activation_forward(torch.randn(9) if x is None else x, kind, impl)


def activation_backward(d_y: torch.Tensor | None = None) -> Any:
    return OPS.activation_backward(
        torch.randn(1_000_000) if d_y is None else d_y, torch.randn(1_000_000), "gelu", "native"
    )


def attention(**change: Any) -> Any:
    numbers = {"heads": 2, "first": 0, "causal": False, "keep": True}
    return OPS.attention_forward(**{**attention_case(1, 5, 2, 8).constants(), **numbers, **change})


def long(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


HUGE = 10**12
BAD: list[tuple[Any, dict[str, Any], str]] = [
    (forward, {"t": torch.randn(N, 12)}, "t: expected .* multiple of 8"),
    (forward, {"t": torch.randn(N, D).half(), "products": torch.float16}, 't: impl="native" knows'),
    (forward, {"up_weight": torch.randn(R)}, r"up_weight: expected shape \[64, 4\], got \[4\]"),
    (forward, {"down_bias": torch.randn(1)}, "down_bias: expected shape"),
    (forward, {"ln2_bias": None}, "ln2_weight, ln2_bias: expected both or neither"),
    (forward, {"ln_weight": torch.randn(D).double()}, "ln_weight: expected float32"),
    (forward, {"scale": torch.ones(2)}, "scale: expected one element"),
    (forward, {"eps": 0.0}, "eps: expected a finite number above 0"),
    (forward, {"products": torch.float64}, "products: expected torch.float32, or a shorter float"),
    (forward, {"impl": "reference"}, 'impl: expected "native" or "triton"'),
    (forward, {"impl": "cuda"}, 'impl: expected None, "reference", "native" or "triton"'),
    (
        forward,
        {
            "down_weight": torch.zeros(1, D).expand(HUGE, D), "down_bias": torch.zeros(1).expand(HUGE),
            "up_weight": torch.zeros(D, 1).expand(D, HUGE),
        },
        "takes a rank .* up to 512, got 1000000000000",
    ),
    (backward, {"hidden": torch.rand(1, R)}, r"hidden: expected shape \[50, 4\], got \[1, 4\]"),
    (backward, {"hidden": torch.rand(N, R).bfloat16()}, "hidden: expected torch.float32, got torch.bfloat16"),
    (backward, {"statistics": torch.rand(2, 1)}, "statistics: expected shape"),
    (backward, {"statistics": torch.rand(2, N).double()}, "statistics: expected torch.float32"),
    (backward, {"weights": torch.rand(2, 16, D)}, r"weights: expected shape \[0\]"),
    (backward, {"sums": torch.rand(0).double()}, "sums: expected torch.float32"),
    (backward, {"d_residual": torch.randn(1, D)}, "d_residual: expected shape"),
    (backward, {"d_residual": torch.randn(N, D).bfloat16()}, "d_residual: expected torch.float32"),
    (backward, {"d_ln2": torch.randn(N, 8)}, "d_ln2: expected shape"),
    (backward, {"ln2_weight": None, "ln2_bias": None}, "d_ln2: expected None where ln2_weight is None"),
    (backward, {"up_weight": torch.randn(D, R + 1)}, "up_weight: expected shape"),
    (classifier, {"labels": torch.zeros(B, dtype=torch.int32)}, "labels: expected int64"),
    (classifier, {"labels": long(0)}, r"labels: expected int64 of shape \[6\]"),
    (classifier, {"labels": long(0, 1, C, 0, 0, 0)}, "labels: expected 0 to 4, .* got 5 at position 2"),
    (classifier, {"labels": long(0, -(2**63), 0, 0, 0, 0)}, "labels: expected 0 to 4, .* at position 1"),
    (classifier, {"weight": torch.randn(0, D)}, "weight: expected .* at least one class"),
    (classifier, {"log_prior": torch.randn(1)}, r"log_prior: expected shape \[5\]"),
    (classifier, {"class_weight": torch.rand(C + 1)}, r"class_weight: expected shape \[5\]"),
    (classifier, {"bias": torch.randn(C).double()}, "bias: expected float32"),
    (classifier, {"normalize": "l2"}, "normalize: expected"),
    (classifier, {"impl": "reference"}, 'impl: expected "native" or "triton"'),
    (activation, {"kind": "relu"}, "kind: expected one of quick_gelu, gelu, got 'relu'"),
    (activation, {"x": torch.randn(9).half()}, 'x: impl="native" knows'),
    (activation, {"x": torch.zeros(9, dtype=torch.int64)}, "x: expected float32"),
    (activation, {"x": torch.randn(3, 3).to_sparse()}, "x: expected a dense tensor|Sparse"),
    (activation_backward, {"d_y": torch.randn(1)}, r"d_y: expected shape \[1000000\], got \[1\]"),
    (activation_backward, {"d_y": torch.randn(1_000_000).bfloat16()}, "d_y: expected torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.randn(1, 5, 40)}, r"qkv: expected \[B, L, 3D\] with D a multiple of 2 heads"),
        ({"q": torch.randn(1, 5, 16)}, r"q: expected shape \[1, 5, 24\]"),
        ({"cos": torch.ones(3, 8)}, "sin, cos: expected both or neither"),
        ({}, "is not available"),
    ],
)
def test_attention_that_does_not_fit_raises(change: dict[str, Any], message: str) -> None:
    """Its kernels do not run here, so that the call that fits raises as well, for that reason."""
    with pytest.raises((ValueError, RuntimeError), match=message):
        attention(**change)


@pytest.mark.parametrize(("call", "change", "message"), BAD)
def test_what_does_not_fit_raises(native: Any, call: Any, change: dict[str, Any], message: str) -> None:
    call()  # what is changed is the reason
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=message):
        call(**change)


def test_what_forward_kept_may_be_strided(native: Any) -> None:
    case = adapter_case(N, D, rank=R)
    leaves = case.constants()
    statistics, hidden, *_ = forward(**leaves)[2:]
    gradients = {"d_ln2": torch.randn(N, D), "d_residual": torch.randn(N, D)}
    strided = {"statistics": statistics.T.contiguous().T, "hidden": hidden.T.contiguous().T}
    assert not any(x.is_contiguous() for x in strided.values())
    expected = backward(**leaves, **gradients, statistics=statistics, hidden=hidden)
    for one, two in zip(expected, backward(**leaves, **gradients, **strided), strict=True):
        assert torch.equal(one, two)


def test_the_library_refuses_what_python_would_not_give_it(native: Any) -> None:
    x = torch.randn(4)
    block = library.Activation(10**15, 0, 1, 0, 0, library.pointer(x), None, library.pointer(x))
    with pytest.raises(RuntimeError, match="fastlift_activation: sizes out of range, or a missing pointer"):
        library.call("fastlift_activation", block)


def test_rank_beyond_the_kernels_is_refused_by_name(native: Any) -> None:
    down = torch.zeros(1, D).expand(HUGE, D)
    vectors = [torch.randn(D) for _ in range(4)]
    with pytest.raises(ValueError, match="up to 512, got 1000000000000"):
        fastlift_kernels.adapter(
            torch.randn(3, D), *vectors, down, torch.zeros(1).expand(HUGE), torch.zeros(D, 1).expand(D, HUGE),
            vectors[0], 1.0, impl="native",
        )  # fmt: skip
