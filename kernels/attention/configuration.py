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
MOST_WHOLE = 256  # tokens whose keys are one block
ROOMY = (90, 100)  # capabilities with 227 KB of shared memory a program
NARROW = (86, 89, 120)  # with 99 KB
MOST_NARROW = 224  # tokens
MOST_FLOAT32 = 208
ARCHITECTURES = (80, 86, 89, 90, 100, 120)  # that the configurations were compiled for
INTERPRETED = 90  # capability where there is no GPU to ask


class Forward(NamedTuple):
    """How the forward kernel is compiled."""

    queries: int  # of a tile
    warps: int
    stages: int


class Whole(NamedTuple):
    """How the backward kernel with all keys at once is compiled."""

    queries: int
    keys: int
    warps: int
    stages: int


class Passes(NamedTuple):
    """How the backward kernel with two passes is compiled."""

    queries: int  # of a tile in the first pass
    keys: int  # of a block in the second
    queries_again: int  # of a tile in the second
    warps: int
    stages: int


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


def forward_blocks(tokens: int, head_width: int, dtype: torch.dtype, capability: int) -> Forward | None:
    """None where no configuration is known to fit; benchmarks/ops/resources.py shows that none spills."""
    if not _fits(tokens, head_width, dtype, capability):
        return None
    if dtype == torch.float32 or head_width > 64:
        return Forward(16, warps=4, stages=1)
    if capability in ROOMY:
        return Forward(64, warps=4, stages=2 if capability == 90 else 1)
    return Forward(16 if capability == 120 else 32, warps=4, stages=1)


def backward_blocks(tokens: int, head_width: int, dtype: torch.dtype, capability: int) -> Whole | Passes | None:
    """As ``forward_blocks``."""
    if not _fits(tokens, head_width, dtype, capability):
        return None
    if dtype == torch.float32:
        return Passes(16, 32, 32, warps=8, stages=1)
    if capability in ROOMY and head_width <= 64 and tokens <= MOST_WHOLE:
        return Whole(32, max(64, 1 << (tokens - 1).bit_length()), warps=8, stages=2)
    return Passes(16, 64, 32, warps=8 if head_width > 64 else 4, stages=1)


def _fits(tokens: int, head_width: int, dtype: torch.dtype, capability: int) -> bool:
    """Whether keys and values, and what is beside them, fit into a multiprocessor's shared memory."""
    if dtype == torch.float32:
        return capability in ROOMY and head_width <= 64 and tokens <= MOST_FLOAT32
    if head_width > 64:
        return capability in ROOMY
    return capability in (80, *ROOMY) or (capability in NARROW and tokens <= MOST_NARROW)


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
    """90 of a GPU of capability 9.0; of one in between, the next lower that was compiled for. 0 below all."""
    return _capability(device.index) if device.type == "cuda" else INTERPRETED


@lru_cache
def _capability(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return max((one for one in ARCHITECTURES if one <= 10 * major + minor), default=0)


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
