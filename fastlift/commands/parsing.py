"""From flags to typed settings, by tyro; ``--help`` of commands that need no model loads no torch here.

Commands embed the settings of what they call. Those that a run has already may be given anew: as ``changes``, whose default is
None, which stands for "as in the run".
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro

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
