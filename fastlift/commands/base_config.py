"""Where the defaults of a run's flags come from, which other flags decide: those are read first."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fastlift import config, recipes
from fastlift.commands.dataset_meant import dataset_meant
from fastlift.config import Config
from fastlift.errors import UserError

if TYPE_CHECKING:
    from fastlift.runs.seeds import Plan


def base_config(arguments: list[str], recipe: str = "lift") -> Config:
    """The config that the other flags change: a file's, that of the run to resume, or a recipe's for the data set.

    Raises:
        UserError: an unknown recipe, a file that cannot be read.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--output", type=Path)
    early.add_argument("--resume", nargs="?", const=True, default=False, choices=["auto"])
    early.add_argument("--seeds")
    early.add_argument("--recipe")
    early.add_argument("--model")
    try:
        known, _ = early.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see --help") from None
    if known.resume:
        if known.output is None:
            raise UserError("--resume goes with --output FOLDER, the run to go on with")
        found = _of_what_goes_on(known)
        if found is not None:
            if known.recipe not in (None, found.recipe):
                raise UserError(
                    f"--recipe {known.recipe}: the run {known.output} is of {found.recipe}; start a new run instead"
                )
            return found
    if known.config is not None:
        if known.recipe is not None:
            raise UserError("--config and --recipe: both say where the defaults come from; choose one of them")
        found = config.load(known.config)
        return found if known.model is None else found.override(model=known.model)
    chosen = {} if known.model is None else {"model": known.model}  # so that its weights are not another model's
    return recipes.build(known.recipe or recipe, dataset_meant(arguments), **chosen)


def _of_what_goes_on(known: argparse.Namespace) -> Config | None:
    """The settings of the run, or of the runs of several seeds, that is there to go on with; a file's in their place."""
    from fastlift.runs.folder import holds_run, open_run

    if (plan := plan_in(known.output)) is not None:
        return config.from_dict(plan.config) if known.config is None else config.load(known.config)
    if known.seeds is not None:  # nothing that tells them is there yet, or not any more
        return None
    if known.resume is True or (known.config is None and holds_run(known.output)):
        return config.load(open_run(known.output).config if known.config is None else known.config)
    return None


def plan_in(folder: Path | None) -> Plan | None:
    """What is noted of the runs of several seeds in a folder; None where it holds none."""
    from fastlift.runs.seeds import read_plan

    return None if folder is None else read_plan(folder)
