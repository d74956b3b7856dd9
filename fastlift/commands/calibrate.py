"""``fastlift calibrate RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from fastlift.commands.parsing import embedded, parse_changes
from fastlift.evaluation.calibration import CalibrationSettings
from fastlift.evaluation.settings import EvalSettings
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import FusedSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.models.preprocessing import EnsemblingSettings
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = (
    "fastlift calibrate runs/shapes_lt-lift-20260101-120000",
    "fastlift calibrate RUN --reject 0.05                # and a threshold that turns away 5 % of the right answers at most",
    "fastlift calibrate RUN --by mean_class_accuracy     # the strength with the best mean class accuracy",
    "fastlift calibrate RUN --tte fivecrop               # for the mean logits of five crops of each image",
)
CHANGES = (EnsemblingSettings, PrecisionSettings, Fp8Settings, FusedSettings)


@dataclass(frozen=True)
class Calibrate:
    """Fit a trained run's logits to its validation split, without training: (logits + strength * log prior) / temperature.

    The strength moves accuracy between frequent and rare classes: 0 is the run as it is, negative values favour rare classes.
    The temperature makes probabilities as large as the answers are right. The test split is evaluated before and after, and has
    no part in the fit. All is kept in the run's calibration.json; evaluate, predict, serve and export use it with --calibrated.
    A run without a validation split must be trained with one (--val-share).
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    checkpoint: str | None = None
    """A checkpoint: best, last, a number of epochs (3) or a name (epoch-003). Default: best where there is one, else last."""
    passes: EvalSettings = field(default_factory=EvalSettings)
    data_root: str | None = None
    """Folder with the images, or its URL, where it is not the one of the training any more."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print what was fitted, and all figures, as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Calibrate by flags."""
    command, changes = parse_changes(Calibrate, arguments, "calibrate", CHANGES, EXAMPLES)

    from fastlift.engine.calibrate import calibrate_run
    from fastlift.reporting.calibrations import calibration_table
    from fastlift.reporting.console import Terminal, show_result

    moved = {} if command.data_root is None else {"data_root": command.data_root}
    values = calibrate_run(command.run, command.checkpoint, embedded(command) | changes | moved, ui=Terminal())
    show_result(values, calibration_table(values), command.json)
    return 0
