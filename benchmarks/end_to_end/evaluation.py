"""Evaluation: batches through the frozen and tuned model compared with plain PyTorch, and five crops against one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastlift import recipes
from fastlift.bench.reference import features
from fastlift.bench.rounds import Step, alternate
from fastlift.bench.train import twins
from fastlift.engine.build import load_data
from fastlift.evaluation.evaluate import evaluate
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.models.compile import compile_backbone
from fastlift.models.create import create_model
from fastlift.models.lift import LiftModel
from fastlift.system.progress import Quiet


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
