"""The frozen MLP with its residual: the library's products, inductor's and own ones, as a whole and product by product."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastlift_kernels as kernels
from benchmarks.documents import ROOT
from benchmarks.gpu.bench import Bench, outcome_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row

sys.path.insert(0, str(ROOT / "benchmarks" / "ops"))  # scripts, which find each other there
from traffic import mlp, mlp_product

Runs = dict[str, Callable[[], Any]]
Blocks = dict[str, int]

KIND = "quick_gelu"
# changes of the op's blocks for an H100; with 128 columns two programs fit on a multiprocessor
BLOCKS: dict[str, Blocks] = {
    "": {},
    " 4 stages": {"num_stages": 4},
    " 128 columns": {"BN": 128},
    " groups of 16": {"GROUP": 16},
}
# options of inductor; "max" is max-autotune without CUDA graphs, with TMA its templates are persistent programs too
MAX = {"max_autotune": True, "coordinate_descent_tuning": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "inductor default": {},
    "inductor max": MAX,
    "inductor max with TMA": MAX | {"triton.enable_persistent_tma_matmul": True},
}


def run(bench: Bench) -> None:
    """The products one by one, then all of it, forward and both ways: what decides over each kernel comes first."""
    for product in ("gradient", "in", "in, nothing kept", "out"):
        bench.attempt(f"mlp {product}", 8, partial(rows_of_product, bench, product))
    bench.attempt("mlp forward", 45, partial(rows_of_all, bench, False))
    bench.attempt("mlp both", 45, partial(rows_of_all, bench, True))
    for product in ("gradient", "in", "out"):
        bench.attempt(f"mlp {product} in other blocks", 20, partial(rows_of_blocks, bench, product))


def rows_of_product(bench: Bench, product: str) -> Iterator[Row]:
    """One product with what surrounds it."""
    N, D, M = _sizes(bench)
    runs = {"gradient": _gradient, "out": _out}.get(product, partial(_in, keep=product == "in"))(bench, {})
    flop = 2.0 * N * D * M
    yield from _timed(bench, f"mlp {product}", runs, flop, mlp_product(product, D, M, bench.dtype.itemsize) * N)


def rows_of_blocks(bench: Bench, product: str) -> Iterator[Row]:
    """An own product in the blocks that the op has here, and in others that compile without a spill."""
    N, D, M = _sizes(bench)
    runs = {}
    for name, change in BLOCKS.items():
        own = {"gradient": _gradient, "out": _out, "in": partial(_in, keep=True)}[product](bench, change)["own"]
        runs[f"own{name}"] = own
    flop = 2.0 * N * D * M
    moved = mlp_product(product, D, M, bench.dtype.itemsize) * N
    yield from _timed(bench, f"mlp {product} in blocks:", runs, flop, moved)


def rows_of_all(bench: Bench, both: bool) -> Iterator[Row]:
    """The op, without gradients or with its backward; inductor with tokens in one dimension, which the op makes, and in two."""
    N, D, M = _sizes(bench)
    x, w_in, b_in, w_out, b_out, residual = _arguments(bench)
    shape = (bench.sizes.batches[0], bench.sizes.vit.tokens, D)
    leaves = [t.view(shape).requires_grad_(both) for t in (x, residual)]
    seed = torch.randn_like(leaves[0])

    def op(impl: kernels.Impl | None, x: Tensor, residual: Tensor) -> Tensor:
        return kernels.mlp(x, w_in, b_in, w_out, b_out, residual, kind=KIND, impl=impl)

    def in_two_dimensions(x: Tensor, residual: Tensor) -> Tensor:
        return residual + F.linear(kernels.quick_gelu(F.linear(x, w_in, b_in)), w_out, b_out)

    ways: dict[str, Callable[..., Tensor]] = {"library": partial(op, None), "own": partial(op, "triton")}
    if not bench.is_rehearsal:  # which compiles elsewhere
        ways |= {name: torch.compile(partial(op, None), options=options) for name, options in OPTIONS.items()}
        ways["inductor max, tokens in two dimensions"] = torch.compile(in_two_dimensions, options=MAX)

    def once(way: Callable[..., Tensor]) -> Any:
        if both:
            return torch.autograd.grad(way(*leaves), leaves, seed)
        with torch.no_grad():
            return way(*leaves)

    forward, backward = mlp(D, M, bench.dtype.itemsize, kept=both)
    moved = (forward + (backward if both else 0)) * N
    runs = {name: partial(once, way) for name, way in ways.items()}
    name = f"mlp {'both' if both else 'forward'}"
    yield from _timed(bench, name, runs, (8.0 if both else 4.0) * N * D * M, moved)


def _sizes(bench: Bench) -> tuple[int, int, int]:
    vit = bench.sizes.vit
    return bench.sizes.batches[0] * vit.tokens, vit.width, vit.mlp


def _arguments(bench: Bench) -> list[Tensor]:
    """x, W_in, b_in, W_out, b_out, residual."""
    N, D, M = _sizes(bench)
    shapes = ((N, D), (M, D), (M,), (D, M), (D,), (N, D))
    scales = (1.0, D**-0.5, 0.1, M**-0.5, 0.1, 1.0)
    made = {"device": bench.device, "dtype": bench.dtype}
    return [torch.randn(shape, **made) * by for shape, by in zip(shapes, scales, strict=True)]  # type: ignore[call-overload]


def _in(bench: Bench, change: Blocks, keep: bool) -> Runs:
    x, w_in, b_in, *_ = _arguments(bench)
    N, _, M = _sizes(bench)
    pre, hidden = (x.new_empty(N, M) for _ in range(2))

    def library() -> Tensor:
        return kernels.quick_gelu(F.linear(x, w_in, b_in))

    def own() -> None:
        _own().product_in(x, w_in, b_in, pre if keep else None, hidden, KIND, **change)

    return {"library": library, "own": own}


def _out(bench: Bench, change: Blocks) -> Runs:
    *_, w_out, b_out, residual = _arguments(bench)
    N, _, M = _sizes(bench)
    hidden, y = residual.new_empty(N, M).normal_(std=1e-2), torch.empty_like(residual)

    def library() -> Tensor:
        return residual + F.linear(hidden, w_out, b_out)

    def own() -> None:
        _own().product_out(hidden, w_out, b_out, None, residual, y, **change)

    return {
        "library": library,
        "own": own,
        "in place": lambda: residual.add_(b_out).addmm_(hidden, w_out.T),
        "in place, bias added before": lambda: residual.addmm_(hidden, w_out.T),
    }


def _gradient(bench: Bench, change: Blocks) -> Runs:
    d_y, _, _, w_out, *_ = _arguments(bench)
    N, _, M = _sizes(bench)
    pre = torch.randn(N, M, device=bench.device, dtype=bench.dtype, requires_grad=True)
    d_pre = torch.empty_like(pre)
    act = kernels.quick_gelu(pre)

    def library() -> Any:
        return torch.autograd.grad(act, pre, d_y @ w_out, retain_graph=True)

    def own() -> None:
        _own().product_gradient(d_y, w_out, pre.detach(), d_pre, KIND, **change)

    return {"library": library, "own": own}


def _own() -> Any:
    """The own products; they need a GPU."""
    from fastlift_kernels.mlp import gpu

    return gpu


def _timed(bench: Bench, name: str, runs: Runs, flop: float, moved: float) -> Iterator[Row]:
    """Each way once, then all of them in turn; the bytes are those of own products, for every way."""
    ready: Runs = {}
    for way, each in runs.items():
        try:
            if way.startswith("own") and (reason := kernels.mlp_reason(bench.dtype, bench.device)):
                yield {"name": f"{name} {way}", "skipped": reason}
                continue
            each()
            ready[way] = each
        except Exception as error:
            yield {"name": f"{name} {way}", **outcome_of(error)}
            bench.check_device()
    times = alternated(bench.clock, ready, bench.sizes.rounds, warmup=1, ahead=True, until=bench.left)
    for way, measured in times.items():
        shares = bench.shares(measured.median, flop, moved)
        yield {"name": f"{name} {way}", "way": way, **measured.to_row(), **shares}
