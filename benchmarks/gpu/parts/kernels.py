"""Where a step's time goes, kernel by kernel, from PyTorch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.parts.step import Way, make_ready
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row

STEPS = 3
LONGEST = 30
NAME_CHARACTERS = 110


def run(bench: Bench) -> None:
    """Eager, compiled, and the smallest batch, where the host may not keep up; a rehearsal tries the first."""
    large, _, small = bench.sizes.batches
    rank = bench.sizes.ranks[0]
    ways = (Way(large, rank), Way(large, rank, "default"), Way(small, rank))
    for way in ways[:1] if bench.is_rehearsal else ways:
        bench.attempt(way.name, 15 if way.mode == "eager" else 40, partial(rows_of, bench, way))


def rows_of(bench: Bench, way: Way) -> Iterator[Row]:
    """The longest kernels of a step by their own time, and the sum of all beside the step's time without a profiler."""
    torch.compiler.reset()
    step, _ = make_ready(bench, way)
    step_ms = alternated(bench.clock, {way.name: step}, 10, until=bench.left)[way.name].median
    is_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_gpu) as recorded:
        for _ in range(STEPS):
            step()
        bench.clock.wait()
    spent = sorted(_spent(recorded.key_averages(), is_gpu), key=lambda kernel: -kernel[1])
    total = sum(ms for _, ms, _ in spent)
    yield {
        "name": f"{way.name}: all kernels",
        "ms": round(total, 4),
        "step_ms": round(step_ms, 4),
        "launches": round(sum(count for _, _, count in spent), 1),
        "share_of_step": round(total / step_ms, 4),
    }
    for kernel, ms, count in spent[:LONGEST]:
        yield {
            "name": f"{way.name}: {kernel}"[:NAME_CHARACTERS],
            "ms": round(ms, 4),
            "launches": round(count, 2),
            "share_of_step": round(ms / step_ms, 4),
            "note": f"{count:.0f} launches",
        }


def _spent(events: Any, is_gpu: bool) -> list[tuple[str, float, float]]:
    """(name, milliseconds, launches) a step of each kernel, or of each op where there is no GPU."""
    found = []
    for event in events:
        if event.is_user_annotation or (is_gpu and event.device_type != DeviceType.CUDA):
            continue  # annotations span kernels that have lines of their own
        us = event.self_device_time_total if is_gpu else event.self_cpu_time_total
        if us > 0:
            found.append((event.key, us / 1e3 / STEPS, event.count / STEPS))
    return found
