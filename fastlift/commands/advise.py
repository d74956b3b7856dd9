"""``fastlift advise RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from fastlift.advice.settings import AdviceSettings
from fastlift.commands.parsing import embedded, parse_changes
from fastlift.data.loading.loader import LoaderSettings
from fastlift.evaluation.settings import EvalSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = (
    "fastlift advise RUN",
    "fastlift advise RUN --parts classes --figure few",
    "fastlift advise RUN --data-root /elsewhere/imagenet --device cuda --json",
)


@dataclass(frozen=True)
class Advise:
    """Where to spend: classes that lose most, labels that look wrong, copies between splits, what more images would bring.

    Every estimate stands beside its error. What is found is kept as advice.json in the run folder, and shown on its page under
    "Where to spend".
    """

    run: tyro.conf.Positional[Path]
    """Run folder of a training that has ended."""
    advice: AdviceSettings = field(default_factory=AdviceSettings)
    checkpoint: str | None = None
    """Checkpoint whose features are used: best, last, a number of epochs (3), or a name (epoch-003). Default: the run's own."""
    data_root: str | None = None
    """Folder with the images, or its URL, where it is not the one of the training any more."""
    batch: EvalSettings = field(default_factory=EvalSettings)
    loading: LoaderSettings = field(default_factory=LoaderSettings)
    device: DeviceSettings = field(default_factory=DeviceSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print what was found as JSON on stdout instead of tables."""


def run(arguments: list[str]) -> int:
    """Advise by flags."""
    command, changes = parse_changes(Advise, arguments, "advise", (PrecisionSettings,), EXAMPLES)

    from fastlift.engine.advise import advise
    from fastlift.reporting.advice import advice_text
    from fastlift.reporting.console import Terminal, show_result

    moved = {} if command.data_root is None else {"data_root": command.data_root}
    asked = command.advice.values()
    settings = {name: value for name, value in embedded(command).items() if name not in asked} | changes | moved
    found = advise(command.run, command.checkpoint, settings, ui=Terminal(), **asked)
    show_result(found.to_dict(thumbnails=False), advice_text(found), command.json)
    return 0
