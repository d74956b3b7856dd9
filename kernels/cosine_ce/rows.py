"""The Triton kernels of the classifier's op on a GPU: before its products, over each row of logits, and after."""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

import triton
import triton.language as tl

BLOCK = 1024
WARPS = 8
CLASSES_A_PROGRAM = 4


@triton.jit
def _inverse_norm(x):
    """1 / max(|x|, 1e-12) of rows, or of one, as torch.nn.functional.normalize has it."""
    norm = tl.sqrt(tl.sum(x * x, -1))
    return 1.0 / tl.where(norm < 1e-12, 1e-12, norm)  # a NaN stays


@triton.jit(do_not_specialize=["B"])
def classifier_prepare_kernel(
    weight, labels, class_weight, column_scale, sums, in_range, B, D, C, scale, ignored,
    BC: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scale / |w| of BC classes (weight None: scale), and by the first program: the weight that counts, the sum of all class
    weights (into ``sums``), and whether all labels are classes or to be left out."""
    program = tl.program_id(0)
    classes = program * BC + tl.arange(0, BC)
    factor = tl.full([BC], 1.0, tl.float32) * scale
    if weight is not None:
        cols = tl.arange(0, BD)
        wanted = (classes < C)[:, None] & (cols < D)[None, :]
        at = classes.to(tl.int64)[:, None] * D + cols[None, :]
        factor *= _inverse_norm(tl.load(weight + at, mask=wanted, other=0.0).to(tl.float32))
    tl.store(column_scale + classes, factor, mask=classes < C)
    if program == 0:
        counted, wrong = 0.0, 0
        for b in range(0, B, BLOCK):
            sample = b + tl.arange(0, BLOCK)
            label = tl.load(labels + sample, mask=sample < B, other=ignored)
            inside = (label >= 0) & (label < C)
            each = tl.where(inside, 1.0, 0.0)
            if class_weight is not None:
                each = tl.load(class_weight + label, mask=inside, other=0.0).to(tl.float32)
            counted += tl.sum(each, 0)
            wrong += tl.sum(((label != ignored) & (inside == 0)).to(tl.int32), 0)
        every = tl.full([], 1.0, tl.float32) * C
        if class_weight is not None:
            every = tl.full([], 0.0, tl.float32)
            for c in range(0, C, BLOCK):
                known = c + tl.arange(0, BLOCK)
                every += tl.sum(tl.load(class_weight + known, mask=known < C, other=0.0).to(tl.float32), 0)
        tl.store(sums, counted)
        tl.store(sums + 1, every)
        tl.store(in_range, wrong == 0)


@triton.jit
def _logits(raw, at, known, r_scale, column_scale, bias, log_prior, tau):
    """Of classes ``at``: plain logits, those with the prior, and the scale of their column."""
    column = tl.load(column_scale + at, mask=known, other=0.0)
    plain = tl.load(raw + at, mask=known, other=0.0) * r_scale * column
    if bias is not None:
        plain += tl.load(bias + at, mask=known, other=0.0).to(tl.float32)
    adjusted = plain
    if log_prior is not None:
        adjusted += tau * tl.load(log_prior + at, mask=known, other=0.0).to(tl.float32)
    return plain, adjusted, column


@triton.jit(do_not_specialize=["first"])
def classifier_rows_kernel(
    logits, gradient, d_logits, features, labels, column_scale, bias, log_prior, class_weight, sums, losses, predictions,
    first, stride, D, C, tau, smoothing, SMOOTH: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of one row of raw products: weighted loss, prediction, and the gradients of the products and of the logits.

    ``gradient`` (of the products, as they are multiplied; rows ``stride`` apart) and ``d_logits`` are None where nobody
    wants them; either may be ``logits`` itself. ``features`` are those to normalise by, or None.
    """
    row = tl.program_id(0).to(tl.int64)
    sample = first + row
    logits += row * C
    label = tl.load(labels + sample)
    inside = (label >= 0) & (label < C)  # others are left out, or an assertion beside this kernel; never an address
    r_scale = 1.0
    if features is not None:
        at = tl.arange(0, BD)
        r_scale = _inverse_norm(tl.load(features + sample * D + at, mask=at < D, other=0.0).to(tl.float32))
    top, best = float("-inf"), float("-inf")
    total, smooth, where = 0.0, 0.0, 0
    for c in range(0, C, BLOCK):
        cols = c + tl.arange(0, BLOCK)
        known = cols < C
        plain, z, _column = _logits(logits, cols, known, r_scale, column_scale, bias, log_prior, tau)
        here, first_of = tl.max(tl.where(known, plain, float("-inf")), 0, return_indices=True)
        where = tl.where(here > best, first_of + c, where)
        best = tl.maximum(best, here)
        if SMOOTH:
            term = z
            if class_weight is not None:
                term *= tl.load(class_weight + cols, mask=known, other=0.0).to(tl.float32)
            smooth += tl.sum(tl.where(known, term, 0.0), 0)
        z = tl.where(known, z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, 0))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - anchor) + tl.sum(tl.exp(z - anchor), 0)
        top = higher
    lse = top + tl.log(total)
    _plain, own, _scale = _logits(logits, label, inside, r_scale, column_scale, bias, log_prior, tau)
    weight = tl.where(inside, 1.0, 0.0)
    if class_weight is not None:
        weight = tl.load(class_weight + label, mask=inside, other=0.0).to(tl.float32)
    hit = (1.0 - smoothing) * weight
    even = tl.where(inside, smoothing / C, 0.0)
    share, loss = hit, hit * (lse - own)
    if SMOOTH:
        every = tl.load(sums + 1)
        share += even * every
        loss += even * (every * lse - smooth)
    tl.store(losses + sample, tl.where(inside, loss, 0.0))
    tl.store(predictions + sample, where)
    if gradient is not None or d_logits is not None:
        tl.debug_barrier()  # the label's logit, which all threads have read, is about to be overwritten
        mean = 1.0 / tl.load(sums)
        for c in range(0, C, BLOCK):
            cols = c + tl.arange(0, BLOCK)
            known = cols < C
            _z, z, column = _logits(logits, cols, known, r_scale, column_scale, bias, log_prior, tau)
            d_z = tl.exp(z - lse) * share - tl.where(cols == label, hit, 0.0)
            if SMOOTH:
                each = even
                if class_weight is not None:
                    each = even * tl.load(class_weight + cols, mask=known, other=0.0).to(tl.float32)
                d_z -= each
            d_z = tl.where(inside, d_z * mean, 0.0)  # 0 times infinity, of a row that is left out, is no NaN
            if d_logits is not None:
                tl.store(d_logits + row * C + cols, d_z, mask=known)
            if gradient is not None:
                d_raw = d_z * column * r_scale
                tl.store(gradient + row * stride + cols, d_raw.to(gradient.dtype.element_ty), mask=known)


@triton.jit
def classifier_finish_kernel(d_x, x, D, BD: tl.constexpr):
    """In place, of one row: d_x less its part along x, which was divided by its length."""
    cols = tl.arange(0, BD)
    at = tl.program_id(0).to(tl.int64) * D + cols
    row = tl.load(x + at, mask=cols < D, other=0.0).to(tl.float32)
    gradient = tl.load(d_x + at, mask=cols < D, other=0.0)
    inverse = _inverse_norm(row)
    gradient -= row * (tl.sum(gradient * row, 0) * inverse * inverse)
    tl.store(d_x + at, gradient, mask=cols < D)
