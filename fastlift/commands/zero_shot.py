"""``fastlift zero-shot``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastlift.commands.parsing import parse
from fastlift.config import DataConfig

EXAMPLES = (
    "fastlift zero-shot",
    "fastlift zero-shot --dataset cifar100_ir100 --prompt ensemble",
    "fastlift zero-shot --dataset places_lt --data-root /data/places --output runs/zero-shot",
)


@dataclass(frozen=True)
class ZeroShot:
    """Grade CLIP as it is on a data set's test split: cosine of image and text features; nothing trains."""

    data: DataConfig = field(default_factory=lambda: DataConfig(interpolation="bicubic"))
    model: str | None = None
    """An open_clip model name or JSON (default: as 'fastlift train' chooses for the data set)."""
    pretrained: str | None = None
    """An open_clip tag, or a weights file."""
    prompt: str = "default"
    """'default' ("a photo of a {}."), 'classname', 'ensemble', 'descriptor:FILE', or a template with {}."""
    image_size: int | None = None
    """Pixels, where not the model's own."""
    tte: Literal["none", "fivecrop", "tencrop", "random"] = "none"
    """Test-time ensembling: the mean logits of five, ten, or --tte-crops random crops of each image."""
    tte_crops: int = 10
    """How many crops 'random' takes."""
    expand: int | None = None
    """Pixels that ensembling adds to the short side before it crops."""
    threads: int | None = None
    """Threads that compute (default: one for each core that this process may use)."""
    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1' ..."""
    amp: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute dtype of the backbone. 'auto': bf16 on GPUs that multiply it, else fp16; on CPUs the faster of bf16 and fp32,
    as measured at the model's shapes."""
    eval_batch: int = 128
    """Images at a time; several crops of an image count one each."""
    seed: int = 0
    """Fixes the random crops of '--tte random'."""
    output: Path | None = None
    """Write a run folder there too, for 'fastlift report' and 'fastlift predict'."""
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Grade by flags."""
    command = parse(ZeroShot, arguments, "zero-shot", examples=EXAMPLES)

    from fastlift import recipes
    from fastlift.engine.evaluate_run import zero_shot
    from fastlift.engine.train import train
    from fastlift.reporting.console import Terminal, show, show_json
    from fastlift.reporting.table import metrics_table

    names = ("prompt", "image_size", "tte", "tte_crops", "expand", "device", "amp", "eval_batch", "seed", "threads")
    settings = {name: getattr(command, name) for name in names} | vars(command.data)
    settings |= {name: getattr(command, name) for name in ("model", "pretrained") if getattr(command, name) is not None}
    config = recipes.zero_shot(**settings)
    if command.output is not None:
        metrics = train(config, output=command.output, ui=Terminal()).metrics
    else:
        metrics = zero_shot(config, ui=Terminal()).metrics
    if command.json:
        show_json(metrics.to_dict())
    else:
        show(metrics_table(metrics.to_dict(), title=f"zero-shot on {config.data.dataset}"))
    return 0
