"""From flags to typed settings, by tyro; where defaults depend on other flags, those are read first."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from fastlift import config, recipes
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.system import launcher

Command = TypeVar("Command")


def parse(
    kind: type[Command],
    arguments: list[str],
    prog: str,
    default: Command | None = None,
    examples: Sequence[str] = (),
) -> Command:
    """Flags as an instance of a dataclass; ``--help`` and mistakes leave with exit code 0 and 2.

    Settings that contradict each other are the dataclass's to refuse; tyro shows such errors as it shows typos.
    """
    title, markers = f"fastlift {prog}", (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    told = "\n".join([inspect.getdoc(kind) or "", "", "examples:", *(f"  {line}" for line in examples)])
    given: dict[str, Any] = {} if default is None else {"default": default}
    if launcher.processes() == 1:
        return tyro.cli(kind, args=arguments, prog=title, description=told, config=markers, **given)
    said = (
        io.StringIO()
    )  # all processes make the same mistake: it goes the way of their other errors, which are told once
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=title, description=told, config=markers, **given)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(said.getvalue().strip()) from None


def base_config(arguments: list[str], recipe: str = "lift") -> Config:
    """The config that the other flags change: a file's, that of the run to resume, or a recipe's for the data set.

    Raises:
        UserError: an unknown recipe, a file that cannot be read.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path)
    early.add_argument("--output", type=Path)
    early.add_argument("--resume", action="store_true")
    early.add_argument("--recipe")
    early.add_argument("--dataset", default="shapes_lt")
    early.add_argument("--model")
    try:
        known, _ = early.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see --help") from None
    if known.resume:
        if known.output is None:
            raise UserError("--resume goes with --output FOLDER, the run to go on with")
        found = config.load(_config_of(known.output) if known.config is None else known.config)
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
    return recipes.build(known.recipe or recipe, known.dataset, **chosen)


def _config_of(folder: Path) -> Path:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.json, so there is nothing to resume")
    return path
