"""The base class of all settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from fastlift.settings.validate import check_rules, check_value

Part = TypeVar("Part", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """Frozen, and checked when they are made.

    ``RULES`` are functions whose parameters are names of settings, and which return a message where the values contradict
    each other, else None. A rule may name settings of other parts: it is asked where all of them are known, at the latest in
    ``Config``. Classes that derive from several others are composed of their settings, and ``part`` gives those of one.

    Raises:
        UserError: a value out of its range or choices, or values that contradict each other.
    """

    RULES: ClassVar[tuple[Callable[..., str | None], ...]] = ()

    def __post_init__(self) -> None:
        values = self.values()
        for name, value in values.items():
            check_value(type(self), name, value)
        check_rules(type(self), values)

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
