"""Predictions of a run: written, read back the same, refused where they were changed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastlift.data.index.index import ImageIndex, PathTable, array_index
from fastlift.errors import UserError
from fastlift.evaluation.per_image import PerImage
from fastlift.runs.predictions import predictions_of, predictions_path, read_predictions, write_predictions
from fastlift.system import sealed

IMAGES = PerImage(
    np.array([0, 2, 3]),
    np.array([1, 0, 1], np.int32),
    np.array([1, -1, 0], np.int32),
    np.array([0.9, 0.0, 0.7], np.float32),
    np.array([0.9, 0.0, 0.2], np.float32),
    every=2,
)
THUMBNAILS = {3: b"three", 0: b"", 2: b"a longer one"}


def index_of(paths: list[str], spans: np.ndarray | None = None) -> ImageIndex:
    zeros = np.zeros(len(paths), dtype=np.int64)
    table = PathTable.from_strings(paths)
    return ImageIndex("list/test", Path("/data"), table, zeros, zeros, zeros, ("a", "b"), "print", spans=spans)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "center@some/where.safetensors (train)")
    assert path.parent == tmp_path / "predictions"
    index = index_of(["a/ä.jpg", "no.jpg", "b/two.jpg", "c.jpg"])
    write_predictions(path, predictions_of(IMAGES, index, THUMBNAILS, 4))
    found = read_predictions(path)
    for name in ("rows", "labels", "predicted", "confidence", "label_probability"):
        one, other = getattr(found.images, name), getattr(IMAGES, name)
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
    assert (found.images.every, found.of, found.wanted, found.fingerprint) == (2, 4, 4, "print")
    assert [found.file(place) for place in range(3)] == ["a/ä.jpg", "b/two.jpg", "c.jpg"]
    assert found.thumbnails == THUMBNAILS


def test_images_of_shards_and_of_arrays_have_names_too(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "center")
    spans = np.array([[0, 5], [5, 5], [512, 5], [900, 5]])
    write_predictions(path, predictions_of(IMAGES, index_of(["s.tar"] * 4, spans), {}, 0))
    assert read_predictions(path).file(1) == "s.tar at byte 512"
    arrays = array_index("cifar10/test", np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4), ("a", "b"))
    write_predictions(path, predictions_of(IMAGES, arrays, {}, 0))
    assert read_predictions(path).file(2) == "row 3"


def test_damage_is_told(tmp_path: Path) -> None:
    path = predictions_path(tmp_path, "center")
    with pytest.raises(UserError, match="does not exist"):
        read_predictions(path)
    write_predictions(path, predictions_of(IMAGES, index_of(["a", "b", "c", "d"]), THUMBNAILS, 4))
    whole = path.read_bytes()
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(sealed.Damaged):
            read_predictions(path)
    path.write_bytes(whole)
    tensors, told = sealed.read(path)
    told.pop(sealed.DIGEST)
    changes = [
        {"labels": torch.zeros(2, dtype=torch.int32)},
        {"labels": torch.zeros(3)},
        {"thumbnail_rows": torch.zeros(9, dtype=torch.int64)},
        {"file_offsets": torch.tensor([0, 1])},
    ]
    for change in changes:
        sealed.write(path, tensors | change, told)
        with pytest.raises(sealed.Damaged, match="holds no predictions"):
            read_predictions(path)
    sealed.write(path, {name: one for name, one in tensors.items() if name != "rows"}, told)
    with pytest.raises(sealed.Damaged, match="rows"):
        read_predictions(path)
