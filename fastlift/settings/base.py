"""The base class of all settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from fastlift.errors import UserError
from fastlift.settings.convert import typed
from fastlift.settings.names import one_of
from fastlift.settings.validate import check_range, check_rules, hints_of

Part = TypeVar("Part", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Frozen, and converted and checked when they are made: keywords, flags and JSON give the same settings.

    ``RULES`` are functions whose parameters are names of settings, and which return a message where the values contradict
    each other, else None. A rule may name settings of other parts: it is asked where all of them are known, at the latest in
    ``Config``. Classes that derive from several others are composed of their settings, and ``part`` gives those of one.

    Raises:
        UserError: a value of another type, out of its range or choices, or values that contradict each other.
    """

    RULES: ClassVar[tuple[Callable[..., str | None], ...]] = ()

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for name, value in self.values().items():
            object.__setattr__(self, name, typed(name, hints[name], value))
            check_range(type(self), name, getattr(self, name))
        check_rules(type(self), self.values())

    def values(self) -> dict[str, Any]:
        """All settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def part(self, kind: type[Part]) -> Part:
        """The settings of one part."""
        return kind.of(self.values())

    @classmethod
    def of(cls: type[Part], values: Mapping[str, Any]) -> Part:
        """Those of the ``values`` that belong here."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def converted(kind: type[Part], values: Any, where: str = "") -> Part:
    """Settings from an object of JSON; what is missing takes its default.

    Args:
        where: what the values are called in messages.

    Raises:
        UserError: something that is no object, an unknown name, or a value that is refused.
    """
    if not isinstance(values, dict):
        raise UserError(f"settings{where and f' {where}'}: expected an object, got {type(values).__name__}")
    for name in values:
        one_of(f"setting{where and f' in {where}'}", name, hints_of(kind))
    return kind(**values)
