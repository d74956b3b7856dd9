"""Counting and timing for the end-to-end benchmarks: FLOP, saved bytes, dispatched ops, the machine's matmul rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of alternated rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(contenders: dict[str, Step], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Time the contenders in turn, round by round, so that whatever the machine does hits all of them."""
    for step in contenders.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def count_flop(step: Step) -> int:
    """FLOP of a step, by PyTorch's counter (a multiply and an add are two)."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


class _CountOps(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.ops += 1
        return function(*args, **kwargs or {})


def count_ops(step: Step) -> int:
    """Dispatched ops of a step, views included."""
    with _CountOps() as counter:
        step()
    return counter.ops


def matmul_gflops(dtype: torch.dtype, rows: int) -> float:
    """The machine's matmul rate on a ViT-B/16's largest product, [rows, 768] x [768, 3072], in GFLOP/s (median)."""
    x, weight = torch.randn(rows, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    timing = alternate({"matmul": partial(torch.nn.functional.linear, x, weight)}, 7, warmup=2)
    return 2 * rows * 768 * 3072 / timing["matmul"].median / 1e9
