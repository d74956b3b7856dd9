"""The adapter's Triton kernels in the interpreter, through the real op, against float64."""

import pytest
import torch
from error_bounds import assert_within_bounds
from kernel_cases import adapter_case

import fastlift_kernels

pytest.importorskip("triton")

from fastlift_kernels.adapter import fused_backward, op


@pytest.mark.parametrize(
    ("tokens", "width", "rank"),
    [
        (67, 64, 4),
        (1, 136, 1),
        (1, 200, 32),
        (35, 200, 33),
        (5, 64, 256),
        (35, 40, 1),
        (37, 200, 65),
        (5, 200, 129),
        (3, 8, 2),
        (2, 1032, 3),
    ],
)
def test_float32(tokens: int, width: int, rank: int) -> None:
    assert_within_bounds(adapter_case(tokens, width, rank=rank), "triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "width", "rank"), [(35, 128, 4), (17, 200, 32), (3, 64, 256), (65, 136, 64)])
def test_half(dtype: torch.dtype, tokens: int, width: int, rank: int) -> None:
    case = adapter_case(tokens, width, rank=rank, dtype=dtype)
    assert_within_bounds(case, "triton")


def test_outlier_channel() -> None:
    assert_within_bounds(adapter_case(35, 128, rank=16, outlier=300.0), "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("leading", [0.0, 300.0])
def test_leading_columns_unlike_the_rest(dtype: torch.dtype, leading: float) -> None:
    """From them a program guesses a row's mean and size before it has seen the rest: they may be constant, or the outliers."""
    case = adapter_case(9, 136, rank=5, dtype=dtype)
    with torch.no_grad():
        case.tensors["t"][:, :32] *= leading
    assert_within_bounds(case, "triton")


def test_width_of_a_large_backbone() -> None:
    assert_within_bounds(adapter_case(70, 1024, rank=32, dtype=torch.bfloat16), "triton")


@pytest.mark.parametrize("rank", [8, 160])
@pytest.mark.parametrize("need_t", [True, False])
def test_float32_tokens_multiplied_in_a_shorter_dtype(monkeypatch: pytest.MonkeyPatch, rank: int, need_t: bool) -> None:
    """As under autocast on a GPU: the norms, the sums and the residual stay in float32."""
    case = adapter_case(23, 72, rank=rank, need_t=need_t)
    case.products = torch.bfloat16
    monkeypatch.setattr(op, "dtype_of_products", lambda t: torch.bfloat16 if t.dtype == torch.float32 else t.dtype)
    assert_within_bounds(case, "triton")
    exact, cast = case.run("reference", torch.float64), case.run("triton")
    branch = exact["residual"] - case.tensors["t"]
    assert (cast["residual"] - exact["residual"]).norm() > 1e-4 * branch.norm()  # float32 products would be far closer


@pytest.mark.parametrize("ln2", [True, False])
def test_two_epsilons(ln2: bool) -> None:
    case = adapter_case(21, 48, rank=6, ln2=ln2, eps=1e-6, ln_eps=0.3)
    assert_within_bounds(case, "triton")


def test_nothing_below_learns() -> None:
    case = adapter_case(37, 64, rank=8, need_t=False)
    assert_within_bounds(case, "triton")


@pytest.mark.parametrize("rank", [4, 160])
@pytest.mark.parametrize("shape", [(), (1, 1, 1)])
def test_scale_of_any_shape(rank: int, shape: tuple[int, ...]) -> None:
    case = adapter_case(9, 64, rank=rank)
    case.tensors["scale"] = case.tensors["scale"].detach().view(shape).requires_grad_()
    results, expected = case.run("triton"), case.run("reference")
    for name, x in results.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [4, 160])
def test_fixed_scale(rank: int) -> None:
    leaves = adapter_case(9, 64, rank=rank, ln2=False).leaves()
    leaves["scale"] = 0.25
    results = []
    for impl in ("reference", "triton"):
        out = fastlift_kernels.adapter(**leaves, impl=impl)[1]
        results.append((out, *torch.autograd.grad(out.square().sum(), [leaves["t"], leaves["up_weight"]])))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_sums_in_several_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 tokens as shipped, which the interpreter takes long over; the last is not full. They repeat bit by bit."""
    monkeypatch.setattr(fused_backward, "SPLIT_TOKENS", 64)
    case = adapter_case(150, 40, rank=4)
    assert fused_backward.splits_of(150, programs=2, multiprocessors=4) == (3, 64)
    assert_within_bounds(case, "triton")
    first, second = (case.run("triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_empty_and_nan() -> None:
    assert adapter_case(0, 64, rank=4).run("triton")["residual"].shape == (0, 64)
    case = adapter_case(7, 64, rank=4)
    with torch.no_grad():
        case.tensors["t"][3, 5] = float("nan")
    results = case.run("triton")
    for name in ("ln2", "residual", "d_t"):
        assert results[name][3].isnan().all()
        assert not results[name][[0, 1, 2, 4, 5, 6]].isnan().any()


def test_opcheck() -> None:
    arguments = (*adapter_case(3, 16, rank=2).leaves().values(), 1.0, 1e-5, 1e-5, torch.float32, True, "triton")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.fastlift_kernels.adapter_forward.default, arguments, test_utils=checks)
