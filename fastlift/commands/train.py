"""``fastlift train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from fastlift.commands.base_config import base_config, plan_in
from fastlift.commands.parsing import parse
from fastlift.config import Config, differences
from fastlift.settings import Between

EXAMPLES = (
    "fastlift train",
    "fastlift train --dataset imagenet_lt --data-root /data/imagenet --amp bf16 --output runs/imagenet",
    "fastlift train --dataset cifar100_ir100 --recipe lift_plus --seed 1",
    "fastlift train --train-list photos.csv --output runs/photos",
    "fastlift train --data-root photos/ --epochs 5 --batch-size 64 --micro-batch 16",
    "fastlift train --seeds 3 --output runs/three            (mean and spread of seeds 0, 1 and 2)",
    "fastlift train --resume --output runs/imagenet",
    "fastlift train --resume auto --output runs/imagenet ...        (the same command each time, in a restart loop)",
    "fastlift train --config runs/imagenet/config.json --lr 0.02",
    "torchrun --nproc-per-node 8 -m fastlift train --output runs/imagenet ...",
)

BASICS = (
    *("config", "output", "resume", "overwrite", "recipe", "dataset", "data_root", "train_list", "class_names"),
    *("val_share", "model", "epochs", "batch_size", "micro_batch", "lr", "eval_every", "patience"),
    *("seed", "seeds", "device", "amp"),
)

_RESUME = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[auto]",
    instance_from_str=lambda given: given[0] if given else True,
    is_instance=lambda value: value in (False, True, "auto"),
    str_from_instance=lambda value: [value] if value == "auto" else [],
    choices=("auto",),
)


@dataclass(frozen=True)
class Train:
    """Fine-tune on a long-tailed data set, evaluate on its balanced test split, and write a run folder.

    Without flags: LIFT on a set of drawn shapes with a small shipped CLIP, in a minute or two, offline. Defaults come from
    the recipe and fit the data set: photographs are trained on CLIP ViT-B/16, whose weights download by themselves.
    """

    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    config: Path | None = None
    """A config file (such as a run's config.json) in place of the recipe's defaults; other flags change it."""
    output: Path | None = None
    """Run folder (default: runs/DATASET-RECIPE-TIME)."""
    resume: Annotated[bool | Literal["auto"], _RESUME] = False
    """Go on with the run in --output from its last checkpoint. With 'auto', an --output that holds no run yet starts one, so
    that the same command can be repeated until it ends with 0: a run that has ended says so."""
    overwrite: bool = False
    """Replace the run in --output."""
    seeds: Annotated[int | None, Between(2, 1000)] = None
    """Train with so many seeds, --seed and those that follow it, each a run in a folder of its own in --output (seed-0, seed-1 ...), and tell mean and spread. --resume goes on with all of them."""
    json: bool = False
    """Print results as JSON on stdout instead of a table."""


def run(arguments: list[str]) -> int:
    """Train by flags."""
    base = base_config(arguments)
    command = parse(Train, arguments, "train", Train(settings=base), examples=EXAMPLES, basics=BASICS)
    command.settings.check_effects(differences(base, command.settings))
    seeds = command.seeds
    if seeds is None and command.resume and (plan := plan_in(command.output)) is not None:
        seeds = len(plan.seeds)
    (_train_one if seeds is None else partial(_train_several, seeds=seeds))(command)
    return 0


def _train_one(command: Train) -> None:
    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.table import metrics_table
    from fastlift.soups.stages import train

    settings, resume, overwrite = command.settings, command.resume, command.overwrite
    results = train(settings, output=command.output, resume=resume, overwrite=overwrite, ui=Terminal()).results
    table = metrics_table(results["metrics"], title=f"{settings.recipe} on {settings.data.dataset}")
    show_result(results, table, command.json)


def _train_several(command: Train, seeds: int) -> None:
    from fastlift.reporting.console import Terminal, show_result
    from fastlift.reporting.table import over_seeds_table
    from fastlift.soups.seeds import train_seeds

    settings, resume, overwrite = command.settings, command.resume, command.overwrite
    found = train_seeds(settings, seeds, output=command.output, resume=resume, overwrite=overwrite, ui=Terminal())
    title = f"{settings.recipe} on {settings.data.dataset}, {len(found.runs)} seeds"
    show_result(found.to_dict(), over_seeds_table(found.figures, title), command.json)
