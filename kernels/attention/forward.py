"""Attention's forward pass on a GPU: one program an (image, head). The maths and what was tried are in README.md."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 - tuples grow by "+" in this language

import triton
import triton.language as tl

from .tiles import is_seen, load_rows, load_turned, store_rows

# L tokens, Q queries, D width, H heads; BQ queries of a tile


@triton.jit(do_not_specialize=["L", "Q", "first", "patches"])
def attention_forward_kernel(
    kv, q, sin, cos, out, lse,
    L, Q, D, H, first, patches, scale,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENTS: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """out of all queries of a head, and the logarithm (to base 2) of the sums of their exponentials."""
    image, head = tl.program_id(0) // H, tl.program_id(0) % H
    columns = head * WIDTH
    stride = D * (3 if PACKED else 2)
    kv += image.to(tl.int64) * L * stride + columns
    q_stride = D
    if PACKED:
        q = kv
        q_stride = stride
        kv += D
    else:
        q += image.to(tl.int64) * Q * D + columns
    out += image.to(tl.int64) * Q * D + columns
    keys = ()
    values = ()
    for i in tl.static_range(len(SEGMENTS)):
        rows = SEGMENTS[i][0] + tl.arange(0, SEGMENTS[i][1])
        keys = keys + (load_turned(kv, sin, cos, rows, rows < L, stride, first, patches, WIDTH, HALF),)
        values = values + (load_rows(kv + D, rows, rows < L, stride, WIDTH, HALF),)
    for start in range(0, Q, BQ):
        queries = start + tl.arange(0, BQ)
        live = queries < Q
        asked = load_turned(q, sin, cos, queries, live, q_stride, first, patches, WIDTH, HALF)
        scores = ()
        largest = tl.full([BQ], float("-inf"), tl.float32)
        for i in tl.static_range(len(SEGMENTS)):
            at = SEGMENTS[i][0] + tl.arange(0, SEGMENTS[i][1])
            score = tl.dot(asked, tl.trans(keys[i]), input_precision=PRECISION) * scale
            score = tl.where(is_seen(queries[:, None], at[None, :], L, CAUSAL), score, float("-inf"))
            largest = tl.maximum(largest, tl.max(score, 1))
            scores = scores + (score,)
        total = tl.zeros([BQ], tl.float32)
        mixed = tl.zeros([BQ, 2 * HALF], tl.float32)
        for i in tl.static_range(len(SEGMENTS)):
            exponentials = tl.exp2(scores[i] - largest[:, None])
            total += tl.sum(exponentials, 1)
            mixed = tl.dot(exponentials.to(values[i].dtype), values[i], mixed, input_precision=PRECISION)
        store_rows(out, mixed / total[:, None], queries, live, D, WIDTH, HALF)
        if lse is not None:
            tl.store(lse + tl.program_id(0) * Q + queries, largest + tl.log2(total), mask=live)
