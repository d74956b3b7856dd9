"""From plain values (JSON, flags, keywords) to a setting's type, by msgspec; messages in the words of someone who writes JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from fastlift.errors import UserError
from fastlift.settings.names import one_of
from fastlift.settings.validate import hints_of, plain

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def typed(name: str, hint: Any, value: Any) -> Any:
    """The value of setting ``name`` in its type; paths, NumPy's numbers, sequences and iterators are taken as JSON has them.

    Raises:
        UserError: a value of another type, or none of the choices.
    """
    kind = plain(hint)
    if get_origin(kind) is Literal and isinstance(value, str):
        return one_of(f"value of {name}", value, get_args(kind))
    try:
        return msgspec.convert(_as_json(value), kind, dec_hook=_path)
    except (msgspec.ValidationError, NotImplementedError):
        raise UserError(f"{name}: expected {_said(kind)}, got {value!r}") from None


def keywords(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are written in Python: one text may stand for a list of one, as in ``tuner="lora"``."""
    lists = {name for name, hint in hints_of(kind).items() if get_origin(plain(hint)) is tuple}
    return {name: (value,) if name in lists and isinstance(value, str) else value for name, value in values.items()}


def _as_json(value: Any) -> Any:
    """Paths as text, NumPy's numbers as Python's, sequences and iterators as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, (Sequence, Iterator)) and not isinstance(value, (str, bytes)):
        return [_as_json(item) for item in value]
    return value


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
