"""What the loop around a step costs: everything but forward, backward and the optimiser, with data that is there already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fastlift import recipes
from fastlift.bench.train import twins
from fastlift.data.index.index import array_index
from fastlift.data.loading.batch import Batch, Loader
from fastlift.engine.loop import Fit, FitSettings
from fastlift.engine.pace import Pace
from fastlift.reporting.console import Terminal
from fastlift.runs.folder import create
from fastlift.runs.identity import Identity
from fastlift.training import losses
from fastlift.training.distributed import World
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner


class _Batches:
    """One batch in memory, given again and again."""

    def __init__(self, images: Tensor, labels: Tensor, steps: int) -> None:
        self.batch, self.steps_per_epoch = Batch(images, labels, torch.arange(len(images)), labels), steps

    def epoch(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        for _ in range(step, self.steps_per_epoch):
            yield self.batch


class _Clock:
    """Adds up the time inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def overhead(name: str, classes: int, batch: int, steps: int) -> dict[str, Any]:
    """Share of an epoch that is neither forward, backward nor optimiser; checkpoints are counted apart."""
    model, _ = twins(name, rank=32, classes=classes)
    learner = Learner(model, losses.build("LA", torch.arange(classes, 0, -1)), OptimizerSettings(lr=0.01))
    side = model.preprocessing.image_size
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    batches = _Batches(images, torch.arange(batch) % classes, steps)
    work, saving = _Clock(), _Clock()
    with TemporaryDirectory() as folder:
        config = recipes.lift("shapes_lt", epochs=1)
        run = create(Path(folder), config, overwrite=False)
        identity, index = (
            Identity.new(config, "fp32"),
            array_index("none", np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1), ["a"]),
        )
        settings = config.part(FitSettings)
        pace = Pace(torch.device("cpu"), World(), "", Terminal())
        fit = Fit(settings, True, run, learner, pace, cast(Loader, batches), Terminal(), World(), index, identity)
        backward = torch.Tensor.backward
        fit._write = saving.wrap(fit._write)  # type: ignore[method-assign]
        model.features = work.wrap(model.features)  # type: ignore[method-assign]
        learner.loss.on_features = work.wrap(learner.loss.on_features)  # type: ignore[method-assign]
        learner.optimizer.step = work.wrap(learner.optimizer.step)  # type: ignore[method-assign]
        torch.Tensor.backward = work.wrap(backward)  # type: ignore[method-assign]
        try:
            start = time.perf_counter()
            fit()
            total = time.perf_counter() - start
        finally:
            torch.Tensor.backward = backward  # type: ignore[method-assign]
    rest = total - work.seconds - saving.seconds
    return {
        "classes": classes,
        "steps": steps,
        "step_ms": 1e3 * (total - saving.seconds) / steps,
        "loop_ms": 1e3 * rest / steps,
        "loop_share": rest / (total - saving.seconds),
        "checkpoint_ms": 1e3 * saving.seconds,
    }
