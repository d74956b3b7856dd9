"""Which calls attention's own kernels take, and the blocks that they run in; without Triton."""

from functools import cache, lru_cache
from typing import NamedTuple

import torch

from ..dispatch import TRITON_DTYPES, triton_reason
from .arguments import AttentionArguments

LEAST_HALF = 8  # columns of half a head: a product takes 16
SMALLEST = 16  # keys of a segment
LARGEST = 128
SEGMENTS = 3
MOST_TOKENS = 272
MOST_HEAD_WIDTH = 128
HEAD_WIDTHS = 8  # of which a head's is a multiple, so that every head starts at an aligned address
INTERPRETED = 90  # capability where there is no GPU to ask


class Blocks(NamedTuple):
    """How a kernel is compiled: queries of a tile (in backward's second pass: of keys and of queries) and warps."""

    queries: int
    keys: int
    queries_again: int
    warps: int


@cache
def segments(tokens: int) -> tuple[tuple[int, int], ...]:
    """(start, size) of up to three blocks of keys whose sizes are powers of two and that hold ``tokens`` with few beyond them.

    197 tokens take 128 + 64 + 16 keys, which is 6 % more; a power of two would be 30 % more.
    """
    found: list[tuple[int, int]] = []
    start = 0
    while start < tokens:
        rest = -(-(tokens - start) // SMALLEST) * SMALLEST
        size = 1 << (rest.bit_length() - 1)
        if size < rest and len(found) == SEGMENTS - 1:
            size *= 2
        found.append((start, min(size, LARGEST)))
        start += found[-1][1]
    return tuple(found)


def half_of(head_width: int) -> int:
    """Columns that half a head is read into: a power of two."""
    return max(LEAST_HALF, 1 << (head_width // 2 - 1).bit_length())


def forward_blocks(tokens: int, head_width: int, dtype: torch.dtype, capability: int) -> Blocks | None:
    """None where no configuration is known to fit; benchmarks/ops/resources.py shows that none spills."""
    if capability not in (90,) or head_width > 64:
        return None
    return Blocks(16, 0, 0, 4) if dtype == torch.float32 else Blocks(64, 0, 0, 4)


def backward_blocks(tokens: int, head_width: int, dtype: torch.dtype, capability: int) -> Blocks | None:
    """As ``forward_blocks``."""
    if capability not in (90,) or head_width > 64:
        return None
    if dtype == torch.float32:
        return Blocks(16, 32, 32, 8)
    return Blocks(32 if tokens <= 208 else 16, 64, 64, 4)


@lru_cache
def most_tokens(head_width: int, dtype: torch.dtype, capability: int) -> int:
    """Up to how many tokens the kernels take heads of this width; 0: they do not."""
    if dtype not in TRITON_DTYPES or head_width % HEAD_WIDTHS or head_width > MOST_HEAD_WIDTH:
        return 0
    for tokens in range(SMALLEST, MOST_TOKENS + 1, SMALLEST):
        known = (blocks(tokens, head_width, dtype, capability) for blocks in (forward_blocks, backward_blocks))
        if None in known:
            return tokens - SMALLEST
    return MOST_TOKENS


def capability_of(device: torch.device) -> int:
    """90 of a GPU of capability 9.0."""
    return _capability(device.index) if device.type == "cuda" else INTERPRETED


@lru_cache
def _capability(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def attention_tokens(head_width: int, dtype: torch.dtype, device: torch.device) -> tuple[int, str]:
    """Up to how many tokens ``attention(impl="triton")`` takes, and why no more.

    Args:
        head_width: D/H.
        dtype: of the packed tensor.
        device: where it lies.

    Returns:
        the tokens, 0 where it takes none; a reason to put before the number of tokens that are too many.
    """
    if reason := triton_reason(device.type):
        return 0, reason
    most = most_tokens(head_width, dtype, capability_of(device))
    if not most:
        return 0, f"attention's own kernels have no configuration for heads of {head_width} in {str(dtype)[6:]} here"
    return most, f"attention's own kernels take up to {most} tokens of heads of {head_width} in {str(dtype)[6:]} here"


def check_fits(a: AttentionArguments) -> None:
    """Raise ValueError unless the kernels take this call."""
    _, tokens, _, width = a.sizes
    most = most_tokens(width // a.heads, a.qkv.dtype, capability_of(a.qkv.device))
    if tokens > most:
        raise ValueError(
            f'qkv: impl="triton" takes up to {most} tokens of heads of {width // a.heads} in {a.qkv.dtype} on this device, '
            f"got {tokens}"
        )
