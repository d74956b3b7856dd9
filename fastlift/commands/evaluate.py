"""``fastlift evaluate RUN``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastlift.commands.parsing import embedded, parse_changes
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.groups import GroupSettings
from fastlift.evaluation.settings import InferenceSettings
from fastlift.evaluation.thumbnails import ThumbnailSettings
from fastlift.models.fp8 import Fp8Settings
from fastlift.models.fused import FusedSettings
from fastlift.models.precision import PrecisionSettings
from fastlift.system.settings import DeviceSettings, ThreadSettings, TimeoutSettings

EXAMPLES = (
    "fastlift evaluate runs/shapes_lt-lift-20260101-120000",
    "fastlift evaluate RUN --tte fivecrop --json",
    "fastlift evaluate RUN --calibrated",
    "fastlift evaluate RUN --checkpoint epoch-001 epoch-010 --data-root /elsewhere/imagenet",
)
CHANGES = (
    TaxonSettings,
    GroupSettings,
    PrecisionSettings,
    Fp8Settings,
    FusedSettings,
    TimeoutSettings,
    ThumbnailSettings,
)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on its test split: overall, many, medium and few, macro-F1, worst class, means, calibration.

    What it finds is added to the run's results.json, what it says of each image to predictions/. At a higher --taxon, a run on
    iNaturalist's species is evaluated on groups: a group's probability is the sum of its species'.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    checkpoint: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Checkpoints: best, last, a number of epochs (3), or names (epoch-003); several are compared. Default: best where a
    validation split was evaluated while the run trained, else last."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run with --ema: the average of its weights (ema, the default), or those that trained (raw)."""
    split: Literal["test", "val", "train"] = "test"
    """Which split to evaluate."""
    calibrated: bool = False
    """With what fastlift calibrate fitted to the run: the row has (calibrated) in its name, with a threshold also the coverage."""
    data_root: str | None = None
    """Folder with the images, or its URL, where it is not the one of the training any more."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Evaluate by flags."""
    command, changes = parse_changes(Evaluate, arguments, "evaluate", CHANGES, EXAMPLES)

    from rich.console import Group
    from rich.text import Text

    from fastlift.data.datasets.dataset import SPLITS
    from fastlift.engine.evaluate import evaluate_run
    from fastlift.evaluation.paired_tests import PairedTest
    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.paired import paired_lines
    from fastlift.reporting.table import comparison_table, intervals_table, metrics_table

    moved = {} if command.data_root is None else {"data_root": command.data_root}
    settings = embedded(command) | changes | moved
    rows = evaluate_run(
        command.run,
        command.checkpoint,
        command.split,
        settings,
        calibrated=command.calibrated,
        weights=command.weights,
        ui=Terminal(),
    )
    name = next(iter(rows))
    if len(rows) == 1:
        table: Any = metrics_table(rows[name], name, SPLITS[command.split])
    else:
        tests = {one: row["against"]["tests"] for one, row in rows.items() if "against" in row}
        found = {one: {group: PairedTest(**test) for group, test in of.items()} for one, of in tests.items()}
        lines = "\n".join(paired_lines(found, name))
        table = Group(comparison_table(rows), "", intervals_table(rows), *([Text(f"\n{lines}")] if lines else []))
    show_result(rows, table, command.json)
    return 0
