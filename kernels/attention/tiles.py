"""What both directions share on a GPU: tiles of packed rows, rotary positions and their way back, keys in segments.

A head's row is read into 2 * HALF columns, HALF a power of two: each half of the head starts at a multiple of HALF, so
that the halves that rotary positions pair can be taken apart, and heads of any even width have blocks of powers of two.
Queries and keys have the same order of columns, so products do not change.
"""

# Triton kernels are a language of their own:
# mypy: allow-untyped-defs, no-check-untyped-defs

import triton
import triton.language as tl


@triton.jit
def columns_of_head(WIDTH: tl.constexpr, HALF: tl.constexpr):
    """The head's columns in the order of a tile [2 * HALF], and which of them exist."""
    place = tl.arange(0, 2 * HALF)
    columns = place
    if WIDTH != 2 * HALF:
        columns = (place // HALF) * (WIDTH // 2) + place % HALF
    return columns, (place % HALF) < WIDTH // 2


@triton.jit
def load_rows(x, rows, live, stride, WIDTH: tl.constexpr, HALF: tl.constexpr):
    """Rows of a head, [R, 2 * HALF], zero where there are none; ``x`` points at the head's first column."""
    columns, exist = columns_of_head(WIDTH, HALF)
    at = rows[:, None] * stride + columns[None, :]
    if WIDTH == 2 * HALF:
        return tl.load(x + at, mask=live[:, None], other=0.0)
    return tl.load(x + at, mask=live[:, None] & exist[None, :], other=0.0)


@triton.jit
def load_turned(x, sin, cos, rows, live, stride, first, patches, WIDTH: tl.constexpr, HALF: tl.constexpr):
    """``load_rows``, the patches among them turned by their angles in float32 and rounded as PyTorch rounds them."""
    value = load_rows(x, rows, live, stride, WIDTH, HALF)
    if sin is not None:
        columns, exist = columns_of_head(WIDTH, HALF)
        is_second = columns >= WIDTH // 2
        partner = tl.where(is_second, columns - WIDTH // 2, columns + WIDTH // 2)
        angle = rows - first
        is_patch = (angle >= 0) & (angle < patches) & live
        mask = is_patch[:, None] & exist[None, :]
        other = tl.load(x + rows[:, None] * stride + partner[None, :], mask=mask, other=0.0).to(tl.float32)
        at = angle[:, None] * WIDTH + columns[None, :]
        s = tl.load(sin + at, mask=mask, other=0.0).to(tl.float32)
        c = tl.load(cos + at, mask=mask, other=1.0).to(tl.float32)
        turned = value.to(tl.float32) * c + tl.where(is_second, other, -other) * s
        value = tl.where(is_patch[:, None], turned.to(value.dtype), value)
    return value


@triton.jit
def store_rows(x, value, rows, live, stride, WIDTH: tl.constexpr, HALF: tl.constexpr):
    """The inverse of ``load_rows``."""
    columns, exist = columns_of_head(WIDTH, HALF)
    at = rows[:, None] * stride + columns[None, :]
    mask = live[:, None]
    if WIDTH != 2 * HALF:
        mask = mask & exist[None, :]
    tl.store(x + at, value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def store_turned_back(
    x, gradient, sin, cos, rows, live, stride, first, patches, WIDTH: tl.constexpr, HALF: tl.constexpr
):
    """The gradient of what ``load_turned`` read, from that of what it gave, [R, 2 * HALF] float32."""
    if sin is not None:
        halves = tl.permute(tl.reshape(gradient, [gradient.shape[0], 2, HALF]), [0, 2, 1])
        one, two = tl.split(halves)
        column = tl.arange(0, HALF)
        angle = rows - first
        mask = ((angle >= 0) & (angle < patches) & live)[:, None] & (column < WIDTH // 2)[None, :]
        at = angle[:, None] * WIDTH + column[None, :]
        s_one = tl.load(sin + at, mask=mask, other=0.0).to(tl.float32)
        c_one = tl.load(cos + at, mask=mask, other=1.0).to(tl.float32)
        s_two = tl.load(sin + at + WIDTH // 2, mask=mask, other=0.0).to(tl.float32)
        c_two = tl.load(cos + at + WIDTH // 2, mask=mask, other=1.0).to(tl.float32)
        back = tl.join(one * c_one + two * s_two, two * c_two - one * s_one)
        gradient = tl.reshape(tl.permute(back, [0, 2, 1]), gradient.shape)
    store_rows(x, gradient, rows, live, stride, WIDTH, HALF)


@triton.jit
def is_seen(query, key, L, CAUSAL: tl.constexpr):
    """Whether a query sees a key, over shapes that broadcast."""
    seen = key < L
    if CAUSAL:
        seen = seen & (key <= query)
    return seen
