"""``fastlift predict RUN IMAGE ...``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastlift.commands.parsing import embedded, parse_changes
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.evaluation.settings import InferenceSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.settings import Between
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = ("fastlift predict RUN photo.jpg folder/ --top 3", "fastlift predict RUN folder/ --json > predictions.jsonl")


@dataclass(frozen=True)
class Predict:
    """The most probable classes of images, by a trained run."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Files, and folders that are searched for images."""
    top: Annotated[int, Between(1)] = 5
    """How many classes to name."""
    inference: InferenceSettings = field(default_factory=lambda: InferenceSettings(eval_batch=64))
    checkpoint: str | None = None
    """A checkpoint by name, such as epoch-003 (default: the last one)."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    device: DeviceSettings = field(default_factory=DeviceSettings)
    json: bool = False
    """One JSON object a line for each image."""


def run(arguments: list[str]) -> int:
    """Predict, a line an image; unreadable files are named on stderr and make the exit code 1."""
    command, changes = parse_changes(Predict, arguments, "predict", (PrecisionSettings,), EXAMPLES)
    if not command.images:
        raise UserError("name at least one image or folder: fastlift predict RUN IMAGE ...")
    from fastlift.engine.predict import Wanted, predict_files
    from fastlift.evaluation.predict import Prediction, find_images
    from fastlift.reporting.console import Terminal, complain, show_json, show_line

    def show(prediction: Prediction) -> None:
        named = list(zip(prediction.names, prediction.probabilities, strict=True))
        if command.json:
            top = [{"class": name, "probability": round(value, 6)} for name, value in named]
            show_json({"path": str(prediction.path), "top": top})
        else:
            show_line(f"{prediction.path}: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in named))

    failed: list[Path] = []

    def on_bad(path: Path, reason: str) -> None:
        failed.append(path)
        complain(f"{path}: {reason}")

    config = Config().override(**embedded(command), **changes)  # refuses what has no effect
    wanted = Wanted(command.run, command.checkpoint, find_images(command.images), command.top)
    for prediction in predict_files(wanted, config, on_bad, Terminal()):
        show(prediction)
    # Of several processes the first one's answer: it still prints when the others end, and torchrun ends it where one fails.
    return 1 if failed else 0
