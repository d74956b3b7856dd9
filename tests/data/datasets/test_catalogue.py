"""Data sets by name: unknown ones, and what is given beside a set that has no use for it."""

from pathlib import Path

import pytest

from fastlift.data.datasets.catalogue import load_data_set, names, source_of
from fastlift.errors import UserError


def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(UserError, match="imagenet_lt"):
        source_of("imagenet-lt")
    for name in names():
        source_of(name)
    source_of("cifar100_ir20")


def test_flags_that_a_set_cannot_use_are_refused(tmp_path: Path) -> None:
    for options in ({"train_list": tmp_path}, {"class_names": tmp_path}):
        with pytest.raises(UserError, match=r"--train-list|--class-names"):
            load_data_set("cifar10_ir100", **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--dataset list needs"):
        load_data_set("list", data_root=tmp_path)


@pytest.mark.parametrize(("name", "expected"), [("list", "start from"), ("cifar10_ir100", "cs.toronto.edu")])
def test_a_missing_data_root_says_what_it_must_hold(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        load_data_set(name, data_root=tmp_path / "nowhere")
