"""Attention's Triton kernels in the interpreter, through the real op, against float64."""

from typing import Any

import pytest
import torch
from attention_cases import attention_case
from error_bounds import assert_within_bounds

import fastlift_kernels

pytest.importorskip("triton")

from fastlift_kernels.attention import gpu
from fastlift_kernels.attention.configuration import Passes, Whole

HALF = torch.bfloat16
CALLS: list[dict[str, Any]] = [
    {"shape": (1, 1, 1, 8)},
    {"shape": (2, 5, 3, 16)},
    {"shape": (1, 17, 2, 24), "patches": 12, "first": 1},
    {"shape": (1, 33, 1, 32), "patches": 33},
    {"shape": (2, 20, 2, 40), "queries": 1},
    {"shape": (1, 50, 1, 64), "queries": 7, "patches": 45, "first": 5, "causal": True},
    {"shape": (1, 37, 2, 16), "causal": True},
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_float32(call: dict[str, Any]) -> None:
    options = dict(call)
    assert_within_bounds(attention_case(*options.pop("shape"), **options), "triton")


@pytest.mark.parametrize("blocks", [Whole(16, 64, 4, 1), Whole(32, 64, 8, 2), Passes(32, 16, 64, 4, 1)], ids=str)
@pytest.mark.parametrize("call", CALLS[2:6], ids=str)
def test_every_kernel_and_block(monkeypatch: pytest.MonkeyPatch, call: dict[str, Any], blocks: Whole | Passes) -> None:
    monkeypatch.setattr(gpu, "backward_blocks", lambda *_: blocks)
    options = dict(call)
    assert_within_bounds(attention_case(*options.pop("shape"), **options), "triton")


@pytest.mark.parametrize("dtype", [HALF, torch.float16])
@pytest.mark.parametrize("call", CALLS[1:6:2], ids=str)
def test_half(dtype: torch.dtype, call: dict[str, Any]) -> None:
    options = dict(call)
    assert_within_bounds(attention_case(*options.pop("shape"), **options, dtype=dtype), "triton")


def test_a_vit_of_197_tokens() -> None:
    assert_within_bounds(attention_case(1, 197, 1, 64, dtype=HALF), "triton")


def test_a_vit_of_261_tokens() -> None:
    """DINOv3: a class token and four registers before 256 patches, which have angles; three segments of keys."""
    assert_within_bounds(attention_case(1, 261, 1, 64, patches=256, first=5, dtype=HALF), "triton")


def test_the_class_token_of_the_longest() -> None:
    assert_within_bounds(attention_case(1, 272, 1, 32, queries=1, dtype=HALF), "triton")


def test_neighbours_of_nan_are_not_read() -> None:
    """Each image and head reads its own rows: behind the last token of one stands the first of the next."""
    case = attention_case(3, 19, 3, 16)
    good = case.run("triton")
    qkv, gradient = case.tensors["qkv"], case.gradients[0]
    assert qkv is not None
    heads = [x.unflatten(-1, (-1, 3, 16)) for x in (qkv.detach(), gradient)]
    for x in heads:
        x[[0, 2]] = torch.nan
        x[:, :, :, [0, 2]] = torch.nan
    found = case.run("triton")
    for name in ("out", "d_qkv"):
        kept = [x[name].unflatten(-1, (-1, 3, 16))[1, :, :, 1] for x in (good, found)]
        assert torch.equal(*kept)
        assert found[name].unflatten(-1, (-1, 3, 16))[0].isnan().all()


def test_large_scores_do_not_overflow() -> None:
    case = attention_case(1, 21, 1, 32)
    with torch.no_grad():
        case.tensors["qkv"].mul_(40.0)  # type: ignore[union-attr]  # scores to about 20,000
    assert_within_bounds(case, "triton")


@pytest.mark.parametrize("dtype", [HALF, torch.float32])  # all keys at once; in two passes
def test_repeats_bit_by_bit(dtype: torch.dtype) -> None:
    case = attention_case(1, 35, 2, 16, dtype=dtype)
    first, second = (case.run("triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("images", "queries"), [(0, None), (0, 1), (2, 0)])
def test_nothing_to_do(images: int, queries: int | None) -> None:
    case = attention_case(images, 5, 2, 8, queries=queries)
    results, expected = case.run("triton"), case.run("reference")
    assert all(torch.equal(x, expected[name]) for name, x in results.items())


def test_without_gradients_nothing_is_kept() -> None:
    case = attention_case(1, 18, 2, 16)
    arguments = (*case.constants().values(), 2, 0, False)
    out, lse = torch.ops.fastlift_kernels.attention_forward(*arguments, False)
    kept_out, kept = torch.ops.fastlift_kernels.attention_forward(*arguments, True)
    assert lse.shape == (1, 2, 0)
    assert torch.equal(out, kept_out)
    qkv = case.constants()["qkv"]
    assert qkv is not None
    q, k = (x.unflatten(-1, (2, 16)).transpose(1, 2).double() for x in qkv.chunk(3, -1)[:2])
    expected = (q @ k.transpose(-1, -2) / 4.0).logsumexp(-1) / torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(kept.double(), expected, rtol=1e-5, atol=1e-5)


def test_strides_of_any_kind() -> None:
    case = attention_case(2, 9, 2, 16, queries=3)
    expected = case.run("triton")
    for name in ("qkv", "q"):
        x = case.tensors[name]
        assert x is not None
        case.tensors[name] = x.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    case.gradients = [case.gradients[0].mT.contiguous().mT]
    leaves = {name: x for name, x in case.tensors.items() if x is not None}
    out = fastlift_kernels.attention(**leaves, **case.options, impl="triton")
    found = torch.autograd.grad([out], [leaves["qkv"], leaves["q"]], case.gradients)
    for name, x in zip(("out", "d_qkv", "d_q"), (out, *found), strict=True):
        assert torch.equal(x, expected[name])


@pytest.mark.parametrize("rotary", [False, True])
def test_opcheck(rotary: bool) -> None:
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    forward, backward = torch.ops.fastlift_kernels.attention_forward, torch.ops.fastlift_kernels.attention_backward
    case = attention_case(1, 5, 2, 8, queries=3, patches=4, first=1) if rotary else attention_case(2, 5, 2, 8)
    numbers = (2, 1 if rotary else 0, False)
    torch.library.opcheck(forward.default, (*case.leaves().values(), *numbers, True), test_utils=checks)
    arguments = (*case.constants().values(), *numbers)
    lse = forward(*arguments, True)[1]
    torch.library.opcheck(backward.default, (case.gradients[0], lse, *arguments), test_utils=checks[::2])


def test_one_graph_and_the_same_results() -> None:
    case = attention_case(2, 6, 2, 8)

    def step(qkv: torch.Tensor) -> torch.Tensor:
        return fastlift_kernels.attention(qkv * 1.5, 2, impl="triton").sin()

    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        qkv = case.leaves()["qkv"]
        assert qkv is not None
        out = run(qkv)
        results.append((out, *torch.autograd.grad([out], [qkv], case.gradients)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_out": torch.zeros(1, 4, 16)}, r"d_out: expected shape \[1, 5, 16\]"),
        ({"lse": torch.zeros(1, 2, 0)}, r"lse: expected shape \[1, 2, 5\]"),
        ({"lse": torch.zeros(1, 2, 5).double()}, "lse: expected torch.float32"),
        ({"qkv": torch.zeros(1, 209, 48)}, "takes up to 208 tokens of heads of 8 .* got 209"),
        ({"qkv": torch.zeros(1, 5, 54), "heads": 2}, "takes up to 0 tokens of heads of 9"),
    ],
)
def test_direct_calls_that_do_not_fit_raise(change: dict[str, Any], message: str) -> None:
    case = attention_case(1, 5, 2, 8)
    arguments = {**case.constants(), "heads": 2, "first": 0, "causal": False}
    incoming = {"d_out": case.gradients[0], "lse": torch.zeros(1, 2, 5)}
    backward = torch.ops.fastlift_kernels.attention_backward
    backward(**arguments, **incoming)  # what is changed is the reason
    with pytest.raises((TypeError, ValueError), match=message):
        backward(**{**arguments, **incoming, **change})


def test_angles_are_constants() -> None:
    case = attention_case(1, 5, 2, 8, patches=4, first=1)
    case.tensors["sin"].requires_grad_()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"sin: .* takes constants"):
        case.run("triton")


def test_flops_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for queries in (None, 2):
        with FlopCounterMode(display=False) as counter:
            attention_case(3, 5, 2, 8, queries=queries).run("triton")
        assert counter.get_total_flops() == (2 + 5) * 2 * 3 * (queries or 5) * 5 * 16
