"""The adapter op against float64: every variant, in every instruction set of a CPU and on GPUs."""

from typing import Any

import pytest
import torch
from error_bounds import Draws, assert_errors_as_of_eager, assert_within_bounds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kernel_cases import adapter_case
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import fastlift_kernels

SHAPES = [((67,), 64, 4), ((1,), 768, 32), ((3, 41), 768, 33), ((59,), 1024, 256), ((77,), 40, 1), ((5, 2, 3), 8, 512)]


@pytest.mark.parametrize(("leading", "width", "rank"), SHAPES)
def test_all_results_are_within_their_bounds(way: Any, leading: tuple[int, ...], width: int, rank: int) -> None:
    way.check(adapter_case(*leading, width, rank=rank))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "width", "rank"), [(5, 16, 3), (84, 88, 27), (197, 768, 32)])
def test_errors_over_many_draws(way: Any, tokens: int, width: int, rank: int, dtype: torch.dtype) -> None:
    if way.impl == "triton" and dtype != torch.float32:
        pytest.skip("GPUs multiply bfloat16 as it is: eager PyTorch's float32 is no yardstick")
    draws = Draws(adapter_case, (tokens, width), (("rank", rank), ("dtype", dtype)))
    assert_errors_as_of_eager(draws, way.run)


@pytest.mark.parametrize("rank", [4, 32])
def test_bfloat16(way: Any, rank: int) -> None:
    case = adapter_case(67, 200, rank=rank, dtype=torch.bfloat16)
    way.check(case)


def test_parameters_in_the_dtype_of_the_tokens(fused: Any) -> None:
    case = adapter_case(19, 64, rank=8, dtype=torch.bfloat16, parameter_dtype=torch.bfloat16)
    fused.check(case)


def test_outlier_channel(way: Any) -> None:
    way.check(adapter_case(33, 256, rank=16, outlier=300.0))


@pytest.mark.parametrize("ln2", [True, False])
def test_two_epsilons(way: Any, ln2: bool) -> None:
    case = adapter_case(21, 48, rank=6, ln2=ln2, eps=1e-6, ln_eps=0.3)
    way.check(case)


def test_nothing_below_learns(fused: Any) -> None:
    case = adapter_case(50, 64, rank=8, need_t=False)
    ln2, residual = fastlift_kernels.adapter(**case.on(fused.device).leaves(), impl=fused.impl)
    assert not ln2.requires_grad  # or the frozen MLP behind it would save its input
    assert residual.requires_grad
    fused.check(case)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one instruction set for all examples
@given(
    tokens=st.integers(1, 130),
    width=st.integers(1, 40).map(lambda n: 8 * n),
    rank=st.integers(1, 80),
    bf16=st.booleans(),
    ln2=st.booleans(),
    seed=st.integers(0, 2**20),
)
@example(tokens=4, width=200, rank=2, bf16=False, ln2=False, seed=1)
@example(tokens=39, width=312, rank=1, bf16=False, ln2=True, seed=115)
@example(tokens=39, width=312, rank=1, bf16=False, ln2=False, seed=115)
def test_any_shape(isa: str, tokens: int, width: int, rank: int, bf16: bool, ln2: bool, seed: int) -> None:
    dtype = torch.bfloat16 if bf16 else torch.float32
    assert_within_bounds(adapter_case(tokens, width, rank=rank, dtype=dtype, ln2=ln2, seed=seed), "native")


@pytest.mark.parametrize("offset", [0.0, 1e-9, -1e-9, 1e-7, -1e-7])
def test_hidden_values_within_rounding_of_the_kink(way: Any, offset: float) -> None:
    """Rounding decides on which side of zero they fall, and with that on whole terms of the sums."""
    case = adapter_case(23, 64, rank=3)
    t, weight, bias = (case.tensors[name].detach().double() for name in ("t", "ln_weight", "ln_bias"))
    normed = torch.nn.functional.layer_norm(t[:1], (64,), weight, bias)
    with torch.no_grad():
        case.tensors["down_bias"].copy_(offset - (normed @ case.tensors["down_weight"].double().T)[0])
    way.check(case)


def test_large_call_streams_past_the_caches(fused: Any) -> None:
    fused.check(adapter_case(1501, 768, rank=32))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_repeats_bit_by_bit(fused: Any, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        case = adapter_case(201, 128, rank=20)
        first, second = (fused.run(case) for _ in range(2))
        fused.check(case)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_strided_tokens_and_gradients(native: Any) -> None:
    case = adapter_case(9, 6, 64, rank=8)
    expected = case.run("native")
    strided = case.tensors["t"].detach().transpose(0, 1).contiguous().transpose(0, 1)
    case.tensors["t"] = strided.requires_grad_()
    case.gradients = [g.transpose(0, 1).contiguous().transpose(0, 1) for g in case.gradients]
    leaves = {
        name: None if x is None else x.detach().requires_grad_(x.requires_grad) for name, x in case.tensors.items()
    }
    assert not leaves["t"].is_contiguous()
    ln2, residual = fastlift_kernels.adapter(**leaves, impl="native")
    grads = torch.autograd.grad([ln2, residual], [leaves["t"], leaves["up_weight"]], case.gradients)
    for name, x in (("ln2", ln2), ("residual", residual), ("d_t", grads[0]), ("d_up_weight", grads[1])):
        assert torch.equal(expected[name], x)


def test_serial_adapter_and_fixed_scale(native: Any) -> None:
    case = adapter_case(30, 64, rank=4, ln2=False)
    case.tensors["scale"] = None
    leaves = case.leaves()
    leaves.pop("scale")
    results = []
    for impl in ("reference", "native"):
        ln2, out = fastlift_kernels.adapter(**leaves, scale=0.25, impl=impl)
        assert ln2 is None
        results.append((out, *torch.autograd.grad(out.square().sum(), [leaves["t"], leaves["up_weight"]])))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
    normed = torch.nn.functional.layer_norm(leaves["t"], (64,), leaves["ln_weight"], leaves["ln_bias"])
    hidden = torch.relu(normed @ leaves["down_weight"].T + leaves["down_bias"])
    expected = leaves["t"] + 0.25 * (hidden @ leaves["up_weight"].T + leaves["up_bias"])
    torch.testing.assert_close(results[1][0], expected)


def test_trainable_ln2_gets_its_gradients(fused: Any) -> None:
    case = adapter_case(12, 64, rank=4)
    case.tensors["ln2_weight"].requires_grad_()
    case.tensors["ln2_bias"].requires_grad_()
    assert "d_ln2_weight" in fused.run(case)
    fused.check(case)


def test_only_one_output_is_used(native: Any) -> None:
    case = adapter_case(12, 64, rank=4)
    for which in (0, 1):
        grads = []
        for impl in ("reference", "native"):
            leaves = case.leaves()
            out = fastlift_kernels.adapter(**leaves, impl=impl)[which]
            grads.append(torch.autograd.grad(out.square().sum(), [leaves["t"]])[0])
        torch.testing.assert_close(grads[1], grads[0])


def test_empty_batch(native: Any) -> None:
    results = adapter_case(0, 64, rank=4).run("native")
    assert results["residual"].shape == (0, 64)
    assert results["d_t"].shape == (0, 64)
    assert all(not x.any() for name, x in results.items() if name.startswith("d_"))


def test_nan_stays_in_its_token(isa: str) -> None:
    case = adapter_case(7, 64, rank=4)
    with torch.no_grad():
        case.tensors["t"][3, 5] = float("nan")
    results = case.run("native")
    for name in ("ln2", "residual", "d_t"):
        assert results[name][3].isnan().all()
        assert not results[name][[0, 1, 2, 4, 5, 6]].isnan().any()
    assert results["d_down_weight"].isnan().all()


def test_checkpointing_gives_the_same_gradients(native: Any) -> None:
    leaves = adapter_case(33, 64, rank=8).leaves()
    wanted = [leaves["t"], leaves["down_weight"], leaves["scale"]]

    def block(t: torch.Tensor) -> torch.Tensor:
        ln2, residual = fastlift_kernels.adapter(**{**leaves, "t": t}, impl="native")
        return (ln2 * residual).square().sum()

    plain = torch.autograd.grad(block(leaves["t"]), wanted)
    again = torch.autograd.grad(checkpoint(block, leaves["t"], use_reentrant=False), wanted)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_autocast_changes_nothing(native: Any, impl: str) -> None:
    leaves = adapter_case(12, 64, rank=4).leaves()
    plain = fastlift_kernels.adapter(**leaves, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        cast = fastlift_kernels.adapter(**leaves, impl=impl)
    grads = [torch.autograd.grad(out[1].sum(), [leaves["t"], leaves["down_weight"]]) for out in (plain, cast)]
    for expected, got in zip((*plain, *grads[0]), (*cast, *grads[1]), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(expected, got)


def test_products_under_autocast_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float32 residual stream of somebody's model under autocast: without this its products miss the tensor cores."""
    from fastlift_kernels.adapter.op import dtype_of_products

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.float16)
    with FakeTensorMode():
        on_gpu = torch.empty(4, 8, device="cuda")
    assert dtype_of_products(on_gpu) == torch.float16
    assert dtype_of_products(on_gpu.bfloat16()) == torch.bfloat16
    assert dtype_of_products(torch.empty(4, 8)) == torch.float32
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    assert dtype_of_products(on_gpu) == torch.float32


def bad(**change: Any) -> dict[str, Any]:
    return {**adapter_case(3, 64, rank=4).constants(), **change}


BAD = [
    (bad(t=torch.randn(3, 60)), ValueError, r"t: expected .* multiple of 8"),
    (bad(t=torch.zeros(3, 64, dtype=torch.int64)), TypeError, r"t: expected float32"),
    (bad(t=[1.0]), TypeError, r"t: expected a tensor"),
    (bad(ln2_bias=None), ValueError, r"ln2_weight, ln2_bias: expected both or neither"),
    (bad(ln_weight=torch.randn(32)), ValueError, r"ln_weight: expected shape \[64\], got \[32\]"),
    (bad(down_weight=torch.randn(0, 64)), ValueError, r"down_weight: expected a rank .* 1 or more, got 0"),
    (bad(down_weight=torch.randn(4, 32)), ValueError, r"down_weight: expected shape \[4, 64\]"),
    (bad(up_weight=torch.randn(4, 64)), ValueError, r"up_weight: expected shape \[64, 4\], got \[4, 64\]"),
    (bad(up_bias=torch.randn(64, dtype=torch.float16)), TypeError, r"up_bias: expected float32"),
    (bad(scale=torch.randn(2)), ValueError, r"scale: expected one element"),
    (bad(scale="1"), TypeError, r"scale: expected a tensor of one element or a float"),
    (bad(eps=None), TypeError, r"eps: expected a number, got NoneType"),
    (bad(t=torch.randn(5, 64).to_sparse()), TypeError, r"t: expected a dense tensor, got layout"),
    (bad(up_weight=torch.randn(64, 4).to_sparse()), TypeError, r"up_weight: expected a dense tensor"),
    (bad(down_weight=None), TypeError, r"down_weight: expected a tensor \[r, 64\], got NoneType"),
    (bad(eps=0.0), ValueError, r"eps: expected a finite number above 0"),
    (bad(ln_bias=torch.empty(64, device="meta")), ValueError, r"ln_bias: expected device cpu"),
    (bad(impl="cuda"), ValueError, r"impl: expected None"),
    (bad(impl="triton"), RuntimeError, r'impl="triton" is not available'),
]


def test_ranks_beyond_the_kernels_run_as_plain_pytorch() -> None:
    wide = bad(down_weight=torch.randn(513, 64) / 8, down_bias=torch.randn(513), up_weight=torch.randn(64, 513) / 8)
    for ours, plain in zip(
        fastlift_kernels.adapter(**wide), fastlift_kernels.adapter(**wide, impl="reference"), strict=True
    ):
        assert torch.equal(ours, plain)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="up to 512, got 513"):
        fastlift_kernels.adapter(**wide, impl="native")


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastlift_kernels.adapter(**arguments)


def test_bad_input_under_compile() -> None:
    compiled = torch.compile(fastlift_kernels.adapter, backend="eager")
    with pytest.raises(ValueError, match=r"up_weight: expected shape \[64, 4\], got \[4, 64\]"):
        compiled(**bad(up_weight=torch.randn(4, 64)))
