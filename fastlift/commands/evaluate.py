"""``fastlift evaluate RUN``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastlift.commands.parsing import parse
from fastlift.config import Taxon

EXAMPLES = (
    "fastlift evaluate runs/shapes_lt-lift-20260101-120000",
    "fastlift evaluate RUN --tte fivecrop --json",
    "fastlift evaluate RUN --checkpoint epoch-001 epoch-010 --data-root /elsewhere/imagenet",
)


@dataclass(frozen=True)
class Evaluate:
    """Grade a run on its test split: overall, many, medium and few, macro-F1, worst class, means, calibration.

    What it finds is added to the run's results.json.
    """

    run: tyro.conf.Positional[Path]
    """Run folder."""
    tte: Literal["none", "fivecrop", "tencrop", "random"] = "none"
    """Test-time ensembling: the mean logits of five, ten, or --tte-crops random crops of each image."""
    tte_crops: int = 10
    """How many crops 'random' takes."""
    expand: int | None = None
    """Pixels that ensembling adds to the short side before it crops (default: 24; less in proportion below size 224)."""
    checkpoint: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Checkpoints by name, such as epoch-003 (default: the last one); several are compared."""
    split: Literal["test", "train"] = "test"
    """Which split to grade."""
    taxon: Taxon | None = None
    """Grade a run on iNaturalist's species at a higher rank: a group's probability is the sum of its species'."""
    group_boundaries: tuple[int, int] | None = None
    """Classes with fewer training images than the first number are 'few', with more than the second 'many' (default: as in
    the training, where 20 and 100 are the default)."""
    data_root: Path | None = None
    """Folder with the images, where it is not the one of the training any more."""
    threads: int | None = None
    """Threads that compute (default: one for each core that this process may use)."""
    device: str = "auto"
    """'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1' ..."""
    amp: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute dtype of the backbone; 'auto' is that of the training."""
    frozen: Literal["compute", "fp8"] | None = None
    """Frozen products in the compute dtype, or with fp8 weights on GPUs that have it (default: as the run trained)."""
    eval_batch: int = 128
    """Images at a time; several crops of an image count one each."""
    executor: Literal["auto", "dali", "torchvision"] = "auto"
    """What decodes and crops; both give the same views. 'auto': DALI where it is installed and pays."""
    workers: int | None = None
    """Threads for decoding (default: the CPUs that this process may use, at most 16)."""
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Evaluate by flags."""
    command = parse(Evaluate, arguments, "evaluate", examples=EXAMPLES)

    from fastlift.engine.evaluate_run import grade_run
    from fastlift.reporting.console import Terminal, show, show_json
    from fastlift.reporting.table import comparison_table, metrics_table

    settings = {
        name: getattr(command, name)
        for name in ("tte", "tte_crops", "expand", "device", "amp", "eval_batch", "executor", "workers", "threads")
    }
    given = {name: getattr(command, name) for name in ("data_root", "taxon", "group_boundaries", "frozen")}
    settings |= {name: value for name, value in given.items() if value is not None}
    rows = grade_run(command.run, command.checkpoint, command.split, settings, ui=Terminal())
    if command.json:
        show_json(rows)
    elif len(rows) == 1:
        show(metrics_table(next(iter(rows.values())), title=next(iter(rows))))
    else:
        show(comparison_table(rows))
    return 0
