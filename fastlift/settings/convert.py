"""From plain values (JSON, keywords) to settings, by msgspec; messages in the words of someone who writes JSON."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from fastlift.errors import UserError
from fastlift.settings.base import Settings
from fastlift.settings.names import one_of
from fastlift.settings.validate import hints_of, plain

Kind = TypeVar("Kind", bound=Settings)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def converted(kind: type[Kind], values: Any, where: str = "") -> Kind:
    """Settings from plain values; what is missing takes its default.

    Args:
        where: what the values are called in messages.

    Raises:
        UserError: something that is no object, an unknown name, a value of another type, or one that is refused.
    """
    if not isinstance(values, dict):
        raise UserError(f"settings{where and f' {where}'}: expected an object, got {type(values).__name__}")
    hints = hints_of(kind)
    for name in values:
        one_of(f"setting{where and f' in {where}'}", name, hints)
    return kind(**{name: _value(name, hints[name], value) for name, value in values.items()})


def _value(name: str, hint: Any, value: Any) -> Any:
    kind = plain(hint)
    if get_origin(kind) is Literal and isinstance(value, str):
        return one_of(f"value of {name}", value, get_args(kind))
    try:
        return msgspec.convert(value, kind, dec_hook=_path)
    except (msgspec.ValidationError, NotImplementedError):
        raise UserError(f"{name}: expected {_said(kind)}, got {value!r}") from None


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def _said(hint: Any) -> str:
    """A type in the words of someone who writes JSON."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(option) for option in options)
    if origin is tuple:
        length = "" if Ellipsis in options else f" of {len(options)}"
        return f"a list{length}, each item {_said(options[0])}"
    if origin in (Union, UnionType):
        return " or ".join(_said(option) for option in options)
    return _WORDS.get(hint, "null")
