"""QuickGELU and GELU on a CPU against float64."""

from typing import Any

import pytest
import torch
from kernel_cases import activation_case

import fastlift_kernels

KINDS = ["quick_gelu", "gelu"]


def both_ways(kind: str, x: torch.Tensor, impl: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = getattr(fastlift_kernels, kind)(x, impl=impl)
    return y, torch.autograd.grad(y, x, torch.linspace(0.5, 2.0, x.numel()).view_as(x).to(x.dtype))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 1003, 50_001])
def test_all_results_are_within_their_bounds(way: Any, kind: str, dtype: torch.dtype, count: int) -> None:
    way.check(activation_case(kind, count, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_far_values_and_nan(isa: str, kind: str) -> None:
    x = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4, float("nan")])
    y, d_x = both_ways(kind, x, "native")
    torch.testing.assert_close(
        y, torch.tensor([0.0, 0.0, 0.0, 50.0, 1e4, float("nan")]), equal_nan=True, atol=1e-30, rtol=1e-6
    )
    seeds = torch.linspace(0.5, 2.0, 6)
    torch.testing.assert_close(d_x[:2], torch.zeros(2), atol=1e-30, rtol=0.0)
    torch.testing.assert_close(d_x[3:5], seeds[3:5])
    assert d_x[5].isnan()


@pytest.mark.parametrize("kind", KINDS)
def test_strided_empty_and_large(native: Any, kind: str) -> None:
    x = torch.randn(40, 30)
    for view in (x.T, x[:, ::3], x[:0], torch.randn(1201, 1024)):
        for expected, got in zip(both_ways(kind, view, "reference"), both_ways(kind, view, "native"), strict=True):
            torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


def test_saves_the_input_alone(native: Any) -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        x = torch.randn(8, requires_grad=True)
        fastlift_kernels.quick_gelu(x, impl="native")
    assert [s.data_ptr() for s in saved] == [x.data_ptr()]


@pytest.mark.parametrize("wrong", [torch.zeros(3, dtype=torch.int32), 3.0])
def test_bad_input(wrong: Any) -> None:
    with pytest.raises(TypeError, match="x: expected"):
        fastlift_kernels.quick_gelu(wrong)
