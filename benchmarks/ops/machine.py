"""What this machine's processor is and can do: names, versions, measured copy and matmul rates."""

import functools
import os
import time
from typing import Any

import torch
from workloads import DTYPE

import fastlift_kernels
from fastlift.bench.rounds import alternate
from fastlift.system.machine import processor_name


@functools.cache
def rates() -> dict[str, float]:
    """copy_gb_per_s (read plus write, 256 MB) and matmul_gflop_per_s (2048 x 2048, the benchmarks' dtype)."""
    source = torch.randn(2**26)
    target = torch.empty_like(source)
    a, b = (torch.randn(2048, 2048, dtype=DTYPE) for _ in range(2))
    timed = alternate({"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}, rounds=15, warmup=2)
    copy, matmul = timed["copy"].median, timed["matmul"].median
    return {"copy_gb_per_s": 2 * source.numel() * 4 / copy / 1e9, "matmul_gflop_per_s": 2 * 2048**3 / matmul / 1e9}


def describe() -> dict[str, Any]:
    """Processor, threads, load, versions and date, for the head of a result file."""
    report = fastlift_kernels.available()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": processor_name(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "dtype": str(DTYPE).removeprefix("torch."),
        "torch": torch.__version__,
        "triton": report["triton_version"],
        "native_isa": report["native_isa"],
        "native_compiler": report["native_compiler"],
        **{name: round(rate, 1) for name, rate in rates().items()},
    }
