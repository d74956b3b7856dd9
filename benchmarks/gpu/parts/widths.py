"""The training step of other backbones: wider, longer, with registers, rotary positions, a mean or a query as pool.

Each by the library's attention and by our own where it takes the sequence (``--fused attention``), which of longer ones says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.bench import Bench, outcome_of
from benchmarks.gpu.models import batch_of, learner_of
from benchmarks.gpu.rounds import alternated
from benchmarks.gpu.rows import Row
from fastlift.models.create import create_model
from fastlift.models.fused import FusedSettings

NEEDS_S = 20.0


def run(bench: Bench) -> None:
    """Each model at the smallest batch of the training step."""
    if bench.is_rehearsal:
        import benchmarks.gpu.toy  # noqa: F401 - timm knows the model from then on
    for model in bench.sizes.other_models:
        bench.attempt(model, NEEDS_S, partial(rows_of, bench, model))


def rows_of(bench: Bench, name: str) -> Iterator[Row]:
    """A step with each attention, in turn."""
    steps: dict[str, Callable[[], Any]] = {}
    about: dict[str, Row] = {}
    for fused in ((), ("attention",)):
        way = " ".join([name, "fused" if fused else "library"])
        try:
            steps[way], about[way] = _ready(bench, name, fused)
        except Exception as error:
            yield {"name": way, **outcome_of(error)}
            bench.check_device()
            bench.tidy()
    times = alternated(bench.clock, steps, bench.sizes.rounds, warmup=1, calls=1, until=bench.left)
    for way, measured in times.items():
        images_per_s = round(1e3 * about[way]["batch"] / measured.median, 1)
        yield {"name": way, **measured.to_row(), "images_per_s": images_per_s, **about[way]}


def _ready(bench: Bench, name: str, fused: tuple[Any, ...]) -> tuple[Callable[[], Any], Row]:
    """A step that has been taken, and what is found of it alone."""
    names, batch = [f"class {i}" for i in range(bench.sizes.classes)], bench.sizes.batches[-1]
    torch.manual_seed(0)
    options: dict[str, Any] = {"pretrained": "random", "init": "random", "image_size": bench.sizes.image_size}
    model = create_model(name, class_names=names, rank=bench.sizes.ranks[0], **options)
    model.set_compute_dtype(bench.dtype)
    model.to(bench.device)
    vit: Any = model.vit
    told = FusedSettings(fused).build(vit)
    learner = learner_of(bench, model)
    images, labels = batch_of(bench, model, batch)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = partial(learner.step, images, labels)
    for _ in range(3):  # the caches' first steps are others than the rest
        step()
    bench.clock.wait()
    found: Row = {"batch": batch, "tokens": vit.sequence_length, "loss": round(learner.sums.read()[0], 4)}
    if told:
        found["note"] = "; ".join(told)
    if bench.device.type == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return step, found
