"""WordNet ids of folders as words: ImageNet's from CLIP, others from timm, each class another name."""

from pathlib import Path
from typing import Any

import pytest

from fastlift.data.datasets import wordnet
from fastlift.data.datasets.catalogue import load_data_set
from fastlift.data.datasets.wordnet import names_of_folders


def test_ids_of_imagenet_have_clips_names() -> None:
    assert names_of_folders(["n01440764", "n02124075", "n04067472"]) == (
        "tench",
        "Egyptian Mau",
        "fishing casting reel",
    )


def test_all_of_imagenet_is_known_and_differs() -> None:
    """CLIP calls two classes missile and two sunglasses."""
    ids = sorted(wordnet._imagenet())
    names = names_of_folders(ids)
    assert len(ids) == len(set(names)) == 1000
    assert names[ids.index("n03773504")] == "missile"
    assert names[ids.index("n04008634")] == "projectile"
    assert not any(name.startswith("n0") for name in names)


def test_ids_beyond_the_thousand_come_from_timm() -> None:
    assert names_of_folders(["n00007846", "n12345678"]) == ("person", "n12345678")


def test_one_word_of_two_ids_is_told_apart() -> None:
    """Three synsets are called flip: the id says which one."""
    flips = [synset for synset, lemma in wordnet._lemmas().items() if lemma == "flip"]
    assert len(flips) > 1
    names = names_of_folders(flips)
    assert len(set(names)) == len(flips)
    assert all(name.startswith("flip (n") for name in names)


def test_without_timms_table_ids_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordnet, "_lemmas", dict)
    assert names_of_folders(["n00007846", "n01440764"]) == ("n00007846", "tench")


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["n01440764_tench", "n01443537-gold_fish"], ("tench", "gold_fish")),
        (["n01440764_1", "n01443537_2"], ("n01440764_1", "n01443537_2")),  # a number is no name
        (["n01440764", "dog"], ("tench", "dog")),
        (["tench", "n01440764"], ("tench", "tench, Tinca tinca")),
        (["cat", "n1", "0042"], ("cat", "n1", "0042")),
        ([], ()),
    ],
)
def test_what_stands_behind_an_id_and_what_is_none(folders: list[str], names: tuple[str, ...]) -> None:
    assert names_of_folders(folders) == names


def _two_folders(image_files: Any) -> Path:
    image_files.fill(classes=2)
    for split in ("train", "test"):
        for label, synset in enumerate(("n01440764", "n01443537")):
            (image_files.root / split / synset).mkdir(parents=True)
            (image_files.root / split / synset / "0.jpg").hardlink_to(image_files.root / f"c{label}" / "0.jpg")
    root: Path = image_files.root
    return root


def test_folders_and_lists_of_ids_have_words(image_files: Any, tmp_path: Path) -> None:
    root = _two_folders(image_files)
    data = load_data_set("folder", data_root=root, cache_dir=tmp_path)
    assert data.class_names == data.train.class_names == ("tench", "goldfish")
    listed = tmp_path / "train.txt"
    listed.write_text("train/n01440764/0.jpg 0\ntrain/n01443537/0.jpg 1\n")
    lists = {"train_list": listed, "test_list": listed}
    assert load_data_set("list", data_root=root, cache_dir=tmp_path, **lists).class_names == ("tench", "goldfish")


def test_a_users_table_of_more_folders_wins(image_files: Any, tmp_path: Path) -> None:
    root = _two_folders(image_files)
    table = tmp_path / "words.txt"
    table.write_text("n00007846\tperson\nn01443537\tgold fish\nn01440764\tfish called tench\n")
    data = load_data_set("folder", data_root=root, cache_dir=tmp_path, class_names=table)
    assert data.class_names == ("fish called tench", "gold fish")
