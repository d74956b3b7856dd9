"""``model.predict``: whatever holds an image, the model says the same of it; one gives one, several give a list."""

from __future__ import annotations

import inspect
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from fixtures import CLASS_NAMES, Files
from PIL import Image

import fastlift
from fastlift.errors import OutOfMemory, UserError
from fastlift.evaluation.evaluate import mean_logits
from fastlift.models.lift import LiftModel
from fastlift.models.prediction import predicting
from fastlift.models.prediction.predicting import PredictOptions, Predicts
from fastlift.models.prediction.result import Prediction
from fastlift.models.preprocessing import EnsemblingSettings


@pytest.fixture(scope="module")
def model(tiny_clip: Files) -> LiftModel:
    return fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=3)


@pytest.fixture(scope="module")
def file(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG, whose pixels are the same in every container."""
    path = tmp_path_factory.mktemp("one") / "one.png"
    Image.open(tiny_data / "test" / "class2" / "1.jpg").save(path)
    return path


def pixels(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def channels_first(file: Path) -> torch.Tensor:
    return torch.from_numpy(pixels(file)).permute(2, 0, 1)


HOLDERS: dict[str, Callable[[Path], Any]] = {
    "path": lambda file: file,
    "text": str,
    "bytes": Path.read_bytes,
    "PIL": Image.open,
    "PIL in memory": lambda file: Image.fromarray(pixels(file)),
    "array": pixels,
    "array of floats": lambda file: pixels(file) / 255,
    "array that nobody may write to": lambda file: np.asarray(Image.open(file)),
    "array with alpha": lambda file: np.array(Image.open(file).convert("RGBA")),
    "tensor": channels_first,
    "tensor of floats": lambda file: channels_first(file) / 255,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_one_image_gives_one(model: LiftModel, file: Path, holder: str) -> None:
    wanted, found = model.predict(file), model.predict(HOLDERS[holder](file))
    assert isinstance(found, Prediction)
    assert (found.names, found.classes) == (wanted.names, wanted.classes)
    assert found.probabilities == pytest.approx(wanted.probabilities, rel=1e-6)
    assert found.image == (str(file) if holder in ("path", "text", "PIL") else "image 0")


def test_it_is_what_the_model_computes_of_the_crop(model: LiftModel, file: Path) -> None:
    """By hand: resize, crop, normalise, softmax, in the order of the probabilities."""
    preparation = model.preparation(EnsemblingSettings())
    images = preparation.batch([preparation.crops_of(pixels(file), 0)])
    assert images.shape == (1, 3, 32, 32)
    with torch.inference_mode():
        wanted = mean_logits(model, images).softmax(dim=1)[0].sort(descending=True)
        features = model.features(images)[0]
    found = model.predict(file, top=6, features=True)
    assert found.classes == tuple(wanted.indices.tolist())
    assert found.probabilities == pytest.approx(wanted.values.tolist(), rel=1e-6)
    assert found.names == tuple(CLASS_NAMES[number] for number in found.classes)
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, features.numpy(), rtol=1e-6)
    assert model.predict(file).features is None


def shard(folder: Path, files: list[Path]) -> Path:
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for file in files:
            tar.add(file, f"{file.parent.name}-{file.name}")
    return folder / "shard.tar"


def test_several_give_a_list_in_their_order(model: LiftModel, tiny_data: Path, tmp_path: Path) -> None:
    files = sorted((tiny_data / "test").rglob("*.jpg"))
    each = [model.predict(file) for file in files]
    assert len({one.probabilities for one in each}) > 5, "images that differ"
    images = [Image.open(file) for file in files]
    samples = [(image, 3) for image in images]
    for several in (
        files,
        tuple(map(str, files)),
        images,
        iter(images),
        samples,
        tiny_data / "test",
        str(tiny_data / "test" / "class*" / "*.jpg"),
        [tiny_data / "test" / f"class{number}" for number in range(6)],
        shard(tmp_path, files),
    ):
        found = model.predict(several, batch_size=5)
        assert isinstance(found, list)
        assert [one.names for one in found] == [one.names for one in each]
        np.testing.assert_allclose([one.probabilities for one in found], [one.probabilities for one in each], rtol=1e-4)
    assert [one.image for one in model.predict(tiny_data / "test")] == list(map(str, files))


def test_arrays_and_tensors_of_several(model: LiftModel, file: Path) -> None:
    one = pixels(file)
    arrays = np.stack([one, one[::-1]])
    wanted = [model.predict(array).probabilities for array in arrays]
    assert wanted[0] != wanted[1]
    for several in (arrays, torch.from_numpy(arrays).permute(0, 3, 1, 2), list(arrays)):
        found = model.predict(several)
        assert [one.image for one in found] == ["image 0", "image 1"]
        np.testing.assert_allclose([one.probabilities for one in found], wanted, rtol=1e-5)
    assert model.predict([]) == []


class Named(dict[str, torch.Tensor]):
    """A batch that is a mapping, as transformers has it."""


def test_batches_of_loaders_are_taken_as_they_are(model: LiftModel, tiny_data: Path) -> None:
    files = sorted((tiny_data / "test").rglob("*.jpg"))
    wanted = np.array([one.probabilities for one in model.predict(files)])
    preparation = model.preparation(EnsemblingSettings())
    ready = torch.cat([preparation.batch([preparation.crops_of(pixels(file), 0)]) for file in files])
    labels = torch.zeros(len(files), dtype=torch.int64)
    torchs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ready, labels), batch_size=7)
    data = fastlift.data.load_data_set(
        "list",
        data_root=tiny_data,
        train_list=tiny_data / "train.txt",
        test_list=tiny_data / "test.txt",
        class_names=tiny_data / "class_names.txt",
    )
    mean, std = model.preprocessing.mean, model.preprocessing.std
    ours = fastlift.data.build_loader(
        data.test, fastlift.data.EvalViews(32), batch_size=7, mean=mean, std=std, shuffle=False
    )
    for loader in (torchs, ours, [ready], [{"images": ready}], [Named(pixel_values=ready)], iter([(ready, labels)])):
        found = model.predict(loader, batch_size=10)
        assert [one.image for one in found] == [f"image {number}" for number in range(len(files))]
        np.testing.assert_allclose([one.probabilities for one in found], wanted, rtol=1e-4)
    ours.close()
    # Bytes are pixels, which are cropped first.
    whole = torch.from_numpy(np.stack([pixels(files[0])] * 2)).permute(0, 3, 1, 2)
    found = model.predict([(whole, labels[:2])])
    np.testing.assert_allclose([one.probabilities for one in found], wanted[[0, 0]], rtol=1e-4)
    with pytest.raises(UserError, match=r"expected \[B, 3, 32, 32\], got \[2, 3, 31, 32\]"):
        model.predict([(torch.zeros(2, 3, 31, 32), labels)])


@pytest.mark.parametrize("tte", ["fivecrop", "tencrop", "random"])
def test_several_crops(model: LiftModel, tiny_data: Path, tte: str) -> None:
    """Each image's logits are the mean over its crops; random ones are drawn by its number."""
    files = sorted((tiny_data / "test").rglob("*.jpg"))[:5]
    preparation = model.preparation(EnsemblingSettings(tte=tte, tte_crops=3))
    crops = preparation.batch([preparation.crops_of(pixels(file), number) for number, file in enumerate(files)])
    with torch.inference_mode():
        wanted = mean_logits(model, crops).softmax(dim=1).max(dim=1)
    found = model.predict(files, tte=tte, tte_crops=3, batch_size=8, top=1, features=True)
    assert [one.classes[0] for one in found] == wanted.indices.tolist()
    np.testing.assert_allclose([one.probabilities[0] for one in found], wanted.values, rtol=1e-5)
    with torch.inference_mode():
        features = model.features(crops.flatten(0, 1)).unflatten(0, crops.shape[:2]).mean(dim=1)
    np.testing.assert_allclose([one.features for one in found], features, rtol=1e-4, atol=1e-6)


def test_the_threshold_is_what_the_first_probability_reaches(model: LiftModel, file: Path) -> None:
    best = model.predict(file).probabilities[0]
    assert model.predict(file, threshold=best).answer == model.predict(file).names[0]
    unsure = model.predict(file, threshold=best + 1e-6, top=2)
    assert unsure.answer is None
    assert len(unsure.names) == 2
    assert "none of these (" in str(unsure)
    assert unsure.to_dict()["answer"] is None


def test_results_tell_themselves(model: LiftModel, file: Path) -> None:
    found = model.predict(file, top=2, features=True)
    assert repr(found) == (
        f"<Prediction {file}: {found.names[0]} {100 * found.probabilities[0]:.1f} %, "
        f"{found.names[1]} {100 * found.probabilities[1]:.1f} %, features [48]>"
    )
    assert found.to_dict()["top"][1] == {"class": found.names[1], "probability": round(found.probabilities[1], 6)}
    assert found == model.predict(file, top=2)


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_images_stop_or_are_told(model: LiftModel, file: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff" + b"0" * 90)
    images = [file, tmp_path / "cut.jpg", b"text", Image.new("F", (9, 9)), file]
    found = model.predict(images, bad_images="skip", workers=workers)
    assert [one.problem != "" for one in found] == [False, True, True, True, False]
    assert found[0].names == found[4].names
    assert (found[1].answer, found[1].names) == (None, ())
    assert "no prediction: " in str(found[1])
    assert found[1].to_dict() == {"path": str(tmp_path / "cut.jpg"), "problem": found[1].problem}
    with pytest.raises(UserError, match=r"cut\.jpg: .*bad_images='skip' goes on"):
        model.predict(images, workers=workers)


class _Breaks:
    """A map-style data set, whose third item raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row == 2:
            raise self.error
        return Image.new("RGB", (40, 30)), 0


@pytest.mark.parametrize("error", [ValueError("the disk is gone"), IndexError("the disk is gone")])
def test_what_gives_the_images_and_raises_is_named(model: LiftModel, error: Exception) -> None:
    broken = _Breaks(error)
    for given in (broken, (broken[row] for row in range(4))):
        told = rf"images: \w+ raised, after 2 items, {type(error).__name__}: the disk is gone"
        with pytest.raises(UserError, match=told) as caught:
            model.predict(given)
        assert caught.value.__cause__ is error


def test_numbers_that_are_not_finite_are_no_prediction(tiny_clip: Files, file: Path) -> None:
    model = fastlift.create_model(tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, rank=3)
    with torch.no_grad():
        model.classifier.weight[1] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        model.predict(file)
    assert model.predict(file, bad_images="skip").problem


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere/one.jpg", "no such file or folder: nowhere/one.jpg"),
        ("nowhere/*.jpg", "nothing matches nowhere/\\*.jpg"),
        (7, "images: expected a PIL image, a path"),
        ([7], "image 0: expected a PIL image, a path"),
        (np.zeros((3, 9, 9)), r"image 0: expected an array \[H, W, 3\].*got 3x9x9"),
        (torch.zeros(9, 9, 3), r"image 0: expected a tensor \[3, H, W\].*got 9x9x3"),
        (np.full((9, 9, 3), 200.0), "floats are from 0 to 1, got 200 to 200"),
        (np.full((9, 9, 3), np.nan), "floats are from 0 to 1, got nan to nan"),
        (np.zeros((9, 9, 3), dtype=np.int64), "expected uint8 from 0 to 255 or floats from 0 to 1, got int64"),
        (np.zeros((0, 9, 3), dtype=np.uint8), "got 0x9x3"),
        ({"image": 1}, "got dict"),
    ],
)
def test_what_is_no_image(model: LiftModel, images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top: expected"),
        ({"threshold": 1.5}, "threshold: expected"),
        ({"batch_size": 0}, "batch_size and workers: expected 1 or more"),
        ({"workers": 0}, "batch_size and workers: expected 1 or more"),
        ({"tte": "sixcrop"}, "unknown value of tte"),
        ({"bad_images": "ignore"}, "bad_images: expected stop or skip"),
    ],
)
def test_options_out_of_range(model: LiftModel, file: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict_each([file], **options)  # before the first result is asked for


def test_a_stream_is_read_as_it_is_used(model: LiftModel, file: Path) -> None:
    """No more than a few batches are taken from an endless source, and its threads end with it."""
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(file)
            yield file

    stream = model.predict_each(endless(), batch_size=4, workers=2)
    assert [next(stream).names for _ in range(9)]
    assert 9 <= len(taken) <= 9 + 4 * (predicting._AHEAD + 2)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastlift-predict")]


def test_memory_that_runs_out_names_the_batch(model: LiftModel, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LiftModel, images: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(LiftModel, "features", full)
    with pytest.raises(OutOfMemory, match="out of memory in prediction with 1 images at a time: try batch_size=4"):
        model.predict(file, batch_size=8)


def test_completion_knows_all_options() -> None:
    """The keywords of ``predict`` are those of ``predict_each``, with their types."""
    parameters = list(inspect.signature(Predicts.predict_each).parameters)[2:]
    hints = get_type_hints(Predicts.predict_each, localns={"Image": Image.Image})
    assert {name: hints[name] for name in parameters} == get_type_hints(PredictOptions)
