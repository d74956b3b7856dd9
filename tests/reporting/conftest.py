"""Run folders as the trainer writes them, with figures that a real accumulator makes of drawn logits."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastlift.data.index.index import PathTable
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.metrics import Metrics
from fastlift.evaluation.per_image import PerImage, PerImageRecorder
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.runs.predictions import Predictions, predictions_path, write_predictions
from fastlift.training.distributed import World

MakeRun = Callable[..., Path]


def tail_counts(classes: int, most: int = 500, least: int = 5) -> list[int]:
    return [int(most * (least / most) ** (index / max(1, classes - 1))) for index in range(classes)]


def drawn(
    counts: list[int], seed: int, tail_bonus: float = 0.0, images_per_class: int | None = None
) -> tuple[Metrics, PerImage]:
    """What is found of logits whose margin for the right class shrinks with the class's training count."""
    classes = len(counts)
    images_per_class = images_per_class or (20 if classes <= 1000 else 4)  # logits of many classes are large
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(images_per_class)
    margins = 1.0 + tail_bonus + 0.6 * torch.tensor(counts, dtype=torch.float32).log10()
    logits = torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += margins[labels]
    accumulator = ClassificationAccumulator(classes)
    accumulator.update(1.5 * logits, labels)
    recorder = PerImageRecorder(len(labels))
    recorder.add(torch.arange(len(labels)), 1.5 * logits, labels)
    found = recorder.of_all(World(), torch.device("cpu"), labels.numpy(), set())
    assert found is not None
    return accumulator.compute(counts), found


def thumbnail(row: int) -> bytes:
    """A small JPEG whose colour tells the row."""
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (row % 256, 100, 255 - row % 256)).save(buffer, "JPEG")
    return buffer.getvalue()


def keep(folder: Path, found: PerImage, counts: list[int], thumbnails: int) -> None:
    """Predictions as an evaluation keeps them, of a set of files."""
    rows = found.rows[ThumbnailSettings(thumbnails=thumbnails).choose(found, counts)].tolist()
    files = PathTable.from_strings(f"test/{row}.jpg" for row in found.rows.tolist())
    small = {row: thumbnail(row) for row in rows}
    write_predictions(
        predictions_path(folder, "center"), Predictions(found, files, small, thumbnails, len(found), "test set")
    )


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
    return drawn(tail_counts(30), seed=0)[0]


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
        thumbnails: int | None = 32,
    ) -> Path:
        """``thumbnails``: how many its predictions keep; None for a run without predictions."""
        folder = tmp_path / name
        folder.mkdir(parents=True)
        counts = tail_counts(classes)
        metrics, said = drawn(counts, seed, tail_bonus)
        config = {
            "data": {"dataset": "shapes_lt"},
            "model": {"rank": rank, "tuner": "adaptformer"},
            "training": {"lr": 0.01},
            "run": {"seed": seed},
        }
        (folder / "config.json").write_text(json.dumps(config))
        data = {
            "name": "shapes_lt",
            "classes": classes,
            "class_names": class_names or [f"striped red star {index}" for index in range(classes)],
            "class_counts": counts,
            "group_counts": counts,
            "fingerprints": {"test": "test set"},
        }
        (folder / "data.json").write_text(json.dumps(data))
        text = "".join(json.dumps(event) + "\n" for event in events(4, 25, seed, metrics))
        (folder / "metrics.jsonl").write_text(text[: len(text) - cut_bytes])
        if finished:
            shifted = drawn(counts, seed, tail_bonus + 0.3)[0]
            if thumbnails is not None:
                keep(folder, said, counts, thumbnails)
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
