"""Data sets by name: unknown ones, and what is given beside a set that has no use for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets import catalogue
from fastlift.data.datasets.catalogue import SourceSettings, load_data_set, names, source_of
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import DataSet, Request, Source
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.data.datasets.taxon import TaxonSettings
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.stores.cache import CacheSettings
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


def test_settings_load_what_the_function_does(image_files: Any) -> None:
    expected = image_files.fill().load()
    options = image_files.options()
    cache = options.pop("cache_dir")
    found = SourceSettings("list", **options).build(
        TaxonSettings(), BadImageSettings(), CacheSettings(), CutSettings(), TailSettings(), cache_dir=cache
    )
    assert found.train.fingerprint == expected.train.fingerprint
    assert found.class_names == expected.class_names
    assert found.train.cache == cache
    with pytest.raises(UserError, match=r"unknown value of taxon 'genera'; did you mean genus"):
        load_data_set("list", **image_files.options(), taxon="genera")


def test_a_data_set_is_a_source_and_a_line(image_files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/data.md says of adding one."""
    given = image_files.fill().load()

    class Mine(Source):
        name = "mine"

        def load(self, request: Request) -> DataSet:
            return replace(given, name=request.name)

    monkeypatch.setattr(catalogue, "SOURCES", (*catalogue.SOURCES, Mine()))
    assert load_data_set("mine").name == "mine"
    assert "mine" in names()
    with pytest.raises(UserError, match=r"--train-list: the data set mine has no list files"):
        load_data_set("mine", train_list="x.txt")
