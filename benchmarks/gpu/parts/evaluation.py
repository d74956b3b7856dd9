"""images/s of evaluation with one crop and with five, in turn with the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.models import batch_of, learner_of, model_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row
from fastlift.evaluation.evaluate import mean_logits
from fastlift.models.compile import compile_backbone

CROPS = 5
MODES = ("eager", "default")


def run(bench: Bench) -> None:
    """Eager, and with a compiled backbone; a rehearsal tries the first."""
    for mode in MODES[:1] if bench.is_rehearsal else MODES:
        name = f"evaluation {mode}"
        bench.attempt(name, 12 if mode == "eager" else 40, partial(rows_of, bench, name, mode))


def rows_of(bench: Bench, name: str, mode: str) -> Iterator[Row]:
    """Training, one crop, five crops: as many images at a time in memory in each."""
    torch.compiler.reset()
    model = model_of(bench, bench.sizes.ranks[0])
    whole = max(1, bench.sizes.batches[0] // CROPS) * CROPS
    images, labels = batch_of(bench, model, whole)
    if mode != "eager":
        compile_backbone(model, mode, {whole})
    learner = learner_of(bench, model)
    five = images.unflatten(0, (whole // CROPS, CROPS))
    runs: dict[str, tuple[int, Callable[[], Any]]] = {
        "training": (whole, lambda: learner.step(images, labels)),
        "one crop": (whole, lambda: _logits(model, images)),
        "five crops": (whole // CROPS, lambda: _logits(model, five)),
    }
    times = alternated(
        bench.clock, {way: call for way, (_, call) in runs.items()}, bench.sizes.rounds, until=bench.left
    )
    rates = {way: 1e3 * count / times[way].median for way, (count, _) in runs.items()}
    for way, rate in rates.items():
        yield {
            "name": f"{name}, {way}",
            "images": runs[way][0],
            **times[way].to_row(),
            "images_per_s": round(rate, 1),
            "times_training": round(rate / rates["training"], 3),
            "note": f"{rate / rates['training']:.2f} times the training's images/s",
        }


@torch.inference_mode()
def _logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    return mean_logits(model, images)
