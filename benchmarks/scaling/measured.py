"""Trains and times 1, 2 and 4 processes on this machine, by torchrun, for ``python -m benchmarks.scaling``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Row = dict[str, Any]
PROCESSES = (1, 2, 4)
TRAINING = (
    "--dataset",
    "shapes_lt",
    "--epochs",
    "1",
    "--log-steps",
    "1",
    "--amp",
    "fp32",
    "--threads",
    "1",
    "--seed",
    "0",
)


def together(processes: int, what: str, folder: Path, *arguments: str) -> list[Row]:
    """What each process of a group found.

    Raises:
        CalledProcessError: one of them failed; it has said why.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*torchrun, "-m", "benchmarks.scaling.worker", what, str(folder), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]


def epoch(processes: int) -> Row:
    """One epoch of ``fastlift train``: the loss of each step, and of each process the seconds of its steps and its memory."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        found = together(processes, "train", Path(folder), *TRAINING, "--output", str(run))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    evaluated = next(line for line in lines if line["event"] == "evaluation")
    return {
        "losses": [line["loss"] for line in steps],
        "accuracy": evaluated["accuracy"],
        "step_s": [one["step_s"] for one in found],
        "peak_mib": [round(one["peak_mib"]) for one in found],
    }


def largest_difference(losses: list[float], reference: list[float]) -> float:
    """The largest relative difference of the losses of an epoch's steps.

    Raises:
        ValueError: another number of steps.
    """
    return max(abs(mine - theirs) / abs(theirs) for mine, theirs in zip(losses, reference, strict=True))


def slowest(found: list[Row], way: str) -> list[float]:
    """Seconds of each round, of the process that took longest."""
    return [max(rounds) for rounds in zip(*(one["seconds"][way] for one in found), strict=True)]


def compared(found: list[Row], way: str, base: str) -> Row:
    """Median milliseconds of two ways that alternated, and the median and quartiles of the rounds' ratios."""
    mine, theirs = slowest(found, way), slowest(found, base)
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    medians = {f"{name}_ms": 1e3 * statistics.median(times) for name, times in ((way, mine), (base, theirs))}
    return {**medians, "ratio": middle, "ratio_quartiles": [low, high], "rounds": len(ratios)}


def epochs(repetitions: int) -> Row:
    """An epoch with each number of processes, in turn; differences are to the first with one process."""
    trained: dict[int, list[Row]] = {processes: [] for processes in PROCESSES}
    for _ in range(repetitions):
        for processes in PROCESSES:
            trained[processes].append(epoch(processes))
    reference = trained[1][0]["losses"]
    return {
        str(processes): {
            "steps": len(reference),
            "largest_difference": max(largest_difference(run["losses"], reference) for run in runs),
            "accuracy": runs[0]["accuracy"],
            "peak_mib": [run["peak_mib"] for run in runs],
            "seconds_in_steps": [max(map(sum, run["step_s"])) for run in runs],
        }
        for processes, runs in trained.items()
    }


def steps(rounds: int) -> Row:
    """A step with the others beside a step of the same images alone."""
    found = {}
    for processes in PROCESSES[1:]:
        with TemporaryDirectory() as folder:
            each = together(processes, "step", Path(folder), str(rounds))
        about = {"bytes": each[0]["bytes"], "images_a_process": each[0]["share"]}
        found[str(processes)] = {**about, **compared(each, "together", "alone")}
    return found


def buffers(rounds: int) -> Row:
    """The sums of a step beside the all-reduce in them."""
    found = {}
    for processes in PROCESSES[1:]:
        with TemporaryDirectory() as folder:
            each = together(processes, "buffer", Path(folder), str(rounds))
        found[str(processes)] = {
            name: {"bytes": one["bytes"], **compared([rank[name] for rank in each], "all", "all-reduce")}
            for name, one in each[0].items()
        }
    return found
