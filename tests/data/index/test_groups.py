"""Many, medium and few."""

import pytest

from fastlift.data.index.groups import GroupSettings, group_masks
from fastlift.errors import UserError


def test_group_boundaries_belong_to_medium() -> None:
    masks = group_masks([101, 100, 20, 19, 0])
    assert masks["many"].tolist() == [True, False, False, False, False]
    assert masks["medium"].tolist() == [False, True, True, False, False]
    assert masks["few"].tolist() == [False, False, False, True, True]
    with pytest.raises(UserError, match="rise"):
        group_masks([1], (100, 20))


def test_settings_are_two_numbers_that_do_not_fall() -> None:
    found = group_masks([3, 2, 1, 0], GroupSettings((1, 2)).group_boundaries)
    assert {name: mask.tolist().index(True) for name, mask in found.items()} == {"many": 0, "medium": 1, "few": 3}
    do_not_fall = "two numbers of images that do not fall, got \\["
    two = "a list of 2, each item a whole number, got \\("
    for wrong, expected in (((100, 20), do_not_fall), ((-1, 3), do_not_fall), ((1, 2, 3), two), ((), two)):
        with pytest.raises(UserError, match=rf"group_boundaries: expected {expected}"):
            GroupSettings(wrong)  # type: ignore[arg-type]
