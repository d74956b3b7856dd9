"""Attention's backward pass on a GPU with all keys of a head at once: five products, for up to 256 tokens of narrow heads.

The sums of d_k and d_v over all queries stay in registers. The maths and what was tried are in README.md.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

import triton
import triton.language as tl

from .tiles import is_seen, load_rows, load_turned, store_rows, store_turned_back

# L tokens, Q queries, D width, H heads; BK keys, BQ queries of a tile


@triton.jit(do_not_specialize=["L", "Q", "first", "patches"])
def attention_backward_whole_kernel(
    kv, q, sin, cos, d_out, lse, d_kv, d_q,
    L, Q, D, H, first, patches, scale, factor,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """d_q of a tile of queries at a time, delta beside it, and d_k and d_v of all of them; scores lie on their side."""
    image, head = tl.program_id(0) // H, tl.program_id(0) % H
    columns = head * WIDTH
    stride = D * (3 if PACKED else 2)
    kv += image.to(tl.int64) * L * stride + columns
    d_kv += image.to(tl.int64) * L * stride + columns
    q_stride = D
    if PACKED:
        q, d_q = kv, d_kv
        q_stride = stride
        kv += D
        d_kv += D
    else:
        q += image.to(tl.int64) * Q * D + columns
        d_q += image.to(tl.int64) * Q * D + columns
    d_out += image.to(tl.int64) * Q * D + columns
    lse += tl.program_id(0) * Q
    at = tl.arange(0, BK)
    here = at < L
    key = load_turned(kv, sin, cos, at, here, stride, first, patches, WIDTH, HALF)
    value = load_rows(kv + D, at, here, stride, WIDTH, HALF)
    d_key = tl.zeros([BK, 2 * HALF], tl.float32)
    d_value = tl.zeros([BK, 2 * HALF], tl.float32)
    for start in range(0, Q, BQ):
        queries = start + tl.arange(0, BQ)
        live = queries < Q
        asked = load_turned(q, sin, cos, queries, live, q_stride, first, patches, WIDTH, HALF)
        d_mixed = load_rows(d_out, queries, live, D, WIDTH, HALF)
        sums = tl.load(lse + queries, mask=live, other=float("inf"))
        score = tl.dot(key, tl.trans(asked), input_precision=PRECISION) * scale
        score = tl.where(is_seen(queries[None, :], at[:, None], L, CAUSAL), score, float("-inf"))
        share = tl.exp2(score - sums[None, :])
        d_share = tl.dot(value, tl.trans(d_mixed), input_precision=PRECISION)
        delta = tl.sum(share * d_share, 0)
        d_score = (share * (d_share - delta[None, :])).to(asked.dtype)
        d_value = tl.dot(share.to(asked.dtype), d_mixed, d_value, input_precision=PRECISION)
        d_key = tl.dot(d_score, asked, d_key, input_precision=PRECISION)
        d_asked = tl.dot(tl.trans(d_score), key, input_precision=PRECISION) * factor
        store_turned_back(d_q, d_asked, sin, cos, queries, live, q_stride, first, patches, WIDTH, HALF)
    store_turned_back(d_kv, d_key * factor, sin, cos, at, here, stride, first, patches, WIDTH, HALF)
    store_rows(d_kv + D, d_value, at, here, stride, WIDTH, HALF)
