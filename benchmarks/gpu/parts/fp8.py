"""What ``--frozen fp8`` is made of: quantisation in the pass that makes its input or after it, and products in bf16 and in fp8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastlift_kernels as kernels
from benchmarks.gpu.bench import Bench, Skip, outcome_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row
from fastlift.models.fp8 import CAPABILITY
from fastlift_kernels.quantise import reference

NEEDS_S = 6.0
EPS = 1e-5


def run(bench: Bench) -> None:
    """The shapes of the model's blocks at the largest batch."""
    vit = bench.sizes.vit
    tokens = bench.sizes.batches[0] * vit.tokens
    makers = {"rows": _rows, "layer norm": _layer_norm}
    groups = [(f"quantise {kind} {tokens}x{vit.width}", partial(make, vit.width)) for kind, make in makers.items()]
    for kind, make in (("QuickGELU", _activation), ("QuickGELU backward", _activation_backward)):
        groups.append((f"quantise {kind} {tokens}x{vit.mlp}", partial(make, vit.mlp)))
    for name, contenders in groups:
        bench.attempt(name, NEEDS_S, partial(passes, bench, name, tokens, contenders))
    for inner, outer in ((vit.width, 3 * vit.width), (vit.width, vit.mlp), (vit.mlp, vit.width)):
        name = f"product {tokens}x{inner}x{outer}"
        bench.attempt(name, NEEDS_S, partial(products, bench, name, tokens, inner, outer))


def passes(bench: Bench, name: str, tokens: int, make: Callable[..., tuple[dict[str, Any], float]]) -> Iterator[Row]:
    """One quantisation: apart from what makes its input, in one pass with it, and as inductor does it."""
    _refuse(bench)
    runs, moved = make(partial(torch.randn, tokens, device=bench.device, dtype=bench.dtype))
    if bench.is_rehearsal:
        del runs["inductor"]  # a rehearsal compiles one graph, in another part
    yield from _timed(bench, name, runs, 0.0, tokens * moved)


def products(bench: Bench, name: str, tokens: int, inner: int, outer: int) -> Iterator[Row]:
    """One product: bf16 against fp8 with and without fast accumulation, whose operands are quantised already."""
    _refuse(bench)
    x = torch.randn(tokens, inner, device=bench.device, dtype=bench.dtype)
    weight, bias = (torch.randn(*shape, device=bench.device, dtype=bench.dtype) for shape in ((outer, inner), (outer,)))
    (rows, scale), (columns, column_scale) = map(kernels.quantise_rows, (x, weight))

    def scaled(fast: bool) -> Tensor:
        options: dict[str, Any] = {"bias": bias, "out_dtype": bench.dtype, "use_fast_accum": fast}
        return torch._scaled_mm(rows, columns.t(), scale, column_scale.t(), **options)

    runs: dict[str, Callable[[], Tensor]] = {
        "bf16": lambda: F.linear(x, weight, bias),
        "fp8": partial(scaled, True),
        "fp8, slow accumulation": partial(scaled, False),
    }
    for contender in list(runs):
        try:
            runs[contender]()
        except Exception as error:
            del runs[contender]
            is_missing = bench.is_rehearsal and isinstance(error, RuntimeError)
            yield {"name": f"{name} {contender}", **outcome_of(Skip("not on a CPU") if is_missing else error)}
            bench.check_device()
    yield from _timed(bench, name, runs, 2.0 * tokens * inner * outer, tokens * (inner + 2.0 * outer))


def _rows(width: int, randn: Callable[..., Tensor]) -> tuple[dict[str, Any], float]:
    x = randn(width)
    compiled = torch.compile(reference.quantise_rows_reference)
    return {"one pass": partial(kernels.quantise_rows, x), "inductor": partial(compiled, x)}, 3.0 * width


def _layer_norm(width: int, randn: Callable[..., Tensor]) -> tuple[dict[str, Any], float]:
    x = randn(width)
    weight, bias = torch.ones_like(x[0]), torch.zeros_like(x[0])
    compiled = torch.compile(reference.layer_norm_quantise_reference)
    return {
        "apart": lambda: kernels.quantise_rows(F.layer_norm(x, (width,), weight, bias, EPS)),
        "one pass": partial(kernels.layer_norm_quantise, x, weight, bias, EPS),
        "inductor": partial(compiled, x, weight, bias, EPS),
    }, 3.0 * width


def _activation(width: int, randn: Callable[..., Tensor]) -> tuple[dict[str, Any], float]:
    pre = randn(width)
    compiled = torch.compile(reference.activation_quantise_reference)
    return {
        "apart": lambda: kernels.quantise_rows(kernels.quick_gelu(pre)),
        "one pass": partial(kernels.activation_quantise, pre, "quick_gelu"),
        "inductor": partial(compiled, pre, "quick_gelu"),
    }, 3.0 * width


def _activation_backward(width: int, randn: Callable[..., Tensor]) -> tuple[dict[str, Any], float]:
    pre, d_y = randn(width).requires_grad_(), randn(width)
    y = kernels.quick_gelu(pre)
    plain = pre.detach()
    compiled = torch.compile(reference.activation_backward_quantise_reference)
    return {
        "apart": lambda: kernels.quantise_rows(torch.autograd.grad(y, pre, d_y, retain_graph=True)[0]),
        "one pass": partial(kernels.activation_backward_quantise, d_y, plain, "quick_gelu"),
        "inductor": partial(compiled, d_y, plain, "quick_gelu"),
    }, 5.0 * width


def _refuse(bench: Bench) -> None:
    if bench.device.type == "cuda" and torch.cuda.get_device_capability(bench.device) < CAPABILITY:
        raise Skip("no fp8 units")


def _timed(bench: Bench, name: str, runs: dict[str, Any], flop: float, moved: float) -> Iterator[Row]:
    times = alternated(bench.clock, runs, bench.sizes.rounds, warmup=1, ahead=True, until=bench.left)
    for contender, measured in times.items():
        yield {"name": f"{name} {contender}", **measured.to_row(), **bench.shares(measured.median, flop, moved)}
