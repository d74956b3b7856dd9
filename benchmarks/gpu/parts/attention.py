"""The backends of ``scaled_dot_product_attention`` at the ViT's shape, on views of packed q, k, v as the model has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.bench import Bench, Skip, outcome_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
CHOSEN = "PyTorch's choice"
NEEDS_S = 8.0


def run(bench: Bench) -> None:
    """The largest batch, and the middle one."""
    for batch in bench.sizes.batches[:2]:
        vit = bench.sizes.vit
        name = f"attention {batch}x{vit.heads}x{vit.tokens}x{vit.width // vit.heads}"
        bench.attempt(name, NEEDS_S, partial(rows_of, bench, name, batch))


def rows_of(bench: Bench, name: str, batch: int) -> Iterator[Row]:
    """Every backend that takes it, forward and backward, in turn."""
    vit = bench.sizes.vit
    packed = torch.randn(batch, vit.tokens, 3 * vit.width, device=bench.device, dtype=bench.dtype, requires_grad=True)
    flop = 4.0 * batch * vit.tokens**2 * vit.width
    token = batch * vit.tokens * vit.width * packed.itemsize
    outputs: dict[str, tuple[Tensor, list[Tensor], Tensor]] = {}
    for backend in (CHOSEN, *BACKENDS):
        try:
            outputs[backend] = _with_graph(packed, vit.heads, backend)
        except Exception as error:
            yield {"name": f"{name} {backend}", **_refusal(error)}
            bench.check_device()
    forward = {b: partial(_forward, packed, vit.heads, b) for b in outputs}
    yield from _timed(bench, f"{name} forward", forward, flop, 4 * token)
    backward = {
        b: partial(torch.autograd.grad, [out], inputs, [seed], retain_graph=True)
        for b, (out, inputs, seed) in outputs.items()
    }
    # five products where forward has two; q, k, v, out and its gradient are read, three gradients written
    yield from _timed(bench, f"{name} backward", backward, 2.5 * flop, 8 * token)


def _timed(bench: Bench, name: str, runs: Mapping[str, Callable[[], Any]], flop: float, moved: float) -> Iterator[Row]:
    times = alternated(bench.clock, runs, bench.sizes.rounds, warmup=1, ahead=True, until=bench.left)
    for backend, measured in times.items():
        yield {"name": f"{name} {backend}", **measured.to_row(), **bench.shares(measured.median, flop, moved)}


def _refusal(error: Exception) -> Row:
    """A backend that does not take the shape, or is not built in, is no fault."""
    told = str(error)
    if isinstance(error, RuntimeError) and ("No available kernel" in told or "No viable backend" in told):
        error = Skip("PyTorch has no such kernel for this shape here")
    elif isinstance(error, RuntimeError) and "cudnn" in told.lower() and "support" in told:
        error = Skip(told.splitlines()[0][:200])
    return outcome_of(error)


def _views(packed: Tensor, heads: int) -> list[Tensor]:
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1)]  # [B, H, L, D/H]


def _attend(inputs: list[Tensor], backend: str) -> Tensor:
    q, k, v = inputs
    if backend == CHOSEN:
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(BACKENDS[backend]):
        return F.scaled_dot_product_attention(q, k, v)


def _forward(packed: Tensor, heads: int, backend: str) -> Tensor:
    with torch.no_grad():
        return _attend(_views(packed, heads), backend)


def _with_graph(packed: Tensor, heads: int, backend: str) -> tuple[Tensor, list[Tensor], Tensor]:
    """(output, the inputs that get gradients, the output's gradient)."""
    inputs = _views(packed, heads)
    out = _attend(inputs, backend)
    seed = torch.randn(out.shape, device=out.device, dtype=out.dtype)
    torch.autograd.grad([out], inputs, [seed], retain_graph=True)
    return out, inputs, seed
