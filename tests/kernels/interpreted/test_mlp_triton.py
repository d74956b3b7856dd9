"""The MLP's Triton products in the interpreter, through the real op, against float64."""

from typing import Any

import pytest
import torch
from error_bounds import assert_within_bounds
from kernel_cases import mlp_case

import fastlift_kernels

pytest.importorskip("triton")

HALF = torch.bfloat16


@pytest.mark.parametrize("kind", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("dtype", [HALF, torch.float16])
@pytest.mark.parametrize("scaled", [False, True])
def test_kinds(kind: str, dtype: torch.dtype, scaled: bool) -> None:
    assert_within_bounds(mlp_case(37, 64, hidden=96, dtype=dtype, kind=kind, scaled=scaled), "triton")


@pytest.mark.parametrize(
    ("shape", "hidden"), [((1, 8), 8), ((67, 40), 200), ((2, 35, 72), 136), ((3, 1, 33), 50), ((130, 32), 64)]
)
def test_shapes(shape: tuple[int, ...], hidden: int) -> None:
    """Widths that fill no tile, odd ones, a single token, and more row tiles than a group has."""
    assert_within_bounds(mlp_case(*shape, hidden=hidden, dtype=HALF), "triton")


def test_without_biases() -> None:
    assert_within_bounds(mlp_case(19, 40, hidden=64, dtype=HALF, biases=False), "triton")


def test_keeps_nothing_where_nothing_below_learns() -> None:
    case = mlp_case(21, 40, hidden=64, dtype=HALF, need_x=False)
    assert_within_bounds(case, "triton")
    assert _kept(case) == []
    case.tensors["x"].requires_grad_()  # type: ignore[union-attr]
    weights = [case.tensors["in_weight"].numel(), case.tensors["out_weight"].numel()]  # type: ignore[union-attr]
    assert _kept(case) == [21 * 64, *weights]


def _kept(case: Any) -> list[int]:
    """Sizes of what the op keeps for backward."""
    saved: list[int] = []
    leaves = case.leaves() | {n: case.tensors[n] for n in ("in_weight", "out_weight")}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        fastlift_kernels.mlp(**leaves, **case.options, impl="triton")
    return saved


def test_empty_and_nan() -> None:
    assert mlp_case(0, 40, hidden=64, dtype=HALF).run("triton")["y"].shape == (0, 40)
    case = mlp_case(40, 40, hidden=64, dtype=HALF)
    with torch.no_grad():
        case.tensors["x"][33, 5] = float("nan")  # type: ignore[index]
    results = case.run("triton")
    others = torch.arange(40) != 33
    for name in ("y", "d_x"):
        assert results[name][33].isnan().all()
        assert not results[name][others].isnan().any()


def test_strided_arguments() -> None:
    case = mlp_case(9, 24, hidden=40, dtype=HALF, scaled=True)
    expected = case.run("triton")
    for name, x in case.tensors.items():
        if x is not None:
            strided = torch.stack([x.detach(), x.detach()], dim=-1)[..., 0]
            case.tensors[name] = strided.requires_grad_(x.requires_grad)
    leaves = dict(case.tensors)
    y = fastlift_kernels.mlp(**leaves, kind="quick_gelu", impl="triton")  # type: ignore[arg-type]
    assert torch.equal(y, expected["y"])
    (d_x,) = torch.autograd.grad(y, [leaves["x"]], case.gradients)  # type: ignore[list-item]
    assert torch.equal(d_x, expected["d_x"])


@pytest.mark.parametrize("scaled", [False, True])
def test_opcheck(scaled: bool) -> None:
    leaves = mlp_case(5, 16, hidden=24, dtype=HALF, scaled=scaled).leaves()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    ops = torch.ops.fastlift_kernels
    torch.library.opcheck(ops.mlp_forward.default, (*leaves.values(), "gelu", True, "triton"), test_utils=checks)
    x, pre = leaves["x"], torch.randn(5, 24, dtype=HALF)
    kept = (leaves["in_weight"], leaves["out_weight"], leaves["scale"])
    torch.library.opcheck(
        ops.mlp_backward.default,
        (x.detach(), pre, *kept, "gelu", "triton"),
        test_utils=checks,  # type: ignore[union-attr]
    )
