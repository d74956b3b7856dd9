"""Data sets from the objects of Python programs, with the real libraries."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastlift import data as api
from fastlift import recipes
from fastlift.config import Config
from fastlift.data.datasets.catalogue import data_set_meant
from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.objects import ObjectImages
from fastlift.errors import UserError

NAMES = ("ant", "bee", "red panda")
COUNTS = (2, 5, 8)
STATISTICS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLIFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(image_files: Any, encode: Callable, make_image: Callable) -> Path:
    """Class folders of PNGs, whose pixels every reader agrees on."""
    for label, (name, count) in enumerate(zip(NAMES, COUNTS, strict=True)):
        for k in range(count):
            image_files.add(f"{name}/{k}.png", label, encode(make_image(40 + k, 30, seed=10 * label + k), "PNG"))
    return image_files.root


@pytest.fixture
def rows(photos: Path) -> list[tuple[str, str]]:
    return [(f"{name}/{k}.png", name) for name, count in zip(NAMES, COUNTS, strict=True) for k in range(count)]


class Items:
    """A map-style data set that says what it is asked for."""

    classes = NAMES

    def __init__(self, rows: list[tuple[str, str]], root: Path) -> None:
        self.rows, self.root, self.asked = rows, root, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        self.asked += 1
        path, name = self.rows[row]
        return Image.open(self.root / path), NAMES.index(name)


def batches(index: Any, epochs: int = 1, **options: Any) -> list[np.ndarray]:
    loader = api.build_loader(index, api.EvalViews(16), batch_size=4, shuffle=False, workers=2, **STATISTICS, **options)
    try:
        return [batch.images.numpy() for epoch in range(epochs) for batch in loader.epoch(epoch)]
    finally:
        loader.close()


def by_label(found: DataSet) -> list[list[int]]:
    return [index.class_counts().tolist() for index in found.splits.values()]


def test_files_are_one_data_set_whatever_names_them(photos: Path, rows: list[tuple[str, str]]) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    from torchvision.datasets import ImageFolder

    frame = pandas.DataFrame(rows, columns=["path", "species"])
    numbered = pandas.DataFrame([(k, *row) for k, row in enumerate(rows)])
    names = polars.DataFrame({"species": [name for _, name in rows], "path": [path for path, _ in rows]})
    (photos / "photos.csv").write_text(frame.to_csv(index=False))
    expected = api.from_folder(photos)
    prints = [index.fingerprint for index in expected.splits.values()]
    absolute = frame.assign(path=[photos / path for path, _ in rows])  # of Path objects
    for found in (
        api.from_table(photos / "photos.csv"),
        api.from_dataframe(frame, root=photos),
        api.from_dataframe(absolute),
        api.from_dataframe(numbered, root=photos, image_column=1, label_column="2"),
        api.from_dataframe(names, root=photos),
        api.from_dataframe(names.with_columns(polars.col("species").cast(polars.Categorical)), root=photos),
        api.from_imagefolder(ImageFolder(photos)),
    ):
        assert [index.fingerprint for index in found.splits.values()] == prints
        assert found.class_names == NAMES
    assert expected.settings is not None
    assert (expected.settings["dataset"], expected.settings["data_root"]) == ("folder", str(photos))
    assert api.from_dataframe(frame, root=photos).settings is None


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_dataframe_by_the_rules_of_tables(
    library: str, photos: Path, rows: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = pytest.importorskip(library).DataFrame
    monkeypatch.setattr("fastlift.data.from_python._ROWS", 3)
    splits = ["train", "test", "val"]
    table: dict[str, Any] = {"file": [path for path, _ in rows], "y": [name for _, name in rows]}
    table["split"] = [splits[k % 3] for k in range(len(rows))]
    found = api.from_dataframe(make(table), root=photos, test_share=None)
    assert {split: len(index) for split, index in found.splits.items()} == {"train": 5, "val": 5, "test": 5}
    numbers = {**table, "y": [NAMES.index(name) for _, name in rows]}
    assert api.from_dataframe(make(numbers), root=photos).train.fingerprint == found.train.fingerprint
    table["y"][4] = numbers["y"][4] = None
    frames = [make(table), make(numbers)]  # of numbers it is NaN in pandas
    if library == "pandas":
        frames.append(make(table).astype("string"))  # whose missing values are pandas.NA
    for frame in frames:
        with pytest.raises(UserError, match=r"the DataFrame line 4: no label \(bee/2.png\)"):
            api.from_dataframe(frame, root=photos)
    with pytest.raises(UserError, match=r"which column holds the labels\? There are 'file', 'x'"):
        api.from_dataframe(make({"file": ["a"], "x": [1]}))
    with pytest.raises(UserError, match=r"no column '7' \(--image-column\); there are 'file', 'x'"):
        api.from_dataframe(make({"file": ["a"], "x": [1]}), image_column=7)
    with pytest.raises(UserError, match=r"several labels for an image, such as .*prior"):
        api.from_dataframe(make({"file": ["a"], "label": [["ant", "bee"]]}))


def test_what_is_no_dataframe() -> None:
    with pytest.raises(UserError, match=r"^expected a DataFrame of pandas or polars, not dict$"):
        api.from_dataframe({"path": [], "label": []})
    with pytest.raises(UserError, match=r"not LazyFrame: give frame.collect\(\)$"):
        api.from_dataframe(pytest.importorskip("polars").LazyFrame({"path": ["a"], "label": ["b"]}))
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UserError, match=r"several labels for an image, such as .*prior"):
        api.from_dataframe(pandas.DataFrame({"file": ["a"], "label": [{"ant", "bee"}]}))


def test_imagefolders_of_other_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    (tmp_path / "other" / "cat").mkdir(parents=True)
    (photos / "ant" / "0.png").rename(tmp_path / "other" / "cat" / "0.png")
    with pytest.raises(UserError, match="the ImageFolders have other classes"):
        api.from_imagefolder(ImageFolder(photos), test=ImageFolder(tmp_path / "other"))


def test_items_are_asked_for_when_they_are_needed(photos: Path, rows: list[tuple[str, str]]) -> None:
    items = Items(rows, photos)
    found = api.from_dataset(items)
    assert items.asked == 2 * len(rows)  # once each, for size and label; and again, as they are few, for their pixels
    assert by_label(found) == [[2, 4, 6], [0, 1, 2]]
    assert isinstance(found.train.arrays, ObjectImages)
    assert found.settings is None
    same_rows = api.from_dataset(Items(rows, photos))
    assert same_rows.train.fingerprint == found.train.fingerprint
    before = items.asked
    batches(found.test, epochs=2)  # kept after the first one
    assert items.asked == before + 3
    batches(found.test, epochs=2, cache_bytes=0)
    assert items.asked == before + 9


def test_other_images_of_the_same_sizes_and_labels_are_another_data_set() -> None:
    def fingerprint(pixels: np.ndarray, kind: Any) -> str:
        items = [(kind(image), k % 3) for k, image in enumerate(pixels)]
        return api.from_dataset(items, test=items, class_names=NAMES).train.fingerprint

    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    expected = fingerprint(pixels, Image.fromarray)
    assert fingerprint(pixels, np.asarray) == fingerprint(pixels, np.asfortranarray) == expected
    for changed in (0, 39):
        other = pixels.copy()
        other[changed, 0, 0, 0] ^= 1
        assert fingerprint(other, Image.fromarray) != expected
    assert fingerprint(pixels // 2, Image.fromarray) != expected


def test_random_transforms_of_a_data_set_do_not_make_it_another_one() -> None:
    class Moving(list[tuple[np.ndarray, int]]):
        def __getitem__(self, row: Any) -> Any:
            image, label = super().__getitem__(row)
            return np.roll(image, random.randrange(5), axis=1), label

    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    items = Moving((image, k % 3) for k, image in enumerate(pixels))
    prints = {api.from_dataset(items, test=items, class_names=NAMES).train.fingerprint for _ in range(3)}
    assert len(prints) == 1


def test_their_batches_are_those_of_the_files(photos: Path, rows: list[tuple[str, str]]) -> None:
    datasets = pytest.importorskip("datasets")
    files = api.from_folder(photos, test_share=0.5)
    train = Items(rows, photos)
    given = api.from_dataset(train, test=train)
    hub = datasets.Dataset.from_dict({"image": [str(photos / path) for path, _ in rows], "label": [n for _, n in rows]})
    hub = hub.cast_column("image", datasets.Image()).class_encode_column("label")
    whole = api.from_huggingface(datasets.DatasetDict({"train": hub, "validation": hub}))
    assert whole.notes == ("the split validation is the test split, as there is none called test",)
    from_files = {files.train.file_name(i): i for i in range(len(files.train))}
    expected = dict(zip(from_files, np.concatenate(batches(files.train)), strict=True))
    for found in (given, whole):
        images = dict(zip([path for path, _ in rows], np.concatenate(batches(found.test)), strict=True))
        for path in from_files:
            np.testing.assert_array_equal(images[path], expected[path])


def test_one_at_a_time(photos: Path, rows: list[tuple[str, str]]) -> None:
    class Alone(Items):
        inside = threading.Lock()

        def __getitem__(self, row: int) -> tuple[Any, Any]:
            assert self.inside.acquire(blocking=False), "two at once"
            try:
                image, label = super().__getitem__(row)
                image.load()
                return image, label
            finally:
                self.inside.release()

    found = api.from_dataset(Alone(rows, photos), one_at_a_time=True)
    assert sum(map(len, batches(found.train, cache_bytes=0))) == 12


class _Broken(Items):
    """One of whose items is something else."""

    def __init__(self, rows: list[tuple[str, str]], root: Path, item: Any) -> None:
        super().__init__(rows, root)
        self.item = item

    def __getitem__(self, row: int) -> Any:
        if row == 7:
            if isinstance(self.item, Exception):
                raise self.item
            return self.item
        return super().__getitem__(row)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (KeyError("gone"), r"item 7 of the data set raised KeyError: 'gone'"),
        (None, r"item 7 of the data set is no pair of \(image, label\), but NoneType"),
        (
            ("a.jpg", 1),
            r"item 7 of the data set has str as its image: give a data set of PIL images \(without transforms",
        ),
        ((np.zeros((3, 4, 4), np.float32), 1), r"item 7 of the data set has ndarray as its image"),
        ((Image.new("RGB", (4, 4)), 3), r"item 7 of the data set has the label 3: expected a number from 0 to 2"),
        ((Image.new("RGB", (4, 4)), "bee"), r"has the label 'bee': expected a number"),
        ((Image.new("RGB", (4, 4)), 0.5), r"has the label 0.5: expected a number"),
        ((Image.new("RGB", (4, 4)), float("inf")), r"has the label inf: expected a number"),
        ((Image.new("RGB", (4, 4)), [0, 1]), r"item 7: several labels for an image, .*its prior is the share"),
        ((Image.new("RGB", (4, 4)), np.array([0, 1, 1])), r"item 7: several labels for an image"),
        ((Image.new("RGB", (0, 4)), 1), r"item 7 of the data set is an image without pixels \(0 x 4\)"),
    ],
)
def test_an_item_that_is_none(item: Any, message: str, photos: Path, rows: list[tuple[str, str]]) -> None:
    with pytest.raises(UserError, match=message):
        api.from_dataset(_Broken(rows, photos, item))


def test_an_item_that_breaks_later(photos: Path, rows: list[tuple[str, str]]) -> None:
    items = _Broken(rows, photos, (Image.new("RGB", (45, 30)), 2))
    found = api.from_dataset(items, test=Items(rows, photos))
    items.item = OSError("the disk is gone")
    with pytest.raises(UserError, match=r"item 7 of the data set, which raised OSError: the disk is gone"):
        batches(found.train)
    items.item = (Image.new("RGB", (9, 9)), 2)
    with pytest.raises(UserError, match=r"item 7 of the data set, 9 x 9 now, and was 45 x 30: .* random transforms"):
        batches(found.train)
    assert sum(map(len, batches(found.train, bad_images="skip"))) == len(rows)  # the next of its class


def test_names_are_needed_and_the_set_is_not_empty(photos: Path, rows: list[tuple[str, str]]) -> None:
    with pytest.raises(UserError, match="no classes attribute: give class_names"):
        api.from_dataset([(Image.new("RGB", (4, 4)), 0)])
    with pytest.raises(UserError, match="the data set is empty"):
        api.from_dataset([], class_names=NAMES)
    for names in ("ant", (), 3):
        with pytest.raises(UserError, match="class_names: expected a list of the classes' names"):
            api.from_dataset(Items(rows, photos), class_names=names)  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"python/train: class 1 \(bee\) has no image\n.*class 2 \(red panda\) has no image"
    ):
        api.from_dataset(Items([row for row in rows if row[1] == "ant"], photos))


def test_objects_of_other_kinds(photos: Path, rows: list[tuple[str, str]]) -> None:
    from torchvision.datasets import ImageFolder

    for given, kind in ((iter(rows), "list_iterator"), (None, "NoneType")):
        with pytest.raises(UserError, match=rf"expected a map-style data set, with len\(...\) and \[i\], not {kind}"):
            api.from_dataset(given, class_names=NAMES)
    for given in (None, Items(rows, photos), str(photos)):
        with pytest.raises(
            UserError, match=r"expected an ImageFolder, not .*: other data sets are read by from_dataset"
        ):
            api.from_imagefolder(given)
    folder = ImageFolder(photos)
    folder.samples[3] = (folder.samples[3][0], 3)
    with pytest.raises(UserError, match=r"bee/1.png: label 3 is out of range"):
        api.from_imagefolder(folder)
    folder.samples = []
    with pytest.raises(UserError, match="the ImageFolder for training has no images"):
        api.from_imagefolder(folder)
    for ask in (recipes.lift, lambda given: Config().of_data(given)):
        with pytest.raises(UserError, match=r"one of fastlift.data \(from_folder, .*\), not Items"):
            ask(Items(rows, photos))  # type: ignore[arg-type]


@pytest.fixture
def hub(photos: Path, rows: list[tuple[str, str]]) -> Any:
    datasets = pytest.importorskip("datasets")
    table = {
        "image": [str(photos / path) for path, _ in rows],
        "label": [NAMES.index(name) for _, name in rows],
        "text": [name for _, name in rows],
        "tags": [[NAMES.index(name)] for _, name in rows],
    }
    labels = datasets.ClassLabel(names=list(NAMES))
    features = {"image": datasets.Image(), "label": labels, "text": datasets.Value("string")}
    kind = getattr(datasets, "List", datasets.Sequence)
    return datasets.Dataset.from_dict(table, features=datasets.Features({**features, "tags": kind(labels)}))


def test_a_saved_data_set_and_its_columns(hub: Any, tmp_path: Path) -> None:
    found = api.from_huggingface(hub.with_transform(lambda rows: {"image": rows["text"]}))  # which is not asked
    assert by_label(found) == [[2, 4, 6], [0, 1, 2]]
    hub.save_to_disk(str(tmp_path / "saved"))
    saved = api.from_huggingface(tmp_path / "saved", image_column="image", label_column="label")
    assert [index.fingerprint for index in saved.splits.values()] == [
        index.fingerprint for index in found.splits.values()
    ]
    with pytest.raises(UserError, match="several labels for an image"):
        api.from_huggingface(hub, label_column="tags")
    with pytest.raises(UserError, match="several labels for an image"):
        api.from_huggingface(hub.remove_columns(["label"]))
    with pytest.raises(UserError, match=r"one column of ClassLabel .* found label .*class_encode_column"):
        api.from_huggingface(hub, label_column="text")
    with pytest.raises(UserError, match="has no column 'photo'; there are image, label"):
        api.from_huggingface(hub, image_column="photo")
    with pytest.raises(UserError, match=r"expected a datasets.Dataset, .* not IterableDataset .* without streaming"):
        api.from_huggingface(hub.to_iterable_dataset())
    with pytest.raises(UserError, match="has no split train; there are test"):
        api.from_huggingface({"test": hub})
    with pytest.raises(UserError, match="the splits have other classes in 'label'"):
        api.from_huggingface({"train": hub, "test": hub.remove_columns(["label"]).rename_column("text", "label")})


def test_a_data_set_that_breaks_later(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = api.from_huggingface(hub)

    def gone(rows: Any, key: Any) -> Any:
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(hub), "__getitem__", gone)
    with pytest.raises(UserError, match=r"is row \d+ of the data set, which raised OSError: the disk is gone"):
        batches(found.train)
    with pytest.raises(
        UserError, match=r"python/train: the rows from 0 on cannot be read \(OSError: the disk is gone\)"
    ):
        api.from_huggingface(hub)


def test_bad_rows_of_a_data_set_are_told_together(hub: Any, photos: Path) -> None:
    (photos / "bee" / "1.png").write_bytes(b"<html>")
    rows = hub.to_dict()
    rows["label"][5] = None
    rows["image"][9] = None
    bad = hub.from_dict(rows, features=hub.features)
    with pytest.raises(
        UserError, match=r"3 problems:\n.*train: row 5 has no label\n.*train: row 3 .*\n.*train: row 9 is empty"
    ):
        api.from_huggingface(bad)


def test_a_name_on_the_hub_and_a_folder_are_settings(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(path: str, name: str | None = None, *, revision: str | None = None) -> Any:
        asked.append((path, name, revision))
        return datasets.DatasetDict({"train": hub})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it is asked whether it answers
    found = api.from_huggingface("user/some.set", "small", revision="v1", label_column="label", val_share=0.2)
    assert asked == [("user/some.set", "small", "v1")]
    assert found.settings is not None
    assert found.settings["dataset"] == "hf://user/some.set:small@v1"
    again = api.load_data_set(found.settings["dataset"], label_column="label", val_share=0.2)
    assert asked[0] == asked[1]
    assert [index.fingerprint for index in again.splits.values()] == [i.fingerprint for i in found.splits.values()]
    api.load_data_set("hf://cifar10")
    assert asked[2] == ("cifar10", None, None)
    with pytest.raises(UserError, match="comes from the hub: leave it out"):
        api.load_data_set("hf://user/some.set", data_root=tmp_path)
    assert api.from_huggingface("hf://user/some.set", "small").settings["dataset"] == "hf://user/some.set:small"
    hub.save_to_disk(str(tmp_path / "saved"))
    for place in (tmp_path / "svaed", str(tmp_path / "svaed"), "./svaed", Path("user/some.set")):
        with pytest.raises(UserError, match=rf"^there is no folder {place}: .* save_to_disk .* \(user/name\)$"):
            api.from_huggingface(place)
    for given, what in ((tmp_path / "saved", "is a folder"), (hub, "a Dataset is given")):
        for unused in ("config", "revision"):
            with pytest.raises(UserError, match=rf"^{unused}: only a name on the hub has one, and .*{what}: leave"):
                api.from_huggingface(given, **{unused: "main"})
    saved = api.from_huggingface(tmp_path / "saved").settings
    assert saved is not None
    assert (saved["dataset"], saved["data_root"]) == ("huggingface", str(tmp_path / "saved"))
    assert data_set_meant(None, tmp_path / "saved", None) == "huggingface"
