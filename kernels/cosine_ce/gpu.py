"""The classifier-with-loss op on a GPU: Triton kernels and their launches. The maths is in README.md beside this file.

Logits live in registers only: each kernel computes the block it needs. Sums that many programs share are written as
partial results a split and added in order, so that no atomics are needed and results repeat bit by bit.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import device_of, dot_precision
from .reference import IGNORE_INDEX, Normalize

# B batch, D width, C classes; BM, BN, BD their blocks; S splits of the classes

NORM_FLOOR = 1e-12  # of torch.nn.functional.normalize


@triton.jit
def _products(
    f, w, rows, live, cols, known, D, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr
):
    """Raw products [BM, BN] of a block of features and a block of weights (pointers at their first rows)."""
    raw = tl.zeros([BM, BN], tl.float32)
    for d in range(0, D, BD):
        at = d + tl.arange(0, BD)
        whole = at < D
        x = tl.load(f + rows[:, None] * D + at[None, :], mask=live[:, None] & whole[None, :], other=0.0)
        y = tl.load(w + cols[None, :] * D + at[:, None], mask=known[None, :] & whole[:, None], other=0.0)  # [BD, BN]
        raw = tl.dot(x, y.to(x.dtype), raw, input_precision=PRECISION)
    return raw


@triton.jit
def inverse_norms_kernel(x, inverse, rows_total, D, floor, BM: tl.constexpr, BD: tl.constexpr):
    """1 / max(|x|, floor) of BM rows."""
    first = tl.program_id(0).to(tl.int64) * BM
    rows = tl.arange(0, BM)
    live = rows < rows_total - first
    squares = tl.zeros([BM], tl.float32)
    for d in range(0, D, BD):
        at = d + tl.arange(0, BD)
        v = tl.load(x + first * D + rows[:, None] * D + at[None, :], mask=live[:, None] & (at < D)[None, :], other=0.0)
        v = v.to(tl.float32)
        squares += tl.sum(v * v, 1)
    norm = tl.sqrt(squares)
    norm = tl.where(norm < floor, floor, norm)  # a NaN stays
    tl.store(inverse + first + rows, 1.0 / norm, mask=live)


@triton.jit
def forward_kernel(
    features, weight, labels, log_prior, bias, class_weight, inverse_f, inverse_w,
    top_out, sum_out, own_out, smooth_out, best_out, where_out,
    B, D, C, span, scale, tau,
    SMOOTH: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Of BM samples and `span` classes: maximum and sum of exponentials, the label's logit, the smoothing sum, argmax."""
    row, split = tl.program_id(0), tl.program_id(1)
    first = row.to(tl.int64) * BM
    rows = tl.arange(0, BM)
    live = rows < B - first
    label = tl.load(labels + first + rows, mask=live, other=-1)
    f_scale = tl.full([BM], 1.0, tl.float32) * scale
    if inverse_f is not None:
        f_scale *= tl.load(inverse_f + first + rows, mask=live, other=0.0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    own = tl.zeros([BM], tl.float32)
    smooth = tl.zeros([BM], tl.float32)
    best = tl.full([BM], float("-inf"), tl.float32)
    where = tl.zeros([BM], tl.int32) + split * span
    begin = split * span
    weight += begin.to(tl.int64) * D
    cols = tl.arange(0, BN)
    for c in range(begin, tl.minimum(begin + span, C), BN):
        known = cols < C - c
        raw = _products(
            features + first * D, weight + (c - begin) * D, rows, live, cols, known, D, PRECISION, BM, BN, BD
        )
        z = raw * f_scale[:, None]
        if inverse_w is not None:
            z *= tl.load(inverse_w + c + cols, mask=known, other=0.0)[None, :]
        if bias is not None:
            z += tl.load(bias + c + cols, mask=known, other=0.0).to(tl.float32)[None, :]
        z = tl.where(known[None, :], z, float("-inf"))
        here, at = tl.max(z, 1, return_indices=True)
        better = here > best
        best = tl.where(better, here, best)
        where = tl.where(better, at.to(tl.int32) + c, where)
        if log_prior is not None:
            z += tau * tl.load(log_prior + c + cols, mask=known, other=0.0).to(tl.float32)[None, :]
        if SMOOTH:
            term = tl.where(known[None, :], z, 0.0)
            if class_weight is not None:
                term *= tl.load(class_weight + c + cols, mask=known, other=0.0).to(tl.float32)[None, :]
            smooth += tl.sum(term, 1)
        higher = tl.maximum(top, tl.max(z, 1))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - anchor) + tl.sum(tl.exp(z - anchor[:, None]), 1)
        top = higher
        own += tl.sum(tl.where((cols + c)[None, :] == label[:, None], z, 0.0), 1)
    out = split.to(tl.int64) * B + first + rows
    tl.store(top_out + out, top, mask=live)
    tl.store(sum_out + out, total, mask=live)
    tl.store(own_out + out, own, mask=live)
    tl.store(best_out + out, best, mask=live)
    tl.store(where_out + out, where, mask=live)
    if SMOOTH:
        tl.store(smooth_out + out, smooth, mask=live)


@triton.jit
def combine_kernel(
    top_in, sum_in, own_in, smooth_in, best_in, where_in, labels, class_weight, weight_total,
    lse_out, loss_out, counted_out, predictions,
    B, C, S, smoothing, ignored,
    SMOOTH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Of BM samples: log-sum-exp, weighted loss, weight that counts, and prediction, from the splits."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    live = rows < B
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    own = tl.zeros([BM], tl.float32)
    smooth = tl.zeros([BM], tl.float32)
    best = tl.full([BM], float("-inf"), tl.float32)
    where = tl.zeros([BM], tl.int32)
    for split in range(S):
        at = split * B + rows
        here = tl.load(top_in + at, mask=live, other=0.0)
        higher = tl.maximum(top, here)
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - anchor) + tl.load(sum_in + at, mask=live, other=1.0) * tl.exp(here - anchor)
        top = higher
        own += tl.load(own_in + at, mask=live, other=0.0)
        if SMOOTH:
            smooth += tl.load(smooth_in + at, mask=live, other=0.0)
        z = tl.load(best_in + at, mask=live, other=0.0)
        better = z > best
        best = tl.where(better, z, best)
        where = tl.where(better, tl.load(where_in + at, mask=live, other=0), where)
    lse = top + tl.log(total)
    label = tl.load(labels + rows, mask=live, other=ignored)
    counts = label != ignored
    # A label out of range is a device-side assertion by PyTorch beside this kernel; here it must only not be read.
    w = tl.where(counts, 1.0, 0.0)
    if class_weight is not None:
        known = counts & (label >= 0) & (label < C)
        w = tl.load(class_weight + label, mask=live & known, other=0.0).to(tl.float32)
    loss = (1.0 - smoothing) * w * (lse - own)
    if SMOOTH:
        every = tl.load(weight_total)
        loss += tl.where(counts, smoothing / C * (every * lse - smooth), 0.0)
    tl.store(lse_out + rows, lse, mask=live)
    tl.store(loss_out + rows, tl.where(counts, loss, 0.0), mask=live)
    tl.store(counted_out + rows, w, mask=live)
    tl.store(predictions + rows, where.to(tl.int64), mask=live)


@triton.jit
def _logit_gradients(
    raw, f_scale, label, lse, w_row, counts, c, cols, known, log_prior, bias, class_weight, inverse_w, weight_total,
    factor, tau, smoothing, C, SMOOTH: tl.constexpr,
):  # fmt: skip
    """d loss / d logit of a block whose raw products are given, and the scale of its columns."""
    column = tl.where(known, 1.0, 0.0)
    if inverse_w is not None:
        column = tl.load(inverse_w + c + cols, mask=known, other=0.0)
    z = raw * f_scale[:, None] * column[None, :]
    if bias is not None:
        z += tl.load(bias + c + cols, mask=known, other=0.0).to(tl.float32)[None, :]
    if log_prior is not None:
        z += tau * tl.load(log_prior + c + cols, mask=known, other=0.0).to(tl.float32)[None, :]
    hit = (1.0 - smoothing) * w_row * factor
    share = hit
    if SMOOTH:
        even = tl.where(counts, smoothing / C * factor, 0.0)
        share += even * tl.load(weight_total)
    share = tl.where(counts, share, 0.0)
    gradient = tl.exp(z - lse[:, None]) * share[:, None]
    gradient -= tl.where((cols + c)[None, :] == label[:, None], hit[:, None], 0.0)
    if SMOOTH:
        each = tl.where(known, 1.0, 0.0)
        if class_weight is not None:
            each = tl.load(class_weight + c + cols, mask=known, other=0.0).to(tl.float32)
        gradient -= even[:, None] * each[None, :]
    # 0 * inf of an ignored row must not become NaN
    gradient = tl.where(known[None, :] & counts[:, None], gradient, 0.0)
    return gradient, column


@triton.jit
def _row_of_block(labels, class_weight, inverse_f, lse_in, first, rows, live, scale, C, ignored, BM: tl.constexpr):
    label = tl.load(labels + first + rows, mask=live, other=ignored)
    counts = label != ignored
    lse = tl.load(lse_in + first + rows, mask=live, other=0.0)
    w_row = tl.where(counts, 1.0, 0.0)
    if class_weight is not None:
        known = live & counts & (label >= 0) & (label < C)
        w_row = tl.load(class_weight + label, mask=known, other=0.0).to(tl.float32)
    f_scale = tl.full([BM], 1.0, tl.float32) * scale
    if inverse_f is not None:
        f_scale *= tl.load(inverse_f + first + rows, mask=live, other=0.0)
    return label, counts, lse, w_row, f_scale


@triton.jit
def weight_backward_kernel(
    features, weight, labels, log_prior, bias, class_weight, inverse_f, inverse_w, weight_total, lse_in, counted, d_loss,
    d_weight, d_bias,
    B, D, C, scale, tau, smoothing, ignored,
    SMOOTH: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """d_weight and d_bias of BN classes: this program alone owns them, over all blocks of samples."""
    c = tl.program_id(0) * BN
    ahead = c.to(tl.int64) * D
    cols = tl.arange(0, BN)
    known = cols < C - c
    rows = tl.arange(0, BM)
    factor = tl.load(d_loss).to(tl.float32) / tl.load(counted)
    along = tl.zeros([BN], tl.float32)
    bias_sum = tl.zeros([BN], tl.float32)
    for m in range(0, B, BM):
        live = rows < B - m
        label, counts, lse, w_row, f_scale = _row_of_block(
            labels, class_weight, inverse_f, lse_in, m, rows, live, scale, C, ignored, BM
        )
        raw = _products(features + m * D, weight + ahead, rows, live, cols, known, D, PRECISION, BM, BN, BD)
        gradient, column = _logit_gradients(
            raw, f_scale, label, lse, w_row, counts, c, cols, known, log_prior, bias, class_weight, inverse_w,
            weight_total, factor, tau, smoothing, C, SMOOTH,
        )  # fmt: skip
        bias_sum += tl.sum(gradient, 0)
        if d_weight is not None:
            gradient = gradient * f_scale[:, None] * column[None, :]
            along += tl.sum(gradient * raw, 0) * column * column
            left = tl.trans(gradient.to(features.dtype.element_ty))  # [BN, BM]
            for d in range(0, D, BD):
                at = d + tl.arange(0, BD)
                whole = at < D
                x = tl.load(
                    features + m * D + rows[:, None] * D + at[None, :],
                    mask=live[:, None] & whole[None, :],
                    other=0.0,
                )
                part = tl.dot(left, x, input_precision=PRECISION)
                place = cols[:, None] * D + at[None, :]
                wanted = known[:, None] & whole[None, :]
                if m > 0:
                    part += tl.load(d_weight + ahead + place, mask=wanted, other=0.0)
                if m + BM >= B and inverse_w is not None:
                    part -= tl.load(weight + ahead + place, mask=wanted, other=0.0).to(tl.float32) * along[:, None]
                tl.store(d_weight + ahead + place, part, mask=wanted)
            tl.debug_barrier()  # the next block of samples reads what other threads of this program wrote
    if d_bias is not None:
        tl.store(d_bias + c + cols, bias_sum, mask=known)


@triton.jit
def features_backward_kernel(
    features, weight, labels, log_prior, bias, class_weight, inverse_f, inverse_w, weight_total, lse_in, counted, d_loss,
    partial, along_out,
    B, D, C, span, scale, tau, smoothing, ignored,
    SMOOTH: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What `span` classes give to d_features of BM samples, before the normalisation's backward."""
    row, split = tl.program_id(0), tl.program_id(1)
    first = row.to(tl.int64) * BM
    rows = tl.arange(0, BM)
    live = rows < B - first
    cols = tl.arange(0, BN)
    factor = tl.load(d_loss).to(tl.float32) / tl.load(counted)
    label, counts, lse, w_row, f_scale = _row_of_block(
        labels, class_weight, inverse_f, lse_in, first, rows, live, scale, C, ignored, BM
    )
    along = tl.zeros([BM], tl.float32)
    partial += (split.to(tl.int64) * B + first) * D
    begin = split * span
    weight += begin.to(tl.int64) * D
    for c in range(begin, tl.minimum(begin + span, C), BN):
        known = cols < C - c
        ahead = (c - begin) * D
        raw = _products(features + first * D, weight + ahead, rows, live, cols, known, D, PRECISION, BM, BN, BD)
        gradient, column = _logit_gradients(
            raw, f_scale, label, lse, w_row, counts, c, cols, known, log_prior, bias, class_weight, inverse_w,
            weight_total, factor, tau, smoothing, C, SMOOTH,
        )  # fmt: skip
        gradient = gradient * f_scale[:, None] * column[None, :]
        along += tl.sum(gradient * raw, 1)
        left = gradient.to(features.dtype.element_ty)
        for d in range(0, D, BD):
            at = d + tl.arange(0, BD)
            whole = at < D
            y = tl.load(
                weight + ahead + cols[:, None] * D + at[None, :], mask=known[:, None] & whole[None, :], other=0.0
            )
            part = tl.dot(left, y.to(left.dtype), input_precision=PRECISION)
            place = rows[:, None] * D + at[None, :]
            wanted = live[:, None] & whole[None, :]
            if c > begin:
                part += tl.load(partial + place, mask=wanted, other=0.0)
            tl.store(partial + place, part, mask=wanted)
        tl.debug_barrier()
    tl.store(along_out + split.to(tl.int64) * B + first + rows, along, mask=live)


@triton.jit
def features_combine_kernel(
    partial, along_in, features, inverse_f, d_features, B, D, S, BM: tl.constexpr, BD: tl.constexpr
):
    """d_features = sum of the splits, less its part along the features where they are normalised."""
    first = tl.program_id(0).to(tl.int64) * BM
    rows = tl.arange(0, BM)
    live = rows < B - first
    at = tl.program_id(1) * BD + tl.arange(0, BD)
    place = first * D + rows[:, None] * D + at[None, :]
    wanted = live[:, None] & (at < D)[None, :]
    total = tl.zeros([BM, BD], tl.float32)
    along = tl.zeros([BM], tl.float32)
    for split in range(S):
        total += tl.load(partial + place, mask=wanted, other=0.0)
        along += tl.load(along_in + split * B + first + rows, mask=live, other=0.0)
        partial += B * D
    if inverse_f is not None:
        inverse = tl.load(inverse_f + first + rows, mask=live, other=0.0)
        x = tl.load(features + place, mask=wanted, other=0.0).to(tl.float32)
        total -= x * (along * inverse * inverse)[:, None]
    tl.store(d_features + place, total, mask=wanted)


NORM_BLOCKS = {"BM": 16, "BD": 128}
COMBINE_BLOCKS = {"BM": 64}
FEATURES_COMBINE_BLOCKS = {"BM": 16, "BD": 64}
FORWARD_SPLITS, FEATURES_SPLITS = 64, 32


def configuration(batch: int, dtype: torch.dtype) -> dict[str, int]:
    """Blocks, warps and stages of the three kernels with products; benchmarks/ops/resources.py shows that none spills."""
    if dtype == torch.float32:
        return {"BM": 16, "BN": 32, "BD": 16, "num_warps": 4, "num_stages": 3}
    if batch <= 16:
        return {"BM": 16, "BN": 64, "BD": 64, "num_warps": 4, "num_stages": 2}
    return {"BM": 64, "BN": 64, "BD": 32, "num_warps": 8, "num_stages": 3}


def _splits(classes: int, block: int, most: int) -> tuple[int, int]:
    """(number of splits, classes of each, a multiple of the block)."""
    blocks = -(-classes // block)
    span = -(-blocks // most)
    return -(-blocks // span), span * block


def forward(
    features: torch.Tensor,  # [B, D]
    weight: torch.Tensor,  # [C, D]
    labels: torch.Tensor,  # [B]
    log_prior: torch.Tensor | None,  # [C]
    bias: torch.Tensor | None,  # [C]
    class_weight: torch.Tensor | None,  # [C]
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: Normalize,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, ...]:
    """(loss, predictions, log-sum-exp [B], 1 / |f| [B], 1 / |w| [C], weight that counts [])."""
    (B, D), C = features.shape, weight.shape[0]
    features, weight, labels = features.contiguous(), weight.contiguous(), labels.contiguous()
    new: dict[str, Any] = {"device": features.device, "dtype": torch.float32}
    lse, inverse_f = torch.empty(B, **new), torch.empty(B, **new)
    inverse_w, predictions = torch.empty(C, **new), torch.empty_like(labels)
    losses, counted = torch.empty(B, **new), torch.empty(B, **new)
    if features.numel() >= 2**31:
        raise ValueError(f"features: expected fewer than 2**31 elements, got {features.numel()}")
    if not B:
        return torch.full((), float("nan"), **new), predictions, lse, inverse_f, inverse_w, torch.zeros((), **new)
    if features.is_cuda:
        inside = (labels >= 0) & (labels < C) | (labels == IGNORE_INDEX)
        torch._assert_async(inside.all())  # as in PyTorch's own cross-entropy; no host sync
    blocks = configuration(B, features.dtype)
    splits, span = _splits(C, blocks["BN"], FORWARD_SPLITS)
    partial = [torch.empty((splits, B), **new) for _ in range(5)]
    where = torch.empty((splits, B), device=features.device, dtype=torch.int32)
    smooth = label_smoothing > 0.0
    with device_of(features):
        used_f, used_w = _inverse_norms(features, weight, inverse_f, inverse_w, normalize)
        top, total, own, smooth_sum, best = partial
        forward_kernel[(triton.cdiv(B, blocks["BM"]), splits)](
            features, weight, labels, log_prior, bias, class_weight, used_f, used_w,
            top, total, own, smooth_sum, best, where, B, D, C, span, scale, tau,
            SMOOTH=smooth, PRECISION=dot_precision(features.dtype), **blocks,
        )  # fmt: skip
        combine_kernel[(triton.cdiv(B, COMBINE_BLOCKS["BM"]),)](
            top, total, own, smooth_sum, best, where, labels, class_weight, _weight_total(class_weight, C, smooth, new),
            lse, losses, counted, predictions, B, C, splits, label_smoothing, IGNORE_INDEX, SMOOTH=smooth, **COMBINE_BLOCKS,
        )  # fmt: skip
    counts = counted.sum()
    return losses.sum() / counts, predictions, lse, inverse_f, inverse_w, counts


def backward(
    d_loss: torch.Tensor,
    saved: list[torch.Tensor],
    features: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    log_prior: torch.Tensor | None,
    bias: torch.Tensor | None,
    class_weight: torch.Tensor | None,
    scale: float,
    tau: float,
    label_smoothing: float,
    normalize: Normalize,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, ...]:
    """Float32 (d_features, d_weight, d_bias); those not needed are empty."""
    (B, D), C = features.shape, weight.shape[0]
    features, weight, labels = features.contiguous(), weight.contiguous(), labels.contiguous()
    new: dict[str, Any] = {"device": features.device, "dtype": torch.float32}
    d_features = torch.empty((B, D) if need_features else (0,), **new)
    d_weight = torch.empty((C, D) if need_weight else (0,), **new)
    d_bias = torch.empty((C,) if need_bias else (0,), **new)
    if not B:
        return d_features, d_weight.zero_(), d_bias.zero_()
    lse, inverse_f, inverse_w, counts = saved
    used_f, used_w = (inverse_f if normalize == "both" else None), (inverse_w if normalize != "none" else None)
    blocks = configuration(B, features.dtype)
    smooth = label_smoothing > 0.0
    shared = (
        features, weight, labels, log_prior, bias, class_weight, used_f, used_w,
        _weight_total(class_weight, C, smooth, new), lse, counts, d_loss,
    )  # fmt: skip
    constants = (scale, tau, label_smoothing, IGNORE_INDEX)
    options = {"SMOOTH": smooth, "PRECISION": dot_precision(features.dtype), **blocks}
    with device_of(features):
        if need_weight or need_bias:
            weight_backward_kernel[(triton.cdiv(C, blocks["BN"]),)](
                *shared,
                d_weight if need_weight else None,
                d_bias if need_bias else None,
                B,
                D,
                C,
                *constants,
                **options,
            )
        if need_features:
            splits, span = _splits(C, blocks["BN"], FEATURES_SPLITS)
            partial, along = torch.empty((splits, B, D), **new), torch.empty((splits, B), **new)
            features_backward_kernel[(triton.cdiv(B, blocks["BM"]), splits)](
                *shared, partial, along, B, D, C, span, *constants, **options
            )
            grid = (triton.cdiv(B, FEATURES_COMBINE_BLOCKS["BM"]), triton.cdiv(D, FEATURES_COMBINE_BLOCKS["BD"]))
            features_combine_kernel[grid](
                partial, along, features, used_f, d_features, B, D, splits, **FEATURES_COMBINE_BLOCKS
            )
    return d_features, d_weight, d_bias


def _inverse_norms(
    features: torch.Tensor, weight: torch.Tensor, inverse_f: torch.Tensor, inverse_w: torch.Tensor, normalize: Normalize
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Fills the inverse norms that ``normalize`` asks for and returns them; None for those it does not."""
    used: list[torch.Tensor | None] = []
    for x, inverse, wanted in ((features, inverse_f, normalize == "both"), (weight, inverse_w, normalize != "none")):
        if wanted:
            grid = (triton.cdiv(x.shape[0], NORM_BLOCKS["BM"]),)
            inverse_norms_kernel[grid](x, inverse, x.shape[0], x.shape[1], NORM_FLOOR, **NORM_BLOCKS)
        used.append(inverse if wanted else None)
    return used[0], used[1]


def _weight_total(
    class_weight: torch.Tensor | None, classes: int, smooth: bool, new: dict[str, Any]
) -> torch.Tensor | None:
    if not smooth:
        return None
    return torch.full((), float(classes), **new) if class_weight is None else class_weight.float().sum()
