"""Calls of attention, and its maths written out for one head at a time over any kind of number (:mod:`fused_maths`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fused_maths import Dtypes, Steps
from kernel_cases import Case, Results
from rounding import Bounded

import fastlift_kernels

# B images, L tokens, D width, H heads; the first Q tokens ask


@dataclass
class AttentionCase(Case):
    outputs: tuple[str, ...] = ("out",)
    _activations: str = "qkv"
    _parameter: str = "qkv"

    def run(self, impl: str | None, dtype: torch.dtype | None = None) -> Results:
        leaves = self.leaves(dtype)
        out = fastlift_kernels.attention(**leaves, **self.options, impl=impl)  # type: ignore[arg-type]
        wanted = {name: x for name, x in leaves.items() if x is not None and x.requires_grad}
        found = torch.autograd.grad([out], list(wanted.values()), [self.gradients[0].to(out.dtype)])
        return {"out": out.detach(), **{f"d_{name}": g for name, g in zip(wanted, found, strict=True)}}

    def stored(self, name: str, x: torch.Tensor) -> torch.Tensor:
        form = self.gradients[0] if name == "out" else self.tensors[name[2:]]
        assert form is not None
        return x.view(form.shape).to(form.dtype)

    def written_out(self, number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps) -> dict[str, Any]:
        qkv, heads, packed = self.tensors["qkv"], self.options["heads"], self.tensors["q"] is None
        assert qkv is not None
        parts = qkv.chunk(3, -1) if packed else (self.tensors["q"], *qkv.chunk(2, -1))
        width = parts[1].shape[-1] // heads  # type: ignore[union-attr]
        tables = [None if (x := self.tensors[name]) is None else number(x) for name in ("sin", "cos")]
        found: dict[str, list[Any]] = {name: [] for name in ("out", "q", "k", "v")}
        for image in range(len(qkv)):
            rows: dict[str, list[Any]] = {name: [] for name in found}
            for head in range(heads):
                of_head = slice(head * width, (head + 1) * width)
                q, k, v = (number(part[image, :, of_head].contiguous()) for part in parts)  # type: ignore[index]
                g = number(self.gradients[0][image, :, of_head].contiguous())
                written = one_head(q, k, v, g, *tables, self.options, number, dtypes, steps)
                for name, x in written.items():
                    rows[name].append(x)
            for name, of_heads in rows.items():
                found[name].append(joined(of_heads, 1))
        of_qkv = [joined([found[n][i] for n in ("q", "k", "v") if packed or n != "q"], 1) for i in range(len(qkv))]
        whole = {"out": joined(found["out"], 0), "d_qkv": joined(of_qkv, 0)}
        return whole if packed else {**whole, "d_q": joined(found["q"], 0)}


def joined(parts: list[Any], dim: int) -> Any:
    """Side by side."""
    if isinstance(parts[0], Bounded):
        return Bounded(torch.cat([x.value for x in parts], dim), torch.cat([x.error for x in parts], dim))
    return torch.cat(parts, dim)


def one_head(
    q: Any, k: Any, v: Any, g: Any, sin: Any, cos: Any, options: dict[str, Any],
    number: Callable[[torch.Tensor], Any], dtypes: Dtypes, steps: Steps,
) -> dict[str, Any]:  # fmt: skip
    """out and the gradients of q, k and v of one head, from q and the gradient g [Q, D/H], k and v [L, D/H]."""
    operands, store, first = dtypes.operands, dtypes.store, options.get("first", 0)
    queries, tokens, width = q.shape[0], k.shape[0], k.shape[1]
    scale = steps.value("scale", 1.0 / math.sqrt(width))
    if sin is not None:
        q, k = (turned(x, sin, cos, first, number, steps).rounded(store) for x in (q, k))
    sees = torch.ones(queries, tokens, dtype=torch.bool)
    if options.get("causal"):
        sees = steps.value("sees", sees.tril())
    seen = number(sees.float())
    scores = steps.product("scores", q, k.T) * scale
    anchor = largest_seen(scores, sees)
    exponentials = steps.value("exponentials", (scores - anchor).exp() * seen)
    total = steps.value("total", exponentials.sum(1, keepdim=True))
    out = steps.product("out", exponentials.rounded(operands), v) / total

    lse = steps.value("lse", anchor + total.log())
    share = (scores - lse).exp() * seen
    d_share = steps.product("d_share", g, v.T)
    delta = steps.value("delta", (share * d_share).sum(1, keepdim=True))
    d_score = (share * (d_share - delta)).rounded(operands)
    d_q = steps.product("d_q", d_score, k) * scale
    d_k = steps.product("d_k", d_score.T, q) * scale
    d_v = steps.product("d_v", share.rounded(operands).T, g)
    if sin is not None:
        sin = steps.value("turned back", sin)
        d_q, d_k = (turned(x, sin, cos, first, number, steps, back=True) for x in (d_q, d_k))
    return {name: x.rounded(store) for name, x in {"out": out, "q": d_q, "k": d_k, "v": d_v}.items()}


def largest_seen(scores: Any, sees: torch.Tensor) -> Any:
    """Of each row. Only an anchor, which cancels."""
    if isinstance(scores, Bounded):
        return Bounded.exact(scores.value.masked_fill(~sees, float("-inf")).amax(1, keepdim=True))
    return scores.masked_fill(~sees, float("-inf")).amax(1, keepdim=True)


def turned(
    x: Any, sin: Any, cos: Any, first: int, number: Callable[[torch.Tensor], Any], steps: Steps, back: bool = False
) -> Any:
    """Rows of x from ``first`` on turned by their angles, or a gradient turned back; the others as they are."""
    first = steps.value("first", first)
    rows, width = x.shape
    patches = max(0, min(sin.shape[0], rows - first))
    half = width // 2
    swapped = [*range(half, width), *range(half)]
    sign = torch.ones(width)
    sign[:half] = -1.0
    if back:  # the transpose: sin goes with the column that it came from
        sin, sign = sin[:, swapped], -sign
    patch = x[first : first + patches]
    new = patch * cos[:patches] + patch[:, swapped] * (sin[:patches] * number(sign))
    return joined([x[:first], new, x[first + patches :]], 0)


def attention_case(
    images: int,
    tokens: int,
    heads: int,
    head_width: int,
    *,
    queries: int | None = None,
    patches: int | None = None,
    first: int = 0,
    causal: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> AttentionCase:
    """A call; ``queries``: keys and values apart from the queries of so many tokens; ``patches``: with rotary positions."""
    draw = torch.Generator().manual_seed(seed)
    width = heads * head_width

    def normal(*size: int, by: float = 1.0) -> torch.Tensor:
        return (torch.randn(*size, generator=draw) * by).to(dtype)

    angles = None if patches is None else torch.randn(patches, head_width, generator=draw) * 2.0
    tensors: dict[str, torch.Tensor | None] = {
        "qkv": normal(images, tokens, (3 if queries is None else 2) * width, by=1.3).requires_grad_(),
        "q": None if queries is None else normal(images, queries, width, by=1.3).requires_grad_(),
        "sin": None if angles is None else angles.sin(),
        "cos": None if angles is None else angles.cos(),
    }
    options = {"heads": heads, "first": first, "causal": causal}
    return AttentionCase(tensors, options, [normal(images, tokens if queries is None else queries, width)])
