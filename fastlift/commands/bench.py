"""``fastlift bench data|train|text``: this machine's numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastlift.commands.data import progress_lines, source_options
from fastlift.commands.parsing import parse
from fastlift.data.datasets.catalogue import SourceSettings
from fastlift.data.sampling.crops import Interpolation
from fastlift.models.vit import ActivationCheckpointingSettings
from fastlift.settings import MOST_PIXELS, MOST_THREADS, SIZE, Between, one_of
from fastlift.system.settings import ThreadSettings

ACTIONS = {
    "data": "images/s, CPU time and memory of every way to make training crops, and what limits them",
    "train": "a training step compared with plain PyTorch: time, FLOP, memory, dispatched ops",
    "text": "text features of 1000 classes, compared with open_clip, and from the cache",
}

EXAMPLES = {
    "data": (
        "fastlift bench data --images 256 --rounds 3",
        "fastlift bench data --dataset imagenet_lt --data-root /data/imagenet --workers 2 4 8",
    ),
    "train": ("fastlift bench train --batch 8 --rounds 3", "fastlift bench train --model ViT-L-14 --recompute mlp"),
    "text": ("fastlift bench text", "fastlift bench text --model ViT-B-32 --rounds 1 --json"),
}


@dataclass(frozen=True)
class BenchData:
    """Measure ways to make training crops: torchvision with PIL, torchvision.io, and fastlift's own way.

    Without a data set, on drawn JPEG files of ImageNet's sizes.
    """

    source: SourceSettings = field(default_factory=lambda: SourceSettings(dataset="generated"))
    image_size: Annotated[int, Between(1, MOST_PIXELS)] = 224
    """Side of a crop in pixels."""
    interpolation: Interpolation = "bilinear"
    """Resizing in all ways: bilinear as LIFT, bicubic as LIFT+."""
    images: Annotated[int, Between(1)] = 512
    """Images a round."""
    rounds: Annotated[int, Between(1)] = 5
    """Timed rounds; the ways alternate within each."""
    workers: Annotated[tuple[int, ...], Between(1, MOST_THREADS)] = ()
    """Threads or processes to try (default: the CPUs that this process may use)."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class BenchTrain:
    """A training step of LIFT against the same maths in plain PyTorch, alternated, on random weights and the CPU."""

    model: str = "ViT-B-16-quickgelu"
    """An open_clip ViT by name."""
    batch: Annotated[int, SIZE] = 16
    """Images a step."""
    rank: Annotated[int, SIZE] = 32
    """Bottleneck width of the adapters."""
    classes: Annotated[int, SIZE] = 1000
    """Rows of the classifier."""
    rounds: Annotated[int, Between(1)] = 5
    """Timed rounds of one step each way."""
    checkpointing: ActivationCheckpointingSettings = field(default_factory=ActivationCheckpointingSettings)
    compile: bool = False
    """Compile the frozen backbone."""
    amp: Literal["fp32", "bf16"] = "fp32"
    """Compute dtype of both ways."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class BenchText:
    """Text features of class names against the model's own way, on random weights and the CPU."""

    model: str = "ViT-B-16-quickgelu"
    """An open_clip model by name."""
    rounds: Annotated[int, Between(1)] = 3
    """Alternated rounds."""
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print as JSON."""


def usage() -> str:
    """The text of ``fastlift bench --help``."""
    listed = "\n".join(f"  {name:<6} {what}" for name, what in ACTIONS.items())
    return f"usage: fastlift bench WHAT [options]     fastlift bench WHAT --help tells all options\n\n{listed}"


def run(arguments: list[str]) -> int:
    """Dispatch to a benchmark."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    action = one_of("benchmark", arguments[0], ACTIONS)
    return {"data": _data, "train": _train, "text": _text}[action](arguments[1:])


def _data(arguments: list[str]) -> int:
    command = parse(BenchData, arguments, "bench data", examples=EXAMPLES["data"])
    from fastlift.bench import data as bench
    from fastlift.data.datasets.catalogue import load_data_set
    from fastlift.reporting.console import show_found

    index: Any = None
    if command.source.dataset != "generated":
        index = load_data_set(**source_options(command.source)).train

    options = {name: getattr(command, name) for name in ("image_size", "interpolation", "images", "rounds", "workers")}
    found = bench.run(index, progress=progress_lines(), **options)
    show_found(found, command.json)
    return 0


def _train(arguments: list[str]) -> int:
    command = parse(BenchTrain, arguments, "bench train", examples=EXAMPLES["train"])
    from fastlift.bench import train
    from fastlift.reporting.console import show_found

    names = ("model", "batch", "rank", "classes", "rounds", "compile", "amp")
    options = {name: getattr(command, name) for name in names} | command.checkpointing.values()
    with command.threads.use():
        show_found(train.run(**options), command.json)
    return 0


def _text(arguments: list[str]) -> int:
    command = parse(BenchText, arguments, "bench text", examples=EXAMPLES["text"])
    from fastlift.bench import text
    from fastlift.reporting.console import show_found

    with command.threads.use():
        show_found(text.run(command.model, rounds=command.rounds), command.json)
    return 0
