"""Evaluation: batches through the frozen and tuned model compared with plain PyTorch, and five crops against one."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from fastlift import recipes
from fastlift.bench.reference import features
from fastlift.bench.rounds import Step, alternate
from fastlift.bench.train import twins
from fastlift.engine.build import load_data
from fastlift.evaluation.evaluate import evaluate, mean_logits
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.compile import compile_backbone
from fastlift.models.create import create_model
from fastlift.models.lift import LiftModel
from fastlift.system.progress import Quiet
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

CROPS = 5


def against_plain(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a batch: plain PyTorch (every token through every block, no_grad), ours eager and compiled."""
    fast, plain = twins(name, rank=32, classes=1000)
    compiled, _ = twins(name, rank=32, classes=1000)
    compile_backbone(compiled, "default", {batch})
    side = fast.preprocessing.image_size
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    found: dict[str, Tensor] = {}
    steps = {
        "plain": _step(found, "plain", lambda: _plain_logits(plain, images), torch.no_grad),
        "fastlift": _step(found, "fastlift", lambda: fast(images), torch.inference_mode),
        "fastlift compiled": _step(found, "fastlift compiled", lambda: compiled(images), torch.inference_mode),
    }
    timings = alternate(steps, rounds)
    return {
        "batch": batch,
        "rounds_ms": {way: [1e3 * s for s in timing.seconds] for way, timing in timings.items()},
        "speedup": {way: timings["plain"].median / timing.median for way, timing in timings.items()},
        "logits_differ_by": {way: float((found["plain"] - logits).abs().max()) for way, logits in found.items()},
    }


def beside_training(name: str, images: int, rounds: int) -> dict[str, Any]:
    """Training steps, one crop and five crops of as many images at a time in memory, in turn.

    ``times_training`` are images/s over those of training: the median over the rounds, each of which has all three.
    """
    model, _ = twins(name, rank=32, classes=1000)
    learner = Learner(model, losses.build("LA", torch.arange(1000, 0, -1)), OptimizerSettings(lr=0.01))
    side = model.preprocessing.image_size
    batch = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(images)
    five = batch.unflatten(0, (images // CROPS, CROPS))
    ways: dict[str, tuple[int, Step]] = {
        "training": (images, lambda: learner.step(batch, labels)),
        "one crop": (images, lambda: _logits(model, batch)),
        "five crops": (images // CROPS, lambda: _logits(model, five)),
    }
    timings = alternate({way: step for way, (_, step) in ways.items()}, rounds)
    pairs = {way: zip(timings["training"].seconds, timings[way].seconds, strict=True) for way in ways}
    times = {way: median(train / mine for train, mine in pairs[way]) * ways[way][0] / images for way in ways}
    return {
        "images": images,
        "rounds_ms": {way: [1e3 * s for s in timing.seconds] for way, timing in timings.items()},
        "times_training": times,
    }


@torch.inference_mode()
def _logits(model: LiftModel, images: Tensor) -> Tensor:
    return mean_logits(model, images)


def five_crops(rounds: int) -> dict[str, Any]:
    """Seconds of the whole evaluation of the embedded test split, with one crop and with five."""
    config = recipes.lift("shapes_lt")
    data = load_data(config.data, Quiet())
    model = create_model("shapes-clip", class_names=data.class_names)
    counts = data.group_counts.tolist()
    seconds: dict[str, list[float]] = {"none": [], "fivecrop": []}
    for _ in range(rounds + 1):
        for ensembling, measured in seconds.items():
            result = evaluate(model, data.test, counts, EvaluationSettings(tte=ensembling))  # type: ignore[arg-type]
            measured.append(result.seconds)
    ours = {name: sorted(measured[1:]) for name, measured in seconds.items()}
    one, five = (ours[name][len(ours[name]) // 2] for name in ("none", "fivecrop"))
    return {"images": len(data.test), "rounds_s": ours, "five_to_one": five / one}


def _step(found: dict[str, Tensor], name: str, logits: Any, mode: Any) -> Step:
    def step() -> None:
        with mode():
            found[name] = logits()

    return step


def _plain_logits(model: LiftModel, images: Tensor) -> Tensor:
    import torch.nn.functional as F

    classifier: Any = model.classifier
    return F.linear(F.normalize(features(model, images)), F.normalize(classifier.weight)) * classifier.scale
