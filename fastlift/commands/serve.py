"""``fastlift serve RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastlift.commands.parsing import parse
from fastlift.config import Config
from fastlift.models.precision import PrecisionSettings
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.serving.settings import ServingSettings
from fastlift.settings import Between
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = (
    "fastlift serve RUN",
    "fastlift serve RUN --calibrated",
    "fastlift serve RUN --port 0 --max-megabytes 5 --seconds 10",
)


@dataclass(frozen=True)
class Serve:
    """A small HTTP API of a run, and a page where an image is dropped: POST the file of an image to /predict.

    /openapi.json describes the API. Whoever can reach the address can use it: by default that is this machine alone.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all networks of this machine."""
    port: Annotated[int, Between(0, 65535)] = 8000
    """Port to listen at; 0 takes a free one."""
    limits: ServingSettings = field(default_factory=ServingSettings)
    batch: Annotated[int, Between(1)] = 64
    """Crops of waiting images that go through the model at a time."""
    ensembling: EnsemblingSettings = field(default_factory=EnsemblingSettings)
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run with --ema: the average of its weights (ema, the default), or those that trained (raw)."""
    calibrated: bool = False
    """Answer with the probabilities and, where a request names none, the threshold that fastlift calibrate fitted to the run."""
    precision: PrecisionSettings = field(default_factory=PrecisionSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    device: DeviceSettings = field(default_factory=DeviceSettings)


def run(arguments: list[str]) -> int:
    """Serve until a signal ends it."""
    command = parse(Serve, arguments, "serve", examples=EXAMPLES)
    from fastlift.runs.folder import open_run
    from fastlift.serving.server import bind, check_installed, serve

    check_installed()
    Config().override(**command.ensembling.values())  # refuses what has no effect
    folder = open_run(command.run).path
    with bind(command.host, command.port) as listening:  # a port that is taken is told before the model is loaded
        from fastlift.engine.model import load_run
        from fastlift.reporting.console import Terminal, show_line
        from fastlift.system.device import using_device

        device = command.device.build()
        with command.threads.use(), using_device(device):
            model = load_run(
                folder, command.checkpoint, Terminal(), device=str(device), amp=command.precision.amp,
                calibrated=command.calibrated, weights=command.weights,
            )  # fmt: skip
            if model.calibration is not None:
                model.calibration.check_crops(command.ensembling)
            serve(
                folder.resolve().name, model, command.ensembling, command.limits, listening,
                batch_size=command.batch, say=show_line,
            )  # fmt: skip
    return 0
