"""The one validator: ranges, contradictions and settings without effect, all from the declarations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from inspect import signature
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from fastlift.errors import UserError
from fastlift.settings.declare import Acts, Between, NamesPlace

Marker = TypeVar("Marker")
Rule = Callable[..., "str | None"]


def hints_of(kind: type) -> dict[str, Any]:
    """Setting -> its type, with what ``Annotated`` adds."""
    return _hints(kind)  # a function of its own: to mypy the types of dataclasses are not hashable, as a cache wants


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Each class's own, evaluated in its module: ``get_type_hints`` of a class would leave functions in them without its names."""
    hints: dict[str, Any] = {}
    names = {field.name for field in fields(kind)}
    for base in reversed(kind.__mro__):
        own = {name: hint for name, hint in inspect.get_annotations(base).items() if name in names}
        module = vars(sys.modules[base.__module__])
        hints |= get_type_hints(SimpleNamespace(__annotations__=own), module, include_extras=True)
    return hints


def marker(kind: type, name: str, wanted: type[Marker]) -> Marker | None:
    """What a declaration says of one subject: a ``Between`` or an ``Acts``."""
    found = getattr(hints_of(kind)[name], "__metadata__", ())
    return next((one for one in found if isinstance(one, wanted)), None)


def plain(hint: Any) -> Any:
    """A type without what ``Annotated`` adds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def check_range(kind: type, name: str, value: Any) -> None:
    """Refuse numbers that are not finite or out of the range of a setting of ``kind``, and empty paths; the message names it."""
    if value == "" and marker(kind, name, NamesPlace) is not None:
        raise UserError(f"{name}: an empty path (an unset variable in a script?): name a place, or leave it out")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            refusal = (marker(kind, name, Between) or Between()).refusal(number)
            if refusal is not None:
                raise UserError(f"{name}: {refusal}, got {f'{number!r:.40}'}")


def check_rules(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse values that contradict a rule of ``kind`` or of a class that it derives from, where all that the rule names is known.

    Raises:
        UserError: its message is the rule's.
    """
    for rule in dict.fromkeys(rule for base in kind.__mro__ for rule in vars(base).get("RULES", ())):
        message = rule(**_named(rule, values)) if _names(rule) <= values.keys() else None
        if message is not None:
            raise UserError(message)


def check_effects(
    kinds: Iterable[type], values: Mapping[str, Any], defaults: Mapping[str, Any], given: Iterable[str]
) -> None:
    """Refuse a setting that was given, is not its default, and has no effect beside the others; the message says what it goes with."""
    home = {name: kind for kind in kinds for name in hints_of(kind)}
    for name in given:
        acts = marker(home[name], name, Acts) if name in home else None
        if acts is not None and values[name] != defaults[name] and not acts.when(**_named(acts.when, values)):
            raise UserError(f"{name} {values[name]} would change nothing here: it is {acts.meaning}")


@cache
def _names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(signature(function).parameters)


def _named(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _names(function)}
