"""Small copies of an index's images: whole, bounded, from files and arrays, and a sentence where one is gone."""

import io
from pathlib import Path

import numpy as np
import pytest
from fixtures import Told
from PIL import Image

from fastlift.data.image_sources import FoundImage
from fastlift.data.index.index import ImageIndex, array_index
from fastlift.errors import UserError
from fastlift.evaluation import thumbnails
from fastlift.evaluation.per_image import PerImage
from fastlift.evaluation.predict import index_images
from fastlift.evaluation.thumbnails import MOST_BYTES, ThumbnailSettings, make_thumbnails


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


def halves(width: int, height: int) -> np.ndarray:
    """Red at the left, blue at the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    return pixels


def index_of(folder: Path, sizes: list[tuple[int, int]], ending: str = "png") -> ImageIndex:
    paths = [folder / f"{number}.{ending}" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.fromarray(halves(*size)).save(path)
    return index_images([FoundImage(path.name, str(path)) for path in paths])[0]


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_whole_image_at_a_bounded_size(tmp_path: Path, ending: str) -> None:
    sizes = [(1000, 500), (90, 30), (128, 128), (40, 2000), (700, 600)]
    made = make_thumbnails(index_of(tmp_path, sizes, ending), range(5), pytest.fail)
    assert [opened(made[row]).size for row in range(5)] == [(128, 64), (90, 30), (128, 128), (3, 128), (128, 110)]
    left, right = (opened(made[0]).convert("RGB").getpixel((x, 30)) for x in (10, 118))
    assert np.allclose(left, (200, 0, 0), atol=12)
    assert np.allclose(right, (0, 0, 200), atol=12)


def test_arrays_have_them_too_and_noise_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3)).astype(np.uint8)
    made = make_thumbnails(array_index("cifar10/test", noise, np.zeros(2), ("a",)), [1], pytest.fail)
    assert list(made) == [1]
    assert len(made[1]) <= MOST_BYTES


def test_what_cannot_be_read_is_told_once_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, told = index_of(tmp_path, [(60, 60)] * 4), Told()
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").write_bytes(b"no image any more")
    assert sorted(make_thumbnails(index, range(4), told.say)) == [0, 2]
    (line,) = told.lines
    assert "2 of 4 chosen images" in line
    assert "1.png is missing" in line

    def fails(*_: object) -> bytes:
        nonlocal asked
        asked += 1
        raise thumbnails.StoreError("the server does not answer")

    asked, told = 0, Told()
    monkeypatch.setattr(thumbnails, "read_encoded", fails)
    assert make_thumbnails(index, range(4), told.say) == {}
    assert asked == 1  # each would wait as long again
    assert "4 of 4 chosen images" in told.text


def test_half_of_the_worst_and_half_of_the_rarest() -> None:
    labels = np.repeat(np.arange(40), 10).astype(np.int32)
    predicted = np.where(labels < 20, (labels + 1 + np.arange(400) % 10) % 40, labels).astype(np.int32)
    shares = np.full(400, 0.5, np.float32)
    found = PerImage(np.arange(400), labels, predicted, shares, shares * 0)
    chosen = ThumbnailSettings(thumbnails=40).choose(found, list(range(40, 0, -1)))
    assert (labels[chosen] < 20).sum() == 20
    assert set(labels[chosen][labels[chosen] >= 20].tolist()) == set(range(35, 40))  # 5 classes of 4 images
    assert ThumbnailSettings(thumbnails=0).choose(found, [1] * 40).tolist() == []
    with pytest.raises(UserError, match="thumbnails"):
        ThumbnailSettings(thumbnails=501)
