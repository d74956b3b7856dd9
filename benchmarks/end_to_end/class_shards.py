"""``python -m benchmarks.end_to_end.class_shards``: steps with a classifier that is split by class, and unsplit, on gloo.

A model of one block (width 768, images of 32 pixels), so that the classifier is nearly all there is. Unsplit and split learners
take the same steps in turn, in one group of processes; memory is that of groups of their own. ``alone`` compares what one
process computes of its classes with the unsplit op on as many, without other processes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

MODEL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 768, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
MIB = 2**20
KINDS = ("unsplit", "split")


def learner(kind: str, classes: int, world: Any) -> Any:
    """Of a tiny backbone with a cosine classifier of so many classes."""
    import fastlift
    from fastlift.training.class_shards import ShardSettings
    from fastlift.training.optimizers import OptimizerSettings
    from fastlift.training.step import Learner

    names = [f"class {number}" for number in range(classes)]
    split = ShardSettings(kind == "split")
    rows = split.rows(classes, world)
    model = fastlift.create_model(MODEL, pretrained="random", class_names=names, init="random", rank=8, rows=rows)
    model.classifier = split.build(model.classifier, classes, world)
    return Learner(model, fastlift.losses.build("LA", [1] * classes), OptimizerSettings(lr=0.01), world=world)


def batch_of(number: int, images: int, classes: int, world: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """This process's images and labels of a batch, and all labels."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randn(images, 3, 32, 32, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    mine = slice(images * world.rank // world.size, images * (world.rank + 1) // world.size)
    return pixels[mine], labels[mine], labels


def in_turn(world: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of steps of both kinds, one after the other; and how far apart their losses are."""
    some = {kind: learner(kind, asked.classes, world) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    apart = 0.0
    for number in range(asked.rounds + 1):
        batch = batch_of(number, asked.batch, asked.classes, world)
        losses = []
        for kind in KINDS if number % 2 else KINDS[::-1]:
            some[kind].sums.restart()
            dist.barrier()
            start = time.perf_counter()
            some[kind].step(*batch)
            dist.barrier()
            if number:  # the first is a warm-up
                seconds[kind].append(time.perf_counter() - start)
            losses.append(some[kind].sums.read()[0])
        apart = max(apart, abs(losses[0] / losses[1] - 1))
    return {"step_s": seconds, "ratio": ratio(seconds), "losses_apart": apart}


def ratio(seconds: dict[str, list[float]]) -> float:
    """The median of the first's seconds by those of the second, round by round."""
    first, second = seconds.values()
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def memory(world: Any, asked: argparse.Namespace, kind: str) -> dict[str, float]:
    """MiB by which this process grows: at the peak of three steps; and what of it is weight, gradient, momentum and logits."""
    batch, warm = batch_of(0, asked.batch, asked.classes, world), learner(kind, 1000, world)
    warm.step(batch[0], batch[1] % 1000, batch[2] % 1000)
    before = _memory_mib("VmRSS")
    _peak_from_here()
    some = learner(kind, asked.classes, world)
    built = _memory_mib("VmHWM")
    _peak_from_here()
    for _ in range(3):
        some.step(*batch)
    steps, weight = _memory_mib("VmHWM"), some.parameters["head.weight"]
    images = asked.batch if kind == "split" else -(-asked.batch // world.size)
    return {
        "building_mib": built - before,
        "steps_mib": steps - before,
        "weight_gradient_momentum_mib": 3 * 4 * weight.numel() / MIB,
        "logits_mib": 4 * len(weight) * images / MIB,
    }


def _memory_mib(what: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def _peak_from_here() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def alone(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one process's classes: the unsplit op, forward and backward, and the functions of a share."""
    from fastlift_kernels import cosine_cross_entropy
    from fastlift_kernels.cosine_ce.shard import (
        RowGradients,
        ShardArguments,
        features_gradient,
        row_statistics,
        shard_gradients,
    )

    classes, generator = asked.classes // asked.processes, torch.Generator().manual_seed(0)
    features = torch.randn(asked.batch, 768, generator=generator).requires_grad_()
    weight = torch.randn(classes, 768, generator=generator).requires_grad_()
    labels, prior = (
        torch.randint(classes, (asked.batch,), generator=generator),
        torch.randn(classes, generator=generator),
    )

    def op() -> None:
        features.grad = weight.grad = None
        cosine_cross_entropy(features, weight, labels, prior)[0].backward()

    @torch.no_grad()
    def share() -> None:
        a = ShardArguments(features, weight, labels, prior, None, 25.0, 1.0, "both")
        found = row_statistics(a)
        lse = found.top + found.total.log()
        d = torch.full((asked.batch,), 1 / asked.batch)
        d_features, _, _ = shard_gradients(a, found.exponentials, (found.top - lse).exp(), RowGradients(d, d), True)
        features_gradient(d_features, features, "both")

    ways: dict[str, Callable[[], None]] = {"op": op, "share": share}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(asked.rounds + 1):
        for name, way in ways.items() if number % 2 else reversed(ways.items()):
            start = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {"classes": classes, "seconds": seconds, "ratio": ratio(seconds)}


def _ranked(rank: int, port: int, asked: argparse.Namespace, what: str, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(asked.processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from fastlift.engine.processes import company
    from fastlift.training.distributed import open_group

    with company() as world:
        open_group(world, torch.device("cpu"))
        found = in_turn(world, asked) if what == "time" else memory(world, asked, what)
        if world.is_main:
            results.put(found)
        dist.barrier()


def group(asked: argparse.Namespace, what: str) -> Any:
    """What the first of some processes finds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = processes.get_context("spawn").SimpleQueue()
    processes.spawn(_ranked, (port, asked, what, results), nprocs=asked.processes)
    return results.get()


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("alone", "steps", "memory"), nargs="*", default=["alone", "steps", "memory"])
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: getattr(asked, name) for name in ("classes", "batch", "processes", "rounds")}
    found |= {"width": 768, "torch": torch.__version__, "cpus": os.cpu_count()}
    if "alone" in asked.only:
        found["alone"] = alone(asked)
    if "steps" in asked.only:
        found["steps"] = group(asked, "time")
    if "memory" in asked.only:
        found["memory"] = {kind: group(asked, kind) for kind in KINDS}
    text = json.dumps(found, indent=2)
    print(text)
    if asked.output is not None:
        asked.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
