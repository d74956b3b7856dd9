"""Row-wise quantisation in the interpreter, against plain PyTorch."""

import pytest
import torch

import fastlift_kernels

pytest.importorskip("triton")


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (19, 100), (5, 768)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_the_reference(rows: int, width: int, dtype: torch.dtype) -> None:
    x = (torch.randn(rows, width) * torch.logspace(-6, 6, rows)[:, None]).to(dtype)
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
