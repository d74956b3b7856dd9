"""What is shown in the place of images that cannot be used."""

import numpy as np
import pytest

from fastlift.data.index.index import BadImage, array_index
from fastlift.data.index.replacements import BadImageSettings, NoGoodImage, next_good, replaced_rows
from fastlift.errors import UserError


def test_replacements_of_all_bad_files_are_those_of_each() -> None:
    random = np.random.default_rng(0)
    for classes in (1, 3, 40):
        labels = random.integers(0, classes, 60)
        bad = random.choice(60, 30, replace=False).tolist()
        is_bad = np.isin(np.arange(60), bad)
        found = replaced_rows(labels, bad)
        expected = [next_good(labels, is_bad, i) if is_bad[i] else i for i in range(60)]
        assert found.tolist() == expected


def test_settings_make_them() -> None:
    index = array_index("x/train", np.zeros((4, 2, 2, 3), dtype=np.uint8), np.array([0, 0, 1, 1]), ("a", "b"))
    seen: list[BadImage] = []
    skipping = BadImageSettings("skip").build(index, seen.append)
    assert skipping.replace(0, 0, "is empty") == 1
    assert skipping.replace(0, 0, "is empty") == 1
    assert [bad.replacement for bad in seen] == [1]  # told once
    assert skipping.sources(np.arange(4)).tolist() == [1, 1, 2, 3]
    with pytest.raises(NoGoodImage, match="its class has no other good image") as none:
        skipping.replace(0, 1, "is cut")
    assert none.value.reasons == {0: "is empty", 1: "is cut"}
    with pytest.raises(UserError, match=r"is empty\. Repair or remove it, or pass --bad-images skip"):
        BadImageSettings().build(index).replace(0, 0, "is empty")
    with pytest.raises(UserError, match="unknown value of bad_images 'perhaps'"):
        BadImageSettings("perhaps")  # type: ignore[arg-type]
