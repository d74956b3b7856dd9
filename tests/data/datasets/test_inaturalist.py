"""iNaturalist's own JSON files, and the ranks above species."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastlift
from fastlift import cli
from fastlift.data.datasets import catalogue
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.inaturalist import parse_annotations, parse_categories, ranks_of
from fastlift.data.datasets.inaturalist2018 import INATURALIST2018
from fastlift.data.index.problems import Problems
from fastlift.data.loading.loader import build_loader
from fastlift.data.pack import run
from fastlift.engine.evaluate import evaluate_run
from fastlift.errors import UserError
from fastlift.models.preprocessing import EnsemblingSettings

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
    digits, deep = "9" * 400, "[" * 200 + "]" * 200
    of_category = '{{"images": [{{"id": 1, "file_name": "a"}}], "annotations": [{{"image_id": 1, "category_id": {}}}]}}'
    odd = (of_category.format(value) for value in ("1.7", "true", '"1"', "null", "NaN", digits, deep))
    for text in ("{", "[]", '{"images": []}', *odd):
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


@pytest.fixture
def small_set(image_files: Any, monkeypatch: pytest.MonkeyPatch, encode: Callable, make_image: Callable) -> Path:
    """Three species of 3, 2 and 1 training images, in iNaturalist's own files."""
    entries = [(f"train_val2018/Aves/{label}/{k}.jpg", label) for label in range(3) for k in range(3 - label)]
    for path, label in entries:
        image_files.add(path, label, encode(make_image(40, 30)))
    (image_files.root / "train2018.json").write_text(annotations(entries))
    (image_files.root / "val2018.json").write_text(annotations([entries[0], entries[3]]))
    (image_files.root / "categories.json").write_text(json.dumps(CATEGORIES))
    known = INATURALIST2018
    with pytest.raises(UserError, match=r"3 class names, iNaturalist 2018 has 8142"):
        load_data_set("inaturalist2018", data_root=image_files.root, cache_dir=image_files.cache)
    small = replace(known, classes=3, train=6, test=(2,), largest=3, smallest=1)
    monkeypatch.setattr(catalogue, "SOURCES", (small, *catalogue.SOURCES))
    return image_files.root


def test_the_set_is_found_checked_and_packed_with_its_ranks(small_set: Path, tmp_path: Path) -> None:
    data = load_data_set("inaturalist2018", data_root=small_set, cache_dir=tmp_path)
    assert data.class_names == ("Oenanthe oenanthe", "Turdus merula", "Oenanthe crocata")
    assert data.train.class_counts().tolist() == [3, 2, 1]
    run("inaturalist2018", tmp_path / "pack", data_root=small_set, cache_dir=tmp_path)
    packed = load_data_set("inaturalist2018", data_root=tmp_path / "pack", cache_dir=tmp_path)
    assert packed.ranks["family"].names == data.ranks["family"].names == ("Ap", "Mu", "Tu")
    np.testing.assert_array_equal(packed.ranks["order"].of_class, data.ranks["order"].of_class)
    for root in (small_set, tmp_path / "pack"):
        coarse = load_data_set("inaturalist2018", data_root=root, cache_dir=tmp_path, taxon="kingdom")
        assert coarse.class_names == coarse.train.class_names == ("Animalia", "Plantae")
        assert coarse.train.class_counts().tolist() == coarse.group_counts.tolist() == [5, 1]
        cut = load_data_set("inaturalist2018", data_root=root, cache_dir=tmp_path, taxon="kingdom", val_share=0.4)
        assert cut.val is not None
        assert (len(cut.train), len(cut.val)) == (4, 2)
        assert cut.group_counts.tolist() == [5, 1]  # of all training images, cut off or not
        assert coarse.test.labels.tolist() == [0, 0]
        assert coarse.train.fingerprint != data.train.fingerprint


def test_an_imported_classifier_has_its_rows_in_the_order_of_the_categories(
    small_set: Path, tiny_clip: tuple[Path, Path], tmp_path: Path
) -> None:
    """Both authors' programs number the species by the order of their names: crocata, oenanthe, merula."""
    rows = torch.eye(3, 48)
    flags = ["--data-root", str(small_set), "--model", str(tiny_clip[0]), "--pretrained", str(tiny_clip[1])]
    flags += ["--device", "cpu", "--executor", "torchvision", "--json"]
    for taxon, expected in (("species", [1, 2, 0]), ("genus", [0, 1])):  # ranks above are sorted by name here too
        torch.save({"tuner": {}, "head": {"weight": rows[: len(expected)]}}, tmp_path / "checkpoint.pth.tar")
        output = ["--output", str(tmp_path / taxon), "--taxon", taxon]
        command = ["import-lift", str(tmp_path / "checkpoint.pth.tar"), "--dataset", "inaturalist2018"]
        assert cli.main([*command, *flags, *output]) == 0
        assert torch.equal(fastlift.load_run(tmp_path / taxon).classifier.weight, rows[expected])


def test_sets_without_ranks_say_so(image_files: Any) -> None:
    image_files.fill()
    with pytest.raises(UserError, match=r"taxon family: list has no ranks above its classes; .*categories\.json"):
        image_files.load(taxon="family")


def test_a_run_on_species_is_evaluated_at_higher_ranks(
    small_set: Path, tiny_clip: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probability of a group is the sum of its species'; a run may also learn the groups themselves."""
    config = fastlift.recipes.lift(
        "inaturalist2018",
        data_root=small_set,
        model=str(tiny_clip[0]),
        pretrained=str(tiny_clip[1]),
        epochs=0,
        device="cpu",
        executor="torchvision",
    )
    finished = fastlift.train(config, output=tmp_path / "species")
    data = load_data_set("inaturalist2018", data_root=small_set)
    tallied = []
    for taxon, groups in (("kingdom", [0, 0, 1]), ("genus", [0, 1, 0])):
        assert cli.main(["evaluate", str(tmp_path / "species"), "--taxon", taxon, "--device", "cpu", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)[f"center ({taxon})"]
        assert row["samples"] == 2
        assert len(row["per_class"]) == 2
        probabilities = logits_of_the_test_split(finished.model, data).softmax(dim=1)
        sums = torch.stack([probabilities[:, [g == k for g in groups]].sum(dim=1) for k in (0, 1)], dim=1)
        truth = torch.tensor([groups[label] for label in data.test.labels])
        assert row["accuracy"] == pytest.approx(100 * float((sums.argmax(dim=1) == truth).float().mean()))
        expected = -sums[torch.arange(2), truth].log().mean()
        assert row["log_loss"] == pytest.approx(float(expected), rel=1e-4)
        tallied.append(row["log_loss"])
    assert tallied[0] != tallied[1]
    coarse = fastlift.train(config.override(taxon="genus"), output=tmp_path / "genera")
    assert coarse.model.class_names == ("Oenanthe", "Turdus")
    with pytest.raises(UserError, match="taxon family: this run was trained on each genus"):
        evaluate_run(tmp_path / "genera", settings={"taxon": "family"})


def logits_of_the_test_split(model: Any, data: Any) -> torch.Tensor:
    """Logits of the test split in its order, by the crops of evaluation."""
    crops, norm = EnsemblingSettings().build(model.preprocessing), model.preprocessing
    loader = build_loader(
        data.test, crops, batch_size=8, shuffle=False, mean=norm.mean, std=norm.std, executor="torchvision"
    )
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _, _ in loader.epoch(0)])
    loader.close()
    return logits


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
