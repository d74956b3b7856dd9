"""From flags to typed settings, by tyro; ``--help`` of commands that need no model loads no torch here.

Commands embed the settings of what they call. Those that a run has already may be given anew: as ``changes``, whose default is
None, which stands for "as in the run".
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from fastlift.errors import UserError
from fastlift.settings import Settings, check_range, hints_of, plain
from fastlift.system import launcher

Command = TypeVar("Command")
_FLAGS = ConstructorRegistry()
_NAMES = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH", tuple[int, ...]: "INT [INT ...]"}
_OWN_DEFAULT = re.compile(r" \(default: [^()]*\)")  # in a field's text
_POSITIONAL: Any = tyro.conf.Positional[int]
_told_flags: ContextVar[frozenset[str] | None] = ContextVar("told_flags", default=None)  # None: all
# What flags_and_choices has found.
_seen: ContextVar[dict[str, tuple[str, ...]] | None] = ContextVar("seen", default=None)


class _Refused(Exception):
    """Carries a ``UserError`` through tyro, which would print it under a name from inside the program."""


def parse(
    kind: type[Command],
    arguments: list[str],
    prog: str,
    default: Command | None = None,
    examples: Sequence[str] = (),
    basics: Sequence[str] = (),
) -> Command:
    """Flags as an instance of a dataclass; ``--help`` and mistyped flags leave with exit code 0 and 2.

    Args:
        basics: the fields that most people need: where such are named, ``--help`` tells these alone; ``--help-all`` tells all.

    Raises:
        UserError: numbers out of their ranges, and settings that contradict each other.
    """
    told = "\n".join([inspect.getdoc(kind) or "", "", "examples:", *(f"  {line}" for line in examples)])
    if basics and {"-h", "--help"} & set(arguments):
        told += f"\n\nThese are the flags that most people need; fastlift {prog} --help-all tells all."
        _told_flags.set(frozenset(basics))
    arguments = ["--help" if one == "--help-all" else one for one in arguments]
    title, markers = f"fastlift {prog}", (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    given: dict[str, Any] = {"registry": _FLAGS} | ({} if default is None else {"default": default})
    said = io.StringIO()  # all make the same mistake: it goes the way of their other errors, which are told once
    try:
        with contextlib.nullcontext() if launcher.processes() == 1 else contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=title, description=told, config=markers, **given)
    except SystemExit as end:
        if not end.code or launcher.processes() == 1:
            raise
        raise UserError(said.getvalue().strip()) from None
    except _Refused as refused:
        raise refused.args[0] from None
    finally:
        _told_flags.set(None)


def flags_and_choices(run: Callable[[list[str]], int], arguments: list[str]) -> dict[str, tuple[str, ...]]:
    """All flags of a command by name, with what they may be where that is one of a few words."""
    found: dict[str, tuple[str, ...]] = {}
    token = _seen.set(found)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            run([*arguments, "--help-all"])
    finally:
        _seen.reset(token)
    return found


@_FLAGS.struct_rule
def _flags_of(asked: StructTypeInfo) -> StructConstructorSpec | None:
    """The flags of a dataclass. Help names a default where there is one; what None stands for is in the field's text."""
    if not is_dataclass(asked.type):
        return None
    kind: Any = asked.type
    flags, hints, given, told = [], hints_of(kind), asked.default, _told_flags.get()
    for one in fields(kind):
        if not one.metadata.get("is_flag", True):
            continue
        if told is not None and one.name not in told and not is_dataclass(plain(hints[one.name])):
            continue
        own = getattr(hints[one.name], "__metadata__", ())  # the last hint holds: the field's own, if it has one
        default = getattr(given, one.name) if type(given) is kind else _default_of(one)
        if (seen := _seen.get()) is not None and not _is_struct_or_positional(hints[one.name]):
            name = one.name.replace("_", "-")
            seen[f"--no-{name}" if default is True else f"--{name}"] = _choices_of(hints[one.name])
        shows_itself = any(isinstance(mark, PrimitiveConstructorSpec) for mark in own)
        metavar = None if shows_itself else _metavar(plain(hints[one.name]))
        parts = (plain(hints[one.name]), tyro.conf.arg(help_behavior_hint=_default_hint, metavar=metavar), *own)
        shown: Any = Annotated[parts]
        flags.append(StructFieldSpec(one.name, shown, default, partial(lambda name: _texts(kind).get(name), one.name)))
    return StructConstructorSpec(partial(_made, kind), tuple(flags))


def _default_hint(default: str) -> str:
    """Of a flag that takes no value, the default is that it was not given; for --no-something that is a True."""
    return "" if default in ("None", "False", "True", "") else f"(default: {default})"


def _metavar(kind: Any) -> str | None:
    """How help shows the values of a type that may be None, without None; None where tyro's own words do."""
    choices = get_args(kind)
    if NoneType not in choices:
        return None
    single = {get_args(one)[0] for one in choices if get_origin(one) is tuple}  # of which there may be several
    names = [_NAMES.get(one) for one in choices if one is not NoneType and one not in single]
    return "|".join(name for name in names if name) if all(names) else None


def _is_struct_or_positional(hint: Any) -> bool:
    return is_dataclass(plain(hint)) or _POSITIONAL.__metadata__[0] in getattr(hint, "__metadata__", ())


def _choices_of(hint: Any) -> tuple[str, ...]:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, PrimitiveConstructorSpec) and mark.choices:
            return tuple(mark.choices)
    kinds = (plain(hint), *get_args(plain(hint)))  # a choice, or several of them
    return next((tuple(map(str, get_args(kind))) for kind in kinds if get_origin(kind) is Literal), ())


def _default_of(one: Field[Any]) -> Any:
    if one.default_factory is not MISSING:
        return one.default_factory()
    return tyro.MISSING if one.default is MISSING else one.default


def _made(kind: type[Command], **values: Any) -> Command:
    try:
        for name, value in values.items():
            check_range(kind, name, value)
        return kind(**values)
    except UserError as error:
        raise _Refused(error) from None


@cache
def _texts(kind: Any) -> dict[str, str]:
    """Field -> its docstring, in one line."""
    bases = (base for base in reversed(kind.__mro__) if is_dataclass(base))
    found = (one for base in bases for one in docstring_parser.parse_from_object(base).params)
    return {one.arg_name: " ".join(one.description.split()) for one in found if one.description}


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


def _as_in_the_run(kind: Any) -> list[tuple[str, Any, Any]]:
    """The fields of settings, with None for their default."""

    def as_in_the_run(name: str, hint: Any) -> Any:
        told = _OWN_DEFAULT.sub("", _texts(kind)[name])
        shown = None if get_origin(plain(hint)) is Literal else _metavar(plain(hint) | None)
        return tyro.conf.arg(help=told, metavar=shown, help_behavior_hint="(default: as in the run)")

    return [
        (name, Annotated[_or_none(hint), as_in_the_run(name, hint)], field(default=None))
        for name, hint in hints_of(kind).items()
    ]


def _or_none(hint: Any) -> Any:
    """The type of a setting or None, which is no choice of a flag with choices: who leaves the flag out gets it."""
    if get_origin(plain(hint)) is not Literal:
        return hint if NoneType in get_args(plain(hint)) else hint | None
    choices = get_args(plain(hint))
    return Annotated[
        str | None,
        PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{{','.join(choices)}}}",
            instance_from_str=lambda given: given[0],
            is_instance=lambda value: value is None or value in choices,
            str_from_instance=lambda value: [str(value)],
            choices=choices,
        ),
    ]


def embedded(command: object) -> dict[str, Any]:
    """The values of all settings that a command embeds, by name."""
    parts = (part for part in vars(command).values() if isinstance(part, Settings))
    return {name: value for part in parts for name, value in part.values().items()}
