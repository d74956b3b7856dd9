"""The ops against eager PyTorch and torch.compile in alternated rounds: medians, quartiles and ratios, with every time kept.

    python benchmarks/ops/compare.py                                   # the usual shapes
    python benchmarks/ops/compare.py --large --output benchmarks/results/ops_cpu.json

Each round runs the three ways one after another, so that they share whatever else the machine does. For CPUs: a GPU's time
takes events, which ``python -m benchmarks.gpu --part ops`` has.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe
from workloads import DEVICE, DIRECTIONS, WAYS, Workload, workloads

from fastlift.bench.rounds import alternate


def peak_extra_mib(workload: Workload, way: str) -> float:
    """Peak of the memory allocated during forward and backward, above that at the start (gradients included)."""
    run = workload.runner(way, "both")
    run()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak / 2**20


def measure(workload: Workload, rounds: int, memory: bool) -> dict[str, Any]:
    """All directions of one workload."""
    found: dict[str, Any] = {"name": workload.name}
    for direction in DIRECTIONS:
        timed = alternate({way: workload.runner(way, direction) for way in WAYS}, rounds, warmup=2)
        times = {way: [1e3 * seconds for seconds in timing.seconds] for way, timing in timed.items()}
        fused = statistics.median(times["fused"])
        flops, moved = workload.work(direction)
        found[direction] = {
            "median_ms": {way: round(statistics.median(t), 3) for way, t in times.items()},
            "quartiles_ms": {way: [round(q, 3) for q in statistics.quantiles(t, n=4)] for way, t in times.items()},
            "fused_faster_than": {
                way: round(statistics.median(t) / fused, 2) for way, t in times.items() if way != "fused"
            },
            "fused_gflop_per_s": round(flops / fused / 1e6, 1),
            "fused_gb_per_s": round(moved / fused / 1e6, 1),
            "raw_ms": {way: [round(x, 3) for x in t] for way, t in times.items()},
        }
        row = found[direction]
        print(
            f"{workload.name:28} {direction:9} {row['median_ms']}  faster than {row['fused_faster_than']}", flush=True
        )
    if memory:
        found["peak_extra_mib"] = {way: round(peak_extra_mib(workload, way), 1) for way in ("eager", "fused")}
        print(f"{workload.name:28} extra peak MiB {found['peak_extra_mib']}", flush=True)
    return found


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--match", default="", help="only workloads whose name contains this")
    parser.add_argument("--large", action="store_true", help="also 4096 x 8142 and 256 x 100,000 classes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: quartiles need 2 or more")
    if DEVICE != "cpu":
        parser.error(
            "this machine has a GPU: python -m benchmarks.gpu --part ops (or CUDA_VISIBLE_DEVICES= for its CPU)"
        )
    machine = describe()
    print(machine)
    chosen = [w for w in workloads(arguments.large) if arguments.match in w.name]
    results = []
    for workload in chosen:
        rounds = arguments.rounds if workload.flops[0] < 2e10 else max(3, arguments.rounds // 6)
        results.append(measure(workload, rounds, memory=workload.name.startswith("classifier")))
    if arguments.output:
        text = json.dumps({"machine": machine, "workloads": results}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
