"""What a training costs, for ``benchmarks/findings.py``: its products, counted, and the CPU time of its loop.

CPU time, data included, is disturbed less by other work on the machine than the time on the wall.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import benchmarks.documents as documents
from benchmarks.counting import Shape, step_flop
from fastlift.config import Config
from fastlift.engine.loop import Fit
from fastlift.models.backbones import outline
from fastlift.models.vit import VisionTransformer
from fastlift.training.stages import ProgressiveSettings


@dataclass
class Training:
    """``cpu_s``: CPU seconds of the training loop, of all threads of this process."""

    cpu_s: float = 0.0


@contextmanager
def measured() -> Iterator[Training]:
    """The cost of the training inside."""
    found, call = Training(), Fit.__call__

    def timed(fit: Fit) -> None:
        start = time.process_time()
        call(fit)
        found.cpu_s += time.process_time() - start

    Fit.__call__ = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Fit.__call__ = call  # type: ignore[method-assign]


def training_tflop(config: Config, results: dict[str, Any]) -> float:
    """TFLOP of the products of all steps of a run of LIFT, by its settings and its ``results.json``."""
    shape = outline(config.model.model, config.model.image_size)
    assert shape is not None
    assert isinstance(shape.vit, VisionTransformer)
    vit, block, prefix = shape.vit, shape.vit.block(0), shape.vit.sequence_length - shape.vit.grid[0] ** 2
    images, total = results["data"]["train_images"], 0.0
    stages = config.part(ProgressiveSettings).build(vit, config.training.epochs)
    for side, epochs in stages.epochs_at().items():
        patch = vit.patches.stride[0]
        sizes = Shape(
            tokens=(side // patch) ** 2 + prefix,
            width=vit.width,
            mlp=block.mlp_width,
            heads=block.heads,
            depth=vit.depth,
            patch=patch,
            rank=results["model"]["rank"],
            classes=results["data"]["classes"],
            bytes=4,
        )
        total += epochs * images * step_flop(sizes) / 1e12
    return total


def markdown(sets: dict[str, Any]) -> str:
    """Rows by data set; the first row of a set is what the others are compared with, seed by seed."""
    head = ["", "all", "many", "medium", "few", "all: beside the first", "TFLOP", "CPU time"]
    lines = []
    for name, found in sets.items():
        first = next(iter(found["rows"].values()))
        for title, runs in found["rows"].items():
            gains = [run["accuracy"] - other["accuracy"] for run, other in zip(runs, first, strict=True)]
            times = [run["cpu_s"] / other["cpu_s"] for run, other in zip(runs, first, strict=True)]
            lines.append(
                [
                    f"`{name}`, {title}",
                    *(_mean([run[column] for run in runs]) for column in ("accuracy", "many", "medium", "few")),
                    "" if runs is first else f"{statistics.fmean(gains):+.1f}",
                    f"{runs[0]['tflop']:.1f} ({runs[0]['tflop'] / first[0]['tflop']:.2f})",
                    f"{statistics.median(run['cpu_s'] for run in runs):.0f} s ({statistics.median(times):.2f})",
                ]
            )
    return documents.table(head, lines)


def _mean(values: list[float | None]) -> str:
    """Mean and sample standard deviation."""
    known = [value for value in values if value is not None and value == value]
    if not known:
        return "–"
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.fmean(known):.1f} ± {spread:.1f}"
