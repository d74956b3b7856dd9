"""Each op of ``kernels/`` against eager PyTorch and torch.compile at the ViT's shapes, forward and both ways."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

import torch

from benchmarks.documents import ROOT
from benchmarks.gpu.bench import Bench, Skip, outcome_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row

sys.path.insert(0, str(ROOT / "benchmarks" / "ops"))  # scripts, which find each other there
import workloads
from compare import peak_extra_mib

import fastlift_kernels

DIRECTIONS = ("forward", "both")
NEEDS_S = 12.0  # a workload, most of it torch.compile's


def run(bench: Bench) -> None:
    """One shape of each op after another, the largest first: a budget that is cut leaves no op out."""
    sizes = bench.sizes
    adapters = [(f"adapter {n}x{d} rank {r}", partial(workloads.adapter, n, d, r)) for n, d, r in sizes.adapters]
    activations = [
        (f"{kind} {n}x{d}", partial(workloads.activation, n, d, kind))
        for n, d in sizes.activations
        for kind in ("quick_gelu", "gelu")
    ]
    classifiers = [(f"classifier {b}x{d}x{c}", partial(workloads.classifier, b, d, c)) for b, d, c in sizes.classifiers]
    attentions = [
        (f"attention {b}x{n}x{d} heads {h}", partial(workloads.attention, b, n, d, h))
        for b, n, d, h in sizes.attentions
    ]
    makers: list[tuple[str, Callable[[], workloads.Workload]]] = [
        maker
        for turn in zip_longest(adapters, activations, classifiers, attentions)
        for maker in turn
        if maker is not None
    ]
    for name, make in makers:
        # A rehearsal compiles the smallest graph alone: it is the code around it that is tried.
        is_compiled = not bench.is_rehearsal or name.startswith("quick_gelu")
        bench.attempt(name, NEEDS_S, partial(rows_of, bench, make, is_compiled))


def rows_of(bench: Bench, make: Callable[[], Any], is_compiled: bool) -> Iterator[Row]:
    """The three ways in both directions, and the memory of eager and fused."""
    workload = make()
    # The compiled one is made last: making another resets the compiler.
    ways = ["eager", "fused", "compile"] if is_compiled else ["eager", "fused"]
    for direction in DIRECTIONS:
        runs: dict[str, Callable[[], Any]] = {}
        for way in ways:
            try:
                runs[way] = _warm(workload, way, direction)
            except Exception as error:
                yield {"name": f"{workload.name} {direction} {way}", **outcome_of(error)}
                bench.check_device()
        times = alternated(bench.clock, runs, bench.sizes.rounds, warmup=1, ahead=True, until=bench.left)
        flop, moved = workload.work(direction)
        for way, measured in times.items():
            # The fused op's bytes divide the other ways' times too: what they move beyond them is what they lose.
            yield {
                "name": f"{workload.name} {direction} {way}",
                "direction": direction,
                "way": way,
                **measured.to_row(),
                **bench.shares(measured.median, flop, moved),
            }
        del runs
    if workload.name.startswith("classifier"):
        for way in ("eager", "fused"):
            if _can(way):
                mib = round(peak_extra_mib(workload, way), 1)
                yield {
                    "name": f"{workload.name} memory {way}",
                    "extra_mib": mib,
                    "note": f"{mib:,.1f} MiB beside its inputs",
                }


def _can(way: str) -> bool:
    return way != "fused" or workloads.FUSED != "native" or bool(fastlift_kernels.available()["native"])


def _warm(workload: Any, way: str, direction: str) -> Callable[[], Any]:
    """A runner that has run once."""
    if not _can(way):
        raise Skip(f"the fused op is not there: {fastlift_kernels.available()['native_reason']}")
    run = workload.runner(way, direction)
    run()
    if workloads.DEVICE == "cuda":
        torch.cuda.synchronize()
    return run
