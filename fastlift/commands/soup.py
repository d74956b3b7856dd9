"""``fastlift soup RUN RUN ...``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fastlift.commands.parsing import embedded, parse
from fastlift.evaluation.validation import BestBy
from fastlift.settings import Between, check_range
from fastlift.system.settings import DeviceSettings, ThreadSettings

EXAMPLES = (
    "fastlift soup runs/a runs/b runs/c --output runs/soup",
    "fastlift soup runs/a --last 5                     (one run, at the end of each of its last five epochs)",
    "fastlift soup runs/a --checkpoint 6 8 best",
    "fastlift soup runs/a runs/b --weights 2 1",
    "fastlift soup runs/a runs/b runs/c --greedy       (runs that were trained beside a validation split)",
)


@dataclass(frozen=True)
class Soup:
    """Average what several runs of one model have trained, or one run at several epochs, into a run of its own.

    The runs need the same backbone weights, classes, tuner, classifier and preprocessing; learning rates, losses, crops or
    epochs may differ. The soup is evaluated on the test split of the first run, and is then a run like any other: evaluate,
    predict, export, report, push and --init-from take it. Its page tells what it is made of.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    checkpoint: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Of each run these checkpoints: best, last, a number of epochs (3), or names (epoch-003). Default: the one that the
    run was tested with."""
    last: Annotated[int | None, Between(1)] = None
    """Of each run the states after its last N epochs, in place of --checkpoint."""
    weights: Annotated[tuple[float, ...], tyro.conf.arg(metavar="W")] = ()
    """A weight for each checkpoint, in their order (default: all equal); they are made to sum to 1."""
    greedy: bool = False
    """Go through the checkpoints from the best on the validation split to the worst, and keep one only where the average's
    figure on that split does not fall."""
    best_by: BestBy = "mean_class_accuracy"
    """The figure of --greedy."""
    output: Path | None = None
    """Run folder (default: runs/DATASET-RECIPE-soup-TIME)."""
    overwrite: bool = False
    """Replace the run in --output."""
    data_root: str | None = None
    """Folder with the images, or its URL, where it is not the one of the training any more."""
    device: DeviceSettings = field(default_factory=DeviceSettings)
    threads: ThreadSettings = field(default_factory=ThreadSettings)
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Make a soup by flags."""
    command = parse(Soup, arguments, "soup", examples=EXAMPLES)
    check_range(Soup, "last", command.last)

    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.soups import soup_figures
    from fastlift.reporting.table import comparison_table
    from fastlift.soups.soup import soup

    moved = {} if command.data_root is None else {"data_root": command.data_root}
    results = soup(
        command.runs,
        checkpoints=command.checkpoint,
        last=command.last,
        weights=command.weights,
        greedy=command.greedy,
        best_by=command.best_by,
        output=command.output,
        overwrite=command.overwrite,
        settings=embedded(command) | moved,
        ui=Terminal(),
    ).results
    show_result(results, comparison_table(soup_figures(results)), command.json)
    return 0
