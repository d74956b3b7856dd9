"""Attention's backward pass on a GPU: one program an (image, head), without atomics. The maths are in README.md."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs, disable-error-code="assignment"
# ruff: noqa: RUF005 - tuples grow by "+" in this language

import triton
import triton.language as tl

from .tiles import is_seen, load_rows, load_turned, store_rows, store_turned_back

# L tokens, Q queries, D width, H heads; BQ queries of a tile


@triton.jit(do_not_specialize=["L", "Q", "first", "patches"])
def attention_backward_kernel(
    kv, q, sin, cos, d_out, lse, delta, d_kv, d_q,
    L, Q, D, H, first, patches, scale, factor,
    PACKED: tl.constexpr, CAUSAL: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENTS: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr, BQ2: tl.constexpr,
):  # fmt: skip
    """d_q and delta by whole rows of scores; then d_k and d_v of BK keys at a time, scores on their side."""
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
    delta += tl.program_id(0) * Q
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
        d_mixed = load_rows(d_out, queries, live, D, WIDTH, HALF)
        sums = tl.load(lse + queries, mask=live, other=float("inf"))
        shares = ()
        d_shares = ()
        total = tl.zeros([BQ], tl.float32)
        for i in tl.static_range(len(SEGMENTS)):
            at = SEGMENTS[i][0] + tl.arange(0, SEGMENTS[i][1])
            score = tl.dot(asked, tl.trans(keys[i]), input_precision=PRECISION) * scale
            score = tl.where(is_seen(queries[:, None], at[None, :], L, CAUSAL), score, float("-inf"))
            share = tl.exp2(score - sums[:, None])
            d_share = tl.dot(d_mixed, tl.trans(values[i]), input_precision=PRECISION)
            total += tl.sum(share * d_share, 1)
            shares = shares + (share,)
            d_shares = d_shares + (d_share,)
        d_asked = tl.zeros([BQ, 2 * HALF], tl.float32)
        for i in tl.static_range(len(SEGMENTS)):
            d_score = (shares[i] * (d_shares[i] - total[:, None])).to(asked.dtype)
            d_asked = tl.dot(d_score, keys[i], d_asked, input_precision=PRECISION)
        tl.store(delta + queries, total, mask=live)
        store_turned_back(d_q, d_asked * factor, sin, cos, queries, live, q_stride, first, patches, WIDTH, HALF)
    tl.debug_barrier()
    for start_of_keys in range(0, L, BK):
        at = start_of_keys + tl.arange(0, BK)
        here = at < L
        key = load_turned(kv, sin, cos, at, here, stride, first, patches, WIDTH, HALF)
        value = load_rows(kv + D, at, here, stride, WIDTH, HALF)
        d_key = tl.zeros([BK, 2 * HALF], tl.float32)
        d_value = tl.zeros([BK, 2 * HALF], tl.float32)
        for start in range(0, Q, BQ2):
            queries = start + tl.arange(0, BQ2)
            live = queries < Q
            asked = load_turned(q, sin, cos, queries, live, q_stride, first, patches, WIDTH, HALF)
            d_mixed = load_rows(d_out, queries, live, D, WIDTH, HALF)
            sums = tl.load(lse + queries, mask=live, other=float("inf"))
            total = tl.load(delta + queries, mask=live, other=0.0)
            score = tl.dot(key, tl.trans(asked), input_precision=PRECISION) * scale
            score = tl.where(is_seen(queries[None, :], at[:, None], L, CAUSAL), score, float("-inf"))
            share = tl.exp2(score - sums[None, :])
            d_value = tl.dot(share.to(asked.dtype), d_mixed, d_value, input_precision=PRECISION)
            d_share = tl.dot(value, tl.trans(d_mixed), input_precision=PRECISION)
            d_score = (share * (d_share - total[None, :])).to(asked.dtype)
            d_key = tl.dot(d_score, asked, d_key, input_precision=PRECISION)
        store_turned_back(d_kv, d_key * factor, sin, cos, at, here, stride, first, patches, WIDTH, HALF)
        store_rows(d_kv + D, d_value, at, here, stride, WIDTH, HALF)
