"""Row-wise quantisation in the interpreter: bit by bit as plain PyTorch, and where LayerNorm or an activation is computed on
the way, where the rounding of float32 can have put it."""

import pytest
import torch
from fused_maths import Steps, activation
from rounding import Bounded, U

import fastlift_kernels

pytest.importorskip("triton")

HALF = torch.bfloat16
LARGEST, SMALLEST = 448.0, 1e-12


def spread(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different sizes."""
    return (torch.randn(rows, width) * torch.logspace(-6, 6, rows)[:, None]).to(dtype)


def assert_rows_of(rounded: torch.Tensor, scale: torch.Tensor, v: Bounded) -> None:
    """Of numbers whose float32 is within its bounds of ``v``: rounding to 8 bits keeps their order."""
    top = v.value.abs().amax(1, keepdim=True).clamp_min(SMALLEST)
    error = v.error.amax(1, keepdim=True) + 4 * U * top
    assert ((scale.double() * LARGEST - top).abs() <= error).all()
    steps = scale.double() * (2.0**-9)  # of the subnormal 8-bit numbers
    margin = v.error + 2 * U * v.most + U * steps
    low, high = (
        ((v.value + side * margin) / scale.double()).clamp(-LARGEST, LARGEST).float().to(torch.float8_e4m3fn).float()
        for side in (-1, 1)
    )
    got = rounded.float()
    assert ((low <= got) & (got <= high)).all()
    assert scale.untyped_storage().nbytes() >= 4 * 256


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (19, 100), (5, 768)])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_as_the_reference(rows: int, width: int, dtype: torch.dtype) -> None:
    x = spread(rows, width, dtype)
    (got, scale), (expected, expected_scale) = (
        fastlift_kernels.quantise_rows(x, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(scale, expected_scale)
    assert scale.untyped_storage().nbytes() >= 4 * 256
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_zeros_and_no_rows() -> None:
    rounded, scale = fastlift_kernels.quantise_rows(torch.zeros(2, 16), impl="triton")
    assert torch.equal(rounded.float() * scale, torch.zeros(2, 16))
    assert fastlift_kernels.quantise_rows(torch.zeros(0, 16), impl="triton")[0].shape == (0, 16)
    one = torch.ones(16)
    rounded, _, mean, _ = fastlift_kernels.layer_norm_quantise(torch.zeros(0, 16), one, None, 1e-5, impl="triton")
    assert rounded.shape == (0, 16)
    assert mean.shape == (0, 1)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (19, 100), (5, 768)])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(rows: int, width: int, dtype: torch.dtype, biased: bool) -> None:
    """Also where the numbers of a row are small beside its eps."""
    x, weight = spread(rows, width, dtype), torch.randn(width).to(dtype)
    bias, d = (torch.randn(width).to(dtype) if biased else None), torch.randn(rows, width).to(dtype)
    rounded, scale, mean, rstd = fastlift_kernels.layer_norm_quantise(x, weight, bias, 1e-5, impl="triton")
    d_x = fastlift_kernels.layer_norm_quantise_backward(d, x, mean, rstd, weight, impl="triton")

    n = Bounded.exact(x)
    m = n.sum(1, keepdim=True) / width
    centred = n - m
    r = 1 / ((centred * centred).sum(1, keepdim=True) / width + 1e-5).sqrt()
    normed = centred * r
    y = normed * weight
    for got, bound in ((mean, m), (rstd, r)):
        assert ((got.double() - bound.value).abs() <= bound.error).all()
    assert_rows_of(rounded, scale, y + bias if bias is not None else y)

    g = Bounded.exact(d) * weight
    along = (g * normed).sum(1, keepdim=True) / width
    exact = (r * (g - g.sum(1, keepdim=True) / width - normed * along)).rounded(dtype)
    assert d_x.dtype == dtype
    assert ((d_x.double() - exact.value).abs() <= exact.error).all()


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (19, 100), (3, 3072)])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_activations(rows: int, width: int, dtype: torch.dtype, kind: str, impl: str) -> None:
    pre, d_y = (3 * torch.randn(rows, width)).to(dtype), spread(rows, width, dtype)
    exact = activation(Bounded.exact(pre), Bounded.exact(d_y), kind, torch.float32, Steps())
    assert_rows_of(*fastlift_kernels.activation_quantise(pre, kind, impl=impl), exact["y"])  # type: ignore[arg-type]
    rows_of_gradient = fastlift_kernels.activation_backward_quantise(d_y, pre, kind, impl=impl)  # type: ignore[arg-type]
    assert_rows_of(*rows_of_gradient, exact["d_x"])


def test_reference_of_layer_norm_is_pytorchs() -> None:
    x, weight, bias, d = torch.randn(7, 96, requires_grad=True), torch.randn(96), torch.randn(96), torch.randn(7, 96)
    y = torch.nn.functional.layer_norm(x, (96,), weight, bias, 1e-5)
    rounded, scale, mean, rstd = fastlift_kernels.layer_norm_quantise(x, weight, bias, 1e-5, impl="reference")
    for got, expected in zip((rounded, scale), fastlift_kernels.quantise_rows(y, impl="reference"), strict=True):
        assert torch.equal(got.float(), expected.float())
    (d_x,) = torch.autograd.grad(y, x, d)
    got = fastlift_kernels.layer_norm_quantise_backward(d, x, mean, rstd, weight, impl="reference")
    torch.testing.assert_close(got, d_x, rtol=1e-4, atol=1e-5)


def test_bad_input() -> None:
    x, one, stat = torch.zeros(2, 16), torch.ones(16), torch.ones(2, 1)
    with pytest.raises(ValueError, match="kind: expected one of quick_gelu, gelu"):
        fastlift_kernels.activation_quantise(x, "relu")
    with pytest.raises(ValueError, match=r"d_y: expected shape \[2, 16\]"):
        fastlift_kernels.activation_backward_quantise(x[:1], x, "gelu")
    with pytest.raises(ValueError, match=r"weight: expected shape \[16\]"):
        fastlift_kernels.layer_norm_quantise(x, one[:8], None, 1e-5)
    with pytest.raises(ValueError, match="eps: expected a finite number above 0"):
        fastlift_kernels.layer_norm_quantise(x, one, None, 0.0)
    with pytest.raises(ValueError, match=r"rstd: expected shape \[2, 1\]"):
        fastlift_kernels.layer_norm_quantise_backward(x, x, stat, one, one)
