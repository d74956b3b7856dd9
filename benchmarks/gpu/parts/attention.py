"""Attention from the packed result of the QKV product to the output product's input, and back to one packed gradient.

The library's backends, each with the joining of the gradients of q, k and v that it needs, against attention's own kernels in
the blocks that are shipped and in others. So the first minutes on a GPU decide which are worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.bench import Bench, Skip, outcome_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row
from fastlift_kernels import attention, attention_tokens
from fastlift_kernels.attention.configuration import Forward, Passes, Whole

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
CHOSEN, OWN = "PyTorch's choice", "own"
# Blocks beside the shipped ones, of forward and backward, compiled for capability 9.0 without a spill: at 197 tokens and at 257.
Variants = dict[str, tuple[Forward | None, Whole | Passes | None]]
SHORT: Variants = {
    "own, forward 32": (Forward(32, warps=4, stages=2), None),
    "own, whole 16 queries": (None, Whole(16, 256, warps=8, stages=3)),
    "own, whole 16 queries 16 warps": (None, Whole(16, 256, warps=16, stages=2)),
    "own, passes 32": (None, Passes(32, 64, 64, warps=4, stages=1)),
    "own, passes 16": (None, Passes(16, 64, 64, warps=4, stages=1)),
}
LONG: Variants = {
    "own, passes 16 64 again": (None, Passes(16, 64, 64, warps=4, stages=1)),
    "own, passes 16 8 warps": (None, Passes(16, 64, 64, warps=8, stages=2)),
    "own, passes 32 8 warps": (None, Passes(32, 64, 64, warps=8, stages=2)),
}
VARIANTS = SHORT | LONG
DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True)
class Call:
    """A shape that is raced: heads of ``width`` in ``images`` of ``tokens``, ``patches`` of which have angles."""

    images: int
    tokens: int
    heads: int
    width: int
    patches: int = 0
    variants: tuple[str, ...] = ()
    needs_s: float = 10.0

    @property
    def name(self) -> str:
        rotary = " rotary" if self.patches else ""
        return f"attention {self.images}x{self.heads}x{self.tokens}x{self.width}{rotary}"

    def angles(self, device: torch.device) -> tuple[Any, ...]:
        """sin, cos and the tokens before the patches, or nothing."""
        if not self.patches:
            return ()
        angles = torch.randn(self.patches, self.width, device=device)
        return angles.sin(), angles.cos(), self.tokens - self.patches


def run(bench: Bench) -> None:
    """The model's own shape in the largest batch and the middle one, then the lengths of other models."""
    vit = bench.sizes.vit
    head = vit.width // vit.heads
    large, middle = bench.sizes.batches[:2]
    calls = [Call(large, vit.tokens, vit.heads, head, variants=tuple(SHORT), needs_s=25.0)]
    calls.append(Call(middle, vit.tokens, vit.heads, head))
    if not bench.is_rehearsal:
        # CLIP and DINOv2 with registers at 224 pixels and patches of 16; CLIP ViT-L/14; DINOv3, whose patches have angles
        calls += [Call(large, 201, 12, 64), Call(large, 257, 16, 64, variants=tuple(LONG), needs_s=15.0)]
        calls.append(Call(large, 261, 12, 64, patches=256))
    for call in calls:
        bench.attempt(call.name, call.needs_s, partial(rows_of, bench, call))


def rows_of(bench: Bench, call: Call) -> Iterator[Row]:
    """Every contender that takes it, in turn, in each direction."""
    width = call.heads * call.width
    shape = (call.images, call.tokens, 3 * width)
    packed = torch.randn(shape, device=bench.device, dtype=bench.dtype, requires_grad=True)
    seed = torch.randn(call.images, call.tokens, width, device=bench.device, dtype=bench.dtype)
    angles = call.angles(bench.device)
    contenders = [CHOSEN, *BACKENDS, OWN]
    is_hopper = bench.device.type == "cuda" and torch.cuda.get_device_capability(bench.device) == (9, 0)
    contenders += call.variants if is_hopper else ()
    outputs: dict[str, Tensor] = {}
    for name in contenders:
        try:
            outputs[name] = _attend(packed, call, angles, name)
            _gradient(outputs[name], packed, seed, name)
        except Exception as error:
            outputs.pop(name, None)
            yield {"name": f"{call.name} {name}", **_refusal(error)}
            bench.check_device()
    yield from _differences(call, outputs)
    flop = 4.0 * call.images * call.tokens**2 * width
    token = call.images * call.tokens * width * packed.itemsize
    # q, k, v and the gradient of out read, three gradients written: the least; five products where forward has two
    work = {"forward": (flop, 4 * token), "backward": (2.5 * flop, 7 * token), "both": (3.5 * flop, 11 * token)}
    for direction in DIRECTIONS:
        runs = {name: _runner(packed, call, angles, name, direction, outputs[name], seed) for name in outputs}
        yield from _timed(bench, f"{call.name} {direction}", runs, *work[direction])


def _differences(call: Call, outputs: Mapping[str, Tensor]) -> Iterator[Row]:
    """A fast kernel that is wrong is no contender: how far the own results are from the library's."""
    if CHOSEN not in outputs:
        return
    truth = outputs[CHOSEN].detach().float()
    for name in outputs:
        if name.startswith(OWN):
            difference = float((outputs[name].detach().float() - truth).norm() / truth.norm())
            row: Row = {"name": f"{call.name} {name} against {CHOSEN}", "note": f"differs by {difference:.1e}"}
            yield row if difference < 0.02 else {**row, "error": f"differs by {difference:.1e}"}


def _runner(
    packed: Tensor, call: Call, angles: tuple[Any, ...], name: str, direction: str, out: Tensor, seed: Tensor
) -> Callable[[], Any]:
    if direction == "backward":
        return partial(_gradient, out, packed, seed, name)

    def forward() -> Tensor:
        with torch.no_grad():
            return _attend(packed, call, angles, name)

    def both() -> Tensor:
        return _gradient(_attend(packed, call, angles, name), packed, seed, name)

    return forward if direction == "forward" else both


def _timed(bench: Bench, name: str, runs: Mapping[str, Callable[[], Any]], flop: float, moved: float) -> Iterator[Row]:
    times = alternated(bench.clock, runs, bench.sizes.rounds, warmup=1, ahead=True, until=bench.left)
    for contender, measured in times.items():
        yield {"name": f"{name} {contender}", **measured.to_row(), **bench.shares(measured.median, flop, moved)}


def _refusal(error: Exception) -> Row:
    """A backend that does not take the shape, or is not built in, is no fault; nor are kernels that do not run here."""
    told = str(error)
    if isinstance(error, RuntimeError) and ("No available kernel" in told or "No viable backend" in told):
        error = Skip("PyTorch has no such kernel for this shape here")
    elif isinstance(error, RuntimeError) and "cudnn" in told.lower() and "support" in told:
        error = Skip(told.splitlines()[0][:200])
    return outcome_of(error)


def _attend(packed: Tensor, call: Call, angles: tuple[Any, ...], name: str) -> Tensor:
    """[B, L, D] of packed [B, L, 3D]."""
    if name.startswith(OWN):
        most, reason = attention_tokens(call.width, packed.dtype, packed.device)
        if call.tokens > most:
            raise Skip(reason)
        with _blocks(name):
            return attention(packed, call.heads, None, *angles, impl="triton")
    with sdpa_kernel(BACKENDS[name]) if name in BACKENDS else nullcontext():
        return attention(packed, call.heads, None, *angles)


def _gradient(out: Tensor, packed: Tensor, seed: Tensor, name: str) -> Tensor:
    """[B, L, 3D], one tensor."""
    with _blocks(name):
        return torch.autograd.grad(out, packed, seed, retain_graph=True)[0]


@contextmanager
def _blocks(name: str) -> Iterator[None]:
    """Own kernels run in a variant's blocks."""
    forward, backward = VARIANTS.get(name, (None, None))
    if forward is None and backward is None:
        yield
        return
    from fastlift_kernels.attention import gpu

    shipped = gpu.forward_blocks, gpu.backward_blocks
    if forward is not None:
        gpu.forward_blocks = lambda *_: forward  # type: ignore[assignment]
    if backward is not None:
        gpu.backward_blocks = lambda *_: backward  # type: ignore[assignment]
    try:
        yield
    finally:
        gpu.forward_blocks, gpu.backward_blocks = shipped
