"""``fastlift import-lift CHECKPOINT``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastlift.commands.base_config import base_config
from fastlift.commands.parsing import parse
from fastlift.config import Config, differences
from fastlift.errors import UserError

EXAMPLES = (
    "fastlift import-lift checkpoint.pth.tar --dataset imagenet_lt --data-root /data/imagenet",
    "fastlift import-lift checkpoint.pth.tar --dataset cifar100_ir100 --output runs/theirs --json",
)


@dataclass(frozen=True)
class ImportLift:
    """Make a run folder of a checkpoint that the authors' program of LIFT or LIFT+ wrote, and evaluate it.

    What the checkpoint tells is read from it: the tuner, its sizes and its blocks, the linear classifier, the text side.
    Name what it cannot tell: the data set, the backbone and its weights, another classifier than the cosine one, the
    seed and share of LIFT's masks, where a context's class name stands (--coop-position). Tensors that do not fit are named, and nothing is written.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help_behavior_hint="(required)")]
    """The authors' checkpoint.pth.tar (tensors alone are read from it)."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    config: Path | None = None
    """A config file in place of the recipe's defaults; other flags change it."""
    output: Path | None = None
    """Run folder (default: runs/DATASET-RECIPE-TIME)."""
    overwrite: bool = False
    """Replace the run in --output."""
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Import by flags."""
    base = base_config(arguments)
    command = parse(ImportLift, arguments, "import-lift", ImportLift(checkpoint=Path(), settings=base), EXAMPLES)
    if command.checkpoint == Path():
        raise UserError("name the checkpoint: fastlift import-lift CHECKPOINT --dataset ... --output RUN")
    from fastlift.engine.train import train
    from fastlift.interop.lift_checkpoints import as_lift_state, is_lift_plus, read_checkpoint, settings_of
    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.table import metrics_table

    content = read_checkpoint(command.checkpoint)
    state = as_lift_state(content)
    if is_lift_plus(content):  # whose defaults are others: it resizes bicubic
        base = base_config(arguments, "lift_plus")
        command = parse(ImportLift, arguments, "import-lift", ImportLift(checkpoint=Path(), settings=base), EXAMPLES)
    told = {"epochs": 0, "init": "random"} | settings_of(state)
    settings = command.settings.merged(**told)
    given = {name: value for name, (_, value) in differences(base, command.settings).items()}
    for name, value in given.items():
        if name in told and settings.flat()[name] != value:
            raise UserError(f"{name} {value}: an import of this checkpoint has {name} {settings.flat()[name]}")
    settings.check_effects(given)
    results = train(settings, output=command.output, overwrite=command.overwrite, start=state, ui=Terminal()).results
    table = metrics_table(results["metrics"], title=f"{command.checkpoint} on {settings.data.dataset}")
    show_result(results, table, command.json)
    return 0
