"""Settings: declared once, converted, refused with a reason, composed and cut into parts again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest

from fastlift.errors import UserError
from fastlift.settings import Acts, Between, Settings, check_effects, converted
from fastlift.settings.validate import Rule


@dataclass(frozen=True)
class Crop(Settings):
    """Of crops."""

    kind: Literal["square", "free"] = "free"
    side: Annotated[int, Between(1)] = 8
    share: Annotated[float, Between(0, 1, "(]", "a share of the area in (0, 1]")] = 0.5
    sides: int | tuple[int, ...] | None = None
    ends: tuple[int, int] = (0, 1)
    growth: Annotated[float, Acts("how squares grow (kind square)", lambda kind: kind == "square")] = 1.0


def _fits(side: int, batch: int) -> str | None:
    return f"side {side} is more than the batch {batch}" if side > batch else None


@dataclass(frozen=True)
class Batch(Settings):
    """Of batches."""

    batch: Annotated[int, Between(1, 64)] = 64
    rate: Annotated[float, Between(0)] = 0.1
    decay: Annotated[float, Between(0, 1, "[)")] = 0.1
    root: Path | None = None
    RULES: ClassVar[tuple[Rule, ...]] = (_fits,)


@dataclass(frozen=True)
class Both(Batch, Crop):
    """Composed."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sied": 3}, "unknown setting 'sied'; did you mean side"),
        ({"kind": "squre"}, "unknown value of kind 'squre'; did you mean square"),
        ({"kind": 3}, "kind: expected 'square' or 'free', got 3"),
        ({"side": 0}, "side: expected more than 0, got 0"),
        ({"side": 2**63}, r"side: expected a whole number from 1 to 2\^63 - 1, got 9223372036854775808"),
        ({"side": True}, "side: expected a whole number, got True"),
        ({"side": 1.5}, "side: expected a whole number, got 1.5"),
        ({"batch": 65}, "batch: expected a whole number from 1 to 64, got 65"),
        ({"share": 0.0}, r"share: expected a share of the area in \(0, 1\], got 0.0"),
        ({"rate": -1}, "rate: must not be negative, got -1.0"),
        ({"rate": float("nan")}, "rate: expected a finite number, got nan"),
        ({"decay": 1.0}, r"decay: expected a number in \[0, 1\), got 1.0"),
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"sides": "all"}, "sides: expected a whole number or a list, each item a whole number or null, got 'all'"),
        ({"ends": [1]}, r"ends: expected a list of 2, each item a whole number, got \[1\]"),
        ({"root": 3}, "root: expected a path or null, got 3"),
        ({"side": 9, "batch": 8}, "side 9 is more than the batch 8"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        converted(Both, values)


def test_converted() -> None:
    found = converted(Both, {"sides": [1, 2], "rate": 1, "root": "a"})
    assert (found.sides, found.rate, found.root) == ((1, 2), 1.0, Path("a"))
    assert isinstance(found.rate, float)
    with pytest.raises(UserError, match="settings crops: expected an object, got list"):
        converted(Both, [], "crops")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"batch": True}, "batch: expected a whole number, got True"),
        ({"side": 1.5}, "side: expected a whole number, got 1.5"),
        ({"kind": 3}, "kind: expected 'square' or 'free', got 3"),
    ],
)
def test_keywords_are_refused_as_json_is(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Both(**values)


def test_keywords_are_converted_as_json_is() -> None:
    values: dict[str, Any] = {"sides": [1, 2], "rate": 1, "root": "a"}
    for found in (Both(**values), converted(Both, values)):
        assert (found.sides, found.rate, found.root) == ((1, 2), 1.0, Path("a"))
        assert type(found.rate) is float


def test_keywords_may_be_numbers_of_numpy_sequences_and_iterators() -> None:
    found = Both(side=np.int64(3), rate=np.float64(0.25), sides=range(2))  # type: ignore[arg-type]
    assert found == Both(side=3, rate=0.25, sides=(0, 1))
    assert [type(found.side), type(found.rate), type(found.sides)] == [int, float, tuple]
    assert Both(sides=(n for n in (np.int32(4), 5))).sides == (4, 5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="side: expected a whole number, got "):
        Both(side=np.float32(3.5))  # type: ignore[arg-type]


def test_a_part_has_its_own_settings() -> None:
    both = Both(side=3, rate=0.7)
    assert both.part(Crop) == Crop(side=3)
    assert both.part(Batch) == Batch(rate=0.7)


def test_a_rule_is_asked_only_where_all_that_it_names_is_known() -> None:
    assert Batch(batch=2).batch == 2
    with pytest.raises(UserError, match="more than the batch"):
        Both(batch=2)


def test_what_would_change_nothing_is_refused() -> None:
    values, defaults = Both(growth=2.0).values(), Both().values()
    with pytest.raises(
        UserError, match=r"growth 2.0 would change nothing here: it is how squares grow \(kind square\)"
    ):
        check_effects([Both], values, defaults, ["growth"])
    check_effects([Both], values, defaults, ["side"])  # not given
    check_effects([Both], values | {"kind": "square"}, defaults, ["growth"])
    check_effects([Both], defaults, defaults, ["growth"])  # the default says nothing
