"""Run folders as the trainer writes them, with figures that a real accumulator makes of drawn logits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.metrics import Metrics

MakeRun = Callable[..., Path]


def tail_counts(classes: int, most: int = 500, least: int = 5) -> list[int]:
    return [int(most * (least / most) ** (index / max(1, classes - 1))) for index in range(classes)]


def drawn_metrics(
    counts: list[int], seed: int, tail_bonus: float = 0.0, images_per_class: int | None = None
) -> Metrics:
    """Metrics of logits whose margin for the right class shrinks with the class's training count."""
    classes = len(counts)
    images_per_class = images_per_class or (20 if classes <= 1000 else 4)  # logits of many classes are large
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(images_per_class)
    margins = 1.0 + tail_bonus + 0.6 * torch.tensor(counts, dtype=torch.float32).log10()
    logits = torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += margins[labels]
    accumulator = ClassificationAccumulator(classes)
    accumulator.update(1.5 * logits, labels)
    return accumulator.compute(counts)


def events(epochs: int, steps_per_epoch: int, seed: int, metrics: Metrics) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    result: list[dict[str, Any]] = []
    for epoch in range(epochs):
        for place in range(steps_per_epoch):
            step = epoch * steps_per_epoch + place + 1
            progress = step / (epochs * steps_per_epoch)
            result.append(
                {
                    "event": "step",
                    "epoch": epoch,
                    "step": step,
                    "loss": 3.0 * np.exp(-2 * progress) + 0.1 * generator.standard_normal(),
                    "accuracy": 40 + 40 * progress,
                    "learning_rate": 0.005 * (1 + np.cos(np.pi * epoch / epochs)),
                    "images_per_s": 0.0 if step == 1 else 300 + 10 * generator.standard_normal(),
                    "data_wait_share": 0.02,
                    "seconds": 0.4 * step,
                }
            )
        result.append(
            {
                "event": "epoch",
                "step": step,
                "epoch": epoch,
                "train_loss": 2.0,
                "train_accuracy": 60.0 + epoch,
                "seconds": 12.0,
            }
        )
        result.append({"event": "evaluation", "step": step, "epoch": epoch, **metrics.summary()})
    return result


@pytest.fixture
def final_metrics() -> Metrics:
    return drawn_metrics(tail_counts(30), seed=0)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str = "lift",
        *,
        seed: int = 0,
        classes: int = 30,
        finished: bool = True,
        cut_bytes: int = 0,
        rank: int = 4,
        tail_bonus: float = 0.0,
        class_names: list[str] | None = None,
        data_wait_share: float = 0.02,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        counts = tail_counts(classes)
        metrics = drawn_metrics(counts, seed, tail_bonus)
        config = {
            "data": {"dataset": "shapes_lt"},
            "model": {"rank": rank, "tuner": "adaptformer"},
            "training": {"lr": 0.01},
        }
        (folder / "config.json").write_text(json.dumps(config))
        data = {
            "name": "shapes_lt",
            "classes": classes,
            "class_names": class_names or [f"striped red star {index}" for index in range(classes)],
            "class_counts": counts,
            "group_counts": counts,
        }
        (folder / "data.json").write_text(json.dumps(data))
        text = "".join(json.dumps(event) + "\n" for event in events(4, 25, seed, metrics))
        (folder / "metrics.jsonl").write_text(text[: len(text) - cut_bytes])
        if finished:
            shifted = drawn_metrics(counts, seed, tail_bonus + 0.3)
            results = {
                "model": {
                    "tuned_parameters": 61_000,
                    "tuner_parameters": 21_000,
                    "head_parameters": 40_000,
                    "rank": rank,
                },
                "data": data,
                "metrics": metrics.to_dict(),
                "evaluations": {"center": metrics.to_dict(), "fivecrop": shifted.to_dict()},
                "timing": {
                    "train_s": 81.2,
                    "evaluate_s": 4.5,
                    "images_per_s": 310.0,
                    "data_wait_share": data_wait_share,
                },
                "machine": {"cores": 2, "gpu": None},
                "versions": {"torch": "2.9"},
            }
            (folder / "results.json").write_text(json.dumps(results))
        return folder

    return make
