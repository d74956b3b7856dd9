"""Names of classes that read alike."""

from __future__ import annotations

import pytest

from fastlift.data.datasets.class_names import check_names
from fastlift.data.index.problems import Problems


@pytest.mark.parametrize("other", ["Red Panda", "red_panda", "red  panda", "ｒed panda"])
def test_two_ways_to_write_one_class(other: str) -> None:
    problems = Problems("photos")
    check_names(("bee", "red panda", other), "photos", problems, given=False)
    assert problems.of_lists == [
        f"photos: 'red panda' and {other!r} read as one class, and count as two: put them together, or give names that "
        "differ with --class-names"
    ]
    assert not problems.notes


def test_names_of_a_file_may_be_equal_and_it_is_said() -> None:
    problems = Problems("photos")
    check_names(("crane", "bee", "crane"), "names.txt", problems, given=True)
    assert not problems.total
    assert problems.notes == [
        "names.txt: classes 0 and 2 are both called 'crane', so their texts start alike; better give them names that differ"
    ]


def test_other_names_are_fine() -> None:
    problems = Problems("photos")
    check_names(("bee", "bees", "wasp", "Wasp nest"), "photos", problems, given=False)
    assert (problems.total, problems.notes) == (0, [])
