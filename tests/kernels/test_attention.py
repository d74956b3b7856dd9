"""Attention by the library and by the reference against float64, what both refuse, and where own kernels run."""

from typing import Any

import pytest
import torch
from attention_cases import attention_case
from error_bounds import assert_within_bounds

import fastlift_kernels
from fastlift_kernels.attention.configuration import MOST_TOKENS, half_of, segments

CALLS: list[dict[str, Any]] = [
    {"shape": (2, 7, 3, 8)},
    {"shape": (1, 9, 2, 6), "queries": 1},
    {"shape": (2, 12, 2, 8), "patches": 9, "first": 2},
    {"shape": (1, 12, 2, 8), "patches": 9, "first": 2, "queries": 5, "causal": True},
]


@pytest.mark.parametrize("impl", [None, "reference"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_float32(call: dict[str, Any], impl: str | None) -> None:
    options = dict(call)
    assert_within_bounds(attention_case(*options.pop("shape"), **options), impl)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_library_and_the_reference_agree_in_float64(call: dict[str, Any]) -> None:
    options = dict(call)
    case = attention_case(*options.pop("shape"), **options)
    one, other = (case.run(impl, torch.float64) for impl in (None, "reference"))
    for name, x in one.items():
        torch.testing.assert_close(x, other[name], rtol=1e-12, atol=1e-12)


def test_tokens_without_a_place_are_left_alone() -> None:
    """Their queries and keys are those of a call without angles: of tokens that all see only such, results too."""
    case = attention_case(1, 9, 1, 8, patches=4, first=2)
    plain = attention_case(1, 9, 1, 8)
    turned, left = case.run(None)["out"], plain.run(None)["out"]
    assert not torch.allclose(turned, left)
    qkv = case.tensors["qkv"]
    assert qkv is not None
    away = qkv.detach().clone()
    away[:, 2:6, 8:16] = -1e4 * away[:, :1, :8]  # keys that the class token does not look at, however they are turned
    places = [0, 1, 6, 7, 8]
    qkv = away.clone()
    q, k, v = away.chunk(3, -1)
    scores = (q[:, :1] @ k[:, places].transpose(-1, -2)) / 8**0.5
    alone = scores.softmax(-1) @ v[:, places]
    sin, cos = torch.zeros(4, 8), torch.ones(4, 8)
    out = fastlift_kernels.attention(qkv, 1, None, sin, cos, 2)
    torch.testing.assert_close(out[:, :1], alone)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"qkv": torch.zeros(2, 5, 47)}, ValueError, r"qkv: expected \[B, L, 3D\] with D a multiple of 2 heads"),
    ({"qkv": torch.zeros(2, 5, 48, dtype=torch.int32)}, TypeError, "qkv: expected float32"),
    ({"heads": 0}, ValueError, "qkv: expected"),
    ({"q": torch.zeros(2, 6, 24)}, ValueError, r"q: expected \[2, up to 5, 24\]"),
    ({"q": torch.zeros(2, 3, 24).double()}, TypeError, "q: expected torch.float32"),
    ({"sin": torch.zeros(3, 8)}, ValueError, "sin, cos: expected both or neither"),
    ({"sin": torch.zeros(6, 8), "cos": torch.zeros(6, 8)}, ValueError, "sin: expected at most 5 patches"),
    ({"sin": torch.zeros(3, 8), "cos": torch.zeros(3, 7)}, ValueError, "cos: expected shape"),
    ({"impl": "native"}, ValueError, 'impl: expected None, "reference" or "triton", got \'native\''),
    ({"impl": "triton"}, RuntimeError, 'impl="triton" is not available'),
]


@pytest.mark.parametrize(("change", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_refuses(change: dict[str, Any], error: type[Exception], said: str) -> None:
    given: dict[str, Any] = {"qkv": torch.zeros(2, 5, 48), "heads": 2, **change}
    with pytest.raises(error, match=said):
        fastlift_kernels.attention(**given)


def test_segments_hold_all_keys_with_few_beyond() -> None:
    for tokens in range(1, MOST_TOKENS + 1):
        found = segments(tokens)
        assert len(found) <= 3
        assert all(size & (size - 1) == 0 and 16 <= size <= 128 for _, size in found)
        ends = [0, *[start + size for start, size in found]]
        assert [start for start, _ in found] == ends[:-1]
        assert tokens <= ends[-1] <= max(tokens + 47, 16)
    assert [size for _, size in segments(197)] == [128, 64, 16]
    assert [sum(size for _, size in segments(tokens)) for tokens in (50, 201, 257, 261)] == [64, 208, 272, 272]


@pytest.mark.parametrize(("width", "half"), [(8, 8), (32, 16), (64, 32), (72, 64), (96, 64), (128, 64)])
def test_halves_of_heads(width: int, half: int) -> None:
    assert half_of(width) == half


def test_where_own_kernels_run() -> None:
    most, reason = fastlift_kernels.attention_tokens(64, torch.bfloat16, torch.device("cpu"))
    assert most == 0
    assert "GPU" in reason or "triton" in reason
