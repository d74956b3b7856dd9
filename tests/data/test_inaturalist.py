"""iNaturalist's own JSON files, and the ranks above species."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlift.data import catalogue
from fastlift.data.catalogue import load_data_set
from fastlift.data.inaturalist import parse_annotations, parse_categories, ranks_of
from fastlift.data.pack import run
from fastlift.data.problems import Problems
from fastlift.errors import UserError

CATEGORIES = [
    {"id": 2, "name": "Oenanthe crocata", "kingdom": "Plantae", "phylum": "T", "class": "M", "order": "A", "family": "Ap", "genus": "Oenanthe"},
    {"id": 0, "name": "Oenanthe oenanthe", "kingdom": "Animalia", "phylum": "C", "class": "Av", "order": "P", "family": "Mu", "genus": "Oenanthe"},
    {"id": 1, "name": "Turdus merula", "kingdom": "Animalia", "phylum": "C", "class": "Av", "order": "P", "family": "Tu", "genus": "Turdus"},
]  # fmt: skip


def annotations(entries: list[tuple[str, int]]) -> str:
    """Images in another order than the annotations, with ids that are no positions."""
    images = [{"id": 1000 - i, "file_name": path, "width": 1} for i, (path, _) in enumerate(entries)]
    labels = [{"id": i, "image_id": 1000 - i, "category_id": label} for i, (_, label) in enumerate(entries)]
    return json.dumps({"images": images[::-1], "annotations": labels, "info": {}})


def test_annotations_join_images_and_categories() -> None:
    problems = Problems("x")
    listing = parse_annotations(annotations([("a/1.jpg", 2), ("a/2.jpg", 0)]), "x", 3, problems)
    assert list(listing.paths) == ["a/1.jpg", "a/2.jpg"]
    assert listing.labels.tolist() == [2, 0]
    assert problems.total == 0


def test_bad_annotations_are_named() -> None:
    problems = Problems("x")
    text = annotations([("a.jpg", 5), ("../b.jpg", 0), ("c.jpg", 1)])
    data = json.loads(text)
    data["annotations"].append({"image_id": 7, "category_id": 0})
    assert list(parse_annotations(json.dumps(data), "x", 3, problems).paths) == ["c.jpg"]
    message = problems.message()
    for part in ("category 5 is out of range", "path leaves the data root", "annotation 4: no such image"):
        assert part in message
    for text in ("{", "[]", '{"images": []}'):
        problems = Problems("x")
        parse_annotations(text, "x", 3, problems)
        assert "not an annotation file" in problems.message()


def test_ranks_group_by_name() -> None:
    ranks = ranks_of(parse_categories(json.dumps(CATEGORIES), "x"))
    assert ranks["kingdom"].names == ("Animalia", "Plantae")
    assert ranks["kingdom"].of_class.tolist() == [0, 0, 1]
    assert ranks["genus"].names == ("Oenanthe", "Turdus")  # a bird and a herb share the first
    assert ranks["genus"].of_class.tolist() == [0, 1, 0]


@pytest.mark.parametrize("text", ["{}", "[]", '[{"id": 1, "name": "a"}]', '[{"id": 0}]', "x"])
def test_other_files_are_no_categories(text: str) -> None:
    with pytest.raises(UserError, match=r"categories\.json"):
        parse_categories(text, "x")


def test_the_set_is_found_checked_and_packed_with_its_ranks(
    pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: Callable, make_picture: Callable
) -> None:
    entries = [(f"train_val2018/Aves/{label}/{k}.jpg", label) for label in range(3) for k in range(3 - label)]
    for path, label in entries:
        pictures.add(path, label, encode(make_picture(40, 30)))
    root = pictures.root
    (root / "train2018.json").write_text(annotations(entries))
    (root / "val2018.json").write_text(annotations(entries[:2]))
    (root / "categories.json").write_text(json.dumps(CATEGORIES))
    with pytest.raises(UserError, match=r"3 class names, iNaturalist 2018 has 8142"):
        load_data_set("inaturalist2018", data_root=root, cache_dir=tmp_path)
    small = catalogue.PUBLISHED["inaturalist2018"].__class__(
        **{
            **vars(catalogue.PUBLISHED["inaturalist2018"]),
            "classes": 3,
            "train": 6,
            "test": (2,),
            "largest": 3,
            "smallest": 1,
        }
    )
    monkeypatch.setitem(catalogue.PUBLISHED, "inaturalist2018", small)
    data = load_data_set("inaturalist2018", data_root=root, cache_dir=tmp_path)
    assert data.class_names == ("Oenanthe oenanthe", "Turdus merula", "Oenanthe crocata")
    assert data.train.class_counts().tolist() == [3, 2, 1]
    run("inaturalist2018", tmp_path / "pack", data_root=root, cache_dir=tmp_path)
    packed = load_data_set("inaturalist2018", data_root=tmp_path / "pack", cache_dir=tmp_path)
    assert packed.ranks["family"].names == data.ranks["family"].names == ("Ap", "Mu", "Tu")
    np.testing.assert_array_equal(packed.ranks["order"].of_class, data.ranks["order"].of_class)


def test_the_real_categories(shared: Path) -> None:
    file = shared / "data" / "splits" / "iNaturalist18_categories.json"
    categories = parse_categories(file.read_text(), str(file))
    sizes = {rank: len(groups.names) for rank, groups in ranks_of(categories).items()}
    assert sizes == {
        "kingdom": 6,
        "phylum": 25,
        "class": 57,
        "order": 272,
        "family": 1118,
        "genus": 4401,
    }  # as published
