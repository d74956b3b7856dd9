"""Batches of re-sampled epochs, by both backends: a sample that comes several times is another crop each time."""

from typing import Any

import numpy as np
import pytest
import torch
from loaders import BACKENDS, NEEDS_DALI, all_same, levels, levels_apart, make_loader, pillow_crop
from PIL import Image

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.loading.dali.graph import DaliDecoding
from fastlift.data.sampling.crops import TrainCrops

CROPS = TrainCrops(32)


@pytest.fixture
def index(image_files: Any) -> ImageIndex:
    """Twelve images of the first class and two of the second: balanced, each of these comes three or four times."""
    image_files.fill(classes=1, each=12)
    for k in range(2):
        image_files.add(f"c1/{k}.jpg", 1, (image_files.root / f"c0/{3 * k}.jpg").read_bytes())
    found: ImageIndex = image_files.load(classes=2).train
    return found


def loader(index: ImageIndex, backend: str, **stream: Any) -> Any:
    return make_loader(index, CROPS, backend, cache_bytes=0, sampling="balanced", **stream)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_time_another_crop_of_the_same_image(index: ImageIndex, backend: str) -> None:
    """In the order of the occurrences these are the crops that Pillow cuts at their boxes."""
    batches = list(loader(index, backend).epoch(1))
    rows, images = torch.cat([batch.indices for batch in batches]), torch.cat([batch.images for batch in batches])
    assert torch.bincount(index_labels(index)[rows]).tolist() == [7, 7]
    for row in (12, 13):
        mine = images[rows == row]
        times = np.arange(len(mine))
        assert len(mine) in (3, 4)
        same, width, height = np.full(len(mine), row), index.widths[[row] * len(mine)], index.heights[[row] * len(mine)]
        plan = CROPS.boxes(1, 1, same, width, height, times)
        expected = [pillow_crop(Image.open(index.file(row)), plan, k, 0, 32) for k in times]
        apart = [
            [float((levels(one).permute(1, 2, 0) - torch.from_numpy(other.copy())).abs().mean()) for other in expected]
            for one in mine
        ]
        assert sorted(np.argmin(apart, axis=1).tolist()) == times.tolist()
        assert max(min(one) for one in apart) < 1.5


def index_labels(index: ImageIndex) -> torch.Tensor:
    return torch.from_numpy(index.labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_resumed_and_shared_batches_are_the_same(index: ImageIndex, backend: str) -> None:
    full = list(loader(index, backend).epoch(2))
    for start in (1, 3):
        assert all_same(iter(full[start:]), loader(index, backend).epoch(2, start))
    ranks = [loader(index, backend, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(full, *(one.epoch(2) for one in ranks), strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.indices, torch.cat([part.indices for part in parts]))
        assert all(torch.equal(part.whole, whole.labels) for part in parts)


@NEEDS_DALI
def test_the_backends_agree(index: ImageIndex) -> None:
    """Also where threads make some of DALI's images, and where broken ones are replaced: each time with its own crop."""
    data = index.file(13).read_bytes()
    index.file(13).write_bytes(data[:-40] + b"\xff\x02" + data[-40:])
    bad: list[BadImage] = []
    options: dict[str, Any] = {"bad_images": "skip", "on_bad": bad.append}
    found = loader(index, "dali", decoding=DaliDecoding(0.5), **options)
    for a, b in zip(found.epoch(1), loader(index, "torchvision", **options).epoch(1), strict=True):
        assert torch.equal(a.indices, b.indices)
        assert levels_apart(a.images, b.images).max() < 1.0
    assert {one.index for one in bad} == {13}
    shown = [batch.images[batch.indices == 13] for batch in found.epoch(1)]
    assert len({one.numpy().tobytes() for images in shown for one in images}) == sum(map(len, shown)) >= 3
