"""What each process of a measurement does, started by torchrun: ``python -m benchmarks.scaling.worker WHAT FOLDER ...``.

``train FOLDER ARGUMENTS`` is ``fastlift train`` with a clock around its steps; ``step`` and ``buffer`` alternate
a step, or the sums alone, with and without other processes. Each process leaves FOLDER/RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.counting import Shape, backbone, trained
from fastlift.bench.train import twins
from fastlift.engine.processes import company
from fastlift.training import losses
from fastlift.training.distributed import Vote, World, gather, open_group
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.reducer import Reducer
from fastlift.training.step import Learner

Row = dict[str, Any]
MODEL, RANK, CLASSES, BATCH = "shapes-clip", 4, 64, 128  # as `fastlift train` has them for shapes_lt
TENSORS = 60  # that the numbers of a buffer are cut into: LIFT's adapters of 12 blocks have so many
CPU = torch.device("cpu")


def clocked(owner: type, name: str) -> list[float]:
    """The seconds of every call of a method from now on."""
    plain, seconds = getattr(owner, name), []

    def timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(*given, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, timed)
    return seconds


def peak_mib() -> float:
    """The largest resident memory of this process; getrusage would give that of the program that started it, if larger."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def train(arguments: list[str]) -> Row:
    """The command itself; the first steps, which also warm up, are among those that are timed."""
    from fastlift import cli

    step = clocked(Learner, "step")
    code = cli.main(["train", *arguments])
    assert code == 0, code
    return {"step_s": step, "peak_mib": peak_mib()}


def step(world: World, rounds: int) -> Row:
    """A step of this process's share of a batch: with the others' gradients, and without; each begins together."""
    alone, together = twins(MODEL, RANK, CLASSES)
    counts = torch.arange(CLASSES, 0, -1)
    share = BATCH // world.size
    side = alone.preprocessing.image_size
    images = torch.randn(share, 3, side, side, generator=torch.Generator().manual_seed(world.rank))
    labels = torch.arange(share) % CLASSES
    whole = gather(labels, world).flatten()
    own = Learner(alone, losses.build("LA", counts), OptimizerSettings(lr=0.01))
    all_of_them = Learner(together, losses.build("LA", counts), OptimizerSettings(lr=0.01), world=world)
    ways: dict[str, Callable[[], object]] = {
        "alone": lambda: own.step(images, labels),
        "together": lambda: all_of_them.step(images, labels, whole),
    }
    numbers = sum(parameter.numel() for parameter in all_of_them.parameters.values())
    return {"bytes": 4 * numbers, "share": share, **alternated(ways, world, rounds)}


def buffer(world: World, rounds: int) -> Row:
    """What is added up for a ViT-B/16 with 1000 classes: the all-reduce alone, and all that a step does around it."""
    found: Row = {}
    shape = Shape()
    for name, numbers, times in (
        ("LIFT", trained(shape), rounds),
        ("full fine-tuning", trained(shape) + backbone(shape), max(rounds // 8, 3)),
    ):
        parameters = [nn.Parameter(part) for part in torch.zeros(numbers).tensor_split(TENSORS)]
        reducer, flat = Reducer(parameters, world, Vote(CPU)), torch.zeros(numbers)
        ways: dict[str, Callable[[], object]] = {
            "all-reduce": partial(dist.all_reduce, flat),
            "all": partial(zero_and_add_up, reducer),
        }
        found[name] = {"bytes": 4 * numbers, **alternated(ways, world, times)}
    return found


def zero_and_add_up(reducer: Reducer) -> None:
    """What a step does beside its own passes."""
    nothing = torch.zeros(())
    reducer.zero()
    reducer.add_up(nothing, nothing, lambda: False)


def alternated(ways: dict[str, Callable[[], object]], world: World, rounds: int) -> Row:
    """Seconds of each round of each way; the processes begin each together."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            if world.size > 1:
                dist.barrier()
            start = time.perf_counter()
            way()
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return {"seconds": seconds}


def main() -> None:
    """Do one of them, and leave what was found."""
    what, folder, *more = sys.argv[1:]
    if what == "train":
        found = train(more)
    else:
        torch.set_num_threads(1)
        with company() as world:
            if world.size > 1:
                open_group(world, CPU)
            found = {"step": step, "buffer": buffer}[what](world, int(more[0]))
    (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
