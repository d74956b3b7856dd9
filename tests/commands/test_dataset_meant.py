"""Which data set is meant where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlift import recipes
from fastlift.commands.base_config import base_config
from fastlift.commands.dataset_meant import dataset_meant


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ([], "shapes_lt"),
        (["--seed", "1"], "shapes_lt"),
        (["--data-root", "photos"], "folder"),
        (["--data_root=photos", "--seed", "1"], "folder"),
        (["--data-root", "s3://bucket/photos"], "folder"),
        (["--dataset", "places_lt", "--data-root", "photos"], "places_lt"),
        (["--data-root", "photos", "--train-list", "photos.txt"], "list"),
        (["--data-root", "shards", "--train-list", "train-{00..99}.tar"], "webdataset"),
        (["--data-root"], "shapes_lt"),  # told by the parser of all flags
    ],
)
def test_by_the_flags(arguments: list[str], meant: str) -> None:
    assert dataset_meant(arguments) == meant


def test_by_what_lies_there(tmp_path: Path) -> None:
    def meant() -> str:
        return dataset_meant(["--data-root", str(tmp_path)])

    (tmp_path / "train").mkdir()
    assert meant() == "folder"
    (tmp_path / "train" / "0.tar").touch()
    assert meant() == "webdataset"
    (tmp_path / "fastlift-pack.json").write_text(json.dumps({"dataset": "places_lt"}))
    assert meant() == "places_lt"


def test_recipes_and_their_backbone_follow(tmp_path: Path) -> None:
    for config in (recipes.lift(data_root=str(tmp_path)), base_config(["--data-root", str(tmp_path)])):
        assert config.data.dataset == "folder"
        assert config.model.model == "ViT-B-16-quickgelu"
    assert recipes.lift_plus().data.dataset == "shapes_lt"
    assert recipes.lift().model.model == "shapes-clip"
