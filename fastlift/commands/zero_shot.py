"""``fastlift zero-shot``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastlift.commands.dataset_meant import dataset_meant
from fastlift.commands.parsing import embedded, parse
from fastlift.config import DataConfig
from fastlift.evaluation.settings import EvalSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.models.text.features import PromptTextSettings
from fastlift.system.settings import DeviceSettings, SeedSettings, ThreadSettings

EXAMPLES = (
    "fastlift zero-shot",
    "fastlift zero-shot --dataset cifar100_ir100 --prompt ensemble",
    "fastlift zero-shot --dataset places_lt --data-root /data/places --output runs/zero-shot",
)


BASICS = ("dataset", "data_root", "class_names", "model", "prompt", "tte", "device", "amp", "output", "json")


@dataclass(frozen=True)
class ZeroShot:
    """Evaluate CLIP as it is on a data set's test split: cosine of image and text features; nothing trains."""

    data: DataConfig = field(default_factory=lambda: DataConfig(interpolation="bicubic"))
    model: str | None = None
    """An open_clip model name or JSON (default: as 'fastlift train' chooses for the data set)."""
    pretrained: str | None = None
    """An open_clip tag, or a weights file."""
    image_size: int | None = None
    """Side of the input images in pixels (default: the model's own)."""
    prompt: PromptTextSettings = field(default_factory=PromptTextSettings)
    ensembling: EnsemblingSettings = field(default_factory=EnsemblingSettings)
    batch: EvalSettings = field(default_factory=EvalSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    device: DeviceSettings = field(default_factory=DeviceSettings)
    precision: PrecisionSettings = field(default_factory=PrecisionSettings)
    seed: SeedSettings = field(default_factory=SeedSettings)
    output: Path | None = None
    """Write a run folder there too, for 'fastlift report' and 'fastlift predict'."""
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Evaluate by flags."""
    data = DataConfig(dataset=dataset_meant(arguments), interpolation="bicubic")
    command = parse(ZeroShot, arguments, "zero-shot", ZeroShot(data), examples=EXAMPLES, basics=BASICS)

    from fastlift import recipes
    from fastlift.engine.evaluate import zero_shot
    from fastlift.engine.train import train
    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.table import metrics_table

    chosen = {name: getattr(command, name) for name in ("model", "pretrained", "image_size")}
    given = {name: value for name, value in chosen.items() if value is not None}
    config = recipes.zero_shot(**embedded(command), **given)
    if command.output is not None:
        metrics = train(config, output=command.output, ui=Terminal()).metrics.to_dict()
    else:
        metrics = zero_shot(config, ui=Terminal()).metrics.to_dict()
    show_result(metrics, metrics_table(metrics, title=f"zero-shot on {config.data.dataset}"), command.json)
    return 0
