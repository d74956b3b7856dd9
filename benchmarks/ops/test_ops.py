"""The ops under pytest-benchmark: eager, torch.compile and fused, each direction.

    pytest benchmarks/ops/test_ops.py --benchmark-columns=median,iqr,q1,q3,rounds

GB/s and GFLOP/s of the fused op's counted work stand in extra_info, beside this machine's measured copy and matmul rates.
For ratios use compare.py, which alternates the rounds; on a GPU, python -m benchmarks.gpu, which has its clock.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("pytest_benchmark")

from machine import rates
from workloads import DEVICE, DIRECTIONS, WAYS, workloads

WORKLOADS = workloads()
pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="times the host: python -m benchmarks.gpu times a GPU")


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_op(benchmark: Any, workload: Any, direction: str, way: str) -> None:
    """One way of one workload, by pytest-benchmark."""
    run = workload.runner(way, direction)
    run()
    benchmark.group = f"{workload.name} {direction}"
    benchmark.pedantic(run, warmup_rounds=2, rounds=15)
    flops, moved = workload.work(direction)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(rates() | {"gflop_per_s": flops / seconds / 1e9, "gb_per_s": moved / seconds / 1e9})
