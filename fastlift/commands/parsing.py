"""From flags to typed settings, by tyro; where defaults depend on other flags, those are read first.

Commands embed the settings of what they call. Those that a run has already may be given anew: as ``changes``, whose default is
None, which stands for "as in the run".
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro

from fastlift import config, recipes
from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.settings import Settings, hints_of
from fastlift.system import launcher

Command = TypeVar("Command")


def parse(
    kind: type[Command], arguments: list[str], prog: str, default: Command | None = None, examples: Sequence[str] = ()
) -> Command:
    """Flags as an instance of a dataclass; ``--help`` and mistakes leave with exit code 0 and 2.

    Settings that contradict each other are the dataclass's to refuse; tyro shows such errors as it shows typos.
    """
    title, markers = f"fastlift {prog}", (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    told = "\n".join([inspect.getdoc(kind) or "", "", "examples:", *(f"  {line}" for line in examples)])
    given: dict[str, Any] = {} if default is None else {"default": default}
    if launcher.processes() == 1:
        return tyro.cli(kind, args=arguments, prog=title, description=told, config=markers, **given)
    said = io.StringIO()  # all make the same mistake: it goes the way of their other errors, which are told once
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=title, description=told, config=markers, **given)
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(said.getvalue().strip()) from None


def parse_changes(
    kind: type[Command], arguments: list[str], prog: str, changes: Sequence[type[Settings]], examples: Sequence[str]
) -> tuple[Command, dict[str, Any]]:
    """As ``parse``, and those settings of ``changes`` that were given, by name; the others are as in the run."""
    optional = [one for part in changes for one in _as_in_the_run(part)]
    whole = make_dataclass(kind.__name__, optional, bases=(kind,), frozen=True)
    whole.__doc__ = kind.__doc__
    command: Command = parse(whole, arguments, prog, examples=examples)
    values = {name: getattr(command, name) for name, _, _ in optional}
    return command, {name: value for name, value in values.items() if value is not None}


def _as_in_the_run(kind: type[Settings]) -> list[tuple[str, Any, Any]]:
    """The fields of settings, with None for their default."""
    told = {one.arg_name: one.description for one in docstring_parser.parse_from_object(kind).params}
    hints = hints_of(kind)
    shown = {name: tyro.conf.arg(help=told[name], help_behavior_hint="(default: as in the run)") for name in told}
    return [(one.name, Annotated[hints[one.name] | None, shown[one.name]], field(default=None)) for one in fields(kind)]


def embedded(command: object) -> dict[str, Any]:
    """The values of all settings that a command embeds, by name."""
    parts = (part for part in vars(command).values() if isinstance(part, Settings))
    return {name: value for part in parts for name, value in part.values().items()}


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
        from fastlift.runs.folder import open_run

        found = config.load(open_run(known.output).config if known.config is None else known.config)
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
