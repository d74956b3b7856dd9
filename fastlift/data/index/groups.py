"""Many, medium and few: classes grouped by their numbers of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastlift.errors import UserError
from fastlift.settings import May, Settings
from fastlift.settings.validate import Rule

GROUP_BOUNDARIES = (20, 100)


def _do_not_fall(group_boundaries: tuple[int, ...]) -> str | None:
    if len(group_boundaries) == 2 and 0 <= group_boundaries[0] <= group_boundaries[1]:
        return None
    return f"group_boundaries: expected two numbers of images that do not fall, got {list(group_boundaries)}"


@dataclass(frozen=True)
class GroupSettings(Settings):
    """Where the groups begin and end."""

    group_boundaries: Annotated[tuple[int, int], May.CHANGE] = GROUP_BOUNDARIES
    """Classes with fewer training images than the first number are 'few', with more than the second 'many'."""
    RULES: ClassVar[tuple[Rule, ...]] = (_do_not_fall,)


def group_masks(
    group_counts: Sequence[int], boundaries: tuple[int, int] = GROUP_BOUNDARIES
) -> dict[str, NDArray[np.bool_]]:
    """Which classes are many (> upper), medium (lower..upper, both included) and few (< lower): three masks, bool [C].

    Raises UserError where the boundaries fall.
    """
    lower, upper = boundaries
    if lower > upper:
        raise UserError(f"group boundaries must rise, not ({lower}, {upper})")
    counts = np.asarray(group_counts)
    return {"many": counts > upper, "medium": (counts >= lower) & (counts <= upper), "few": counts < lower}
