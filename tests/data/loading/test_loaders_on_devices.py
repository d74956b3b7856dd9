"""Batches for a GPU: the same samples and crops as on the CPU, made without the host waiting, and left alone while they are used."""

from collections.abc import Callable, Iterator
from typing import Any

import loaders
import pytest
import torch
from devices import CUDA, EVERY_DEVICE
from loaders import BACKENDS, MEAN, STD, by_crops, make_loader

from fastlift.data.index.index import BadImage, ImageIndex
from fastlift.data.loading import collate
from fastlift.data.loading.batch import Batch, Loader
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_device = pytest.mark.parametrize("name", EVERY_DEVICE)
on_cuda = pytest.mark.parametrize("name", [CUDA])
# Grey levels on average over an image. The GPU's normalisation differs from the CPU's by rounding alone, but its JPEG decoder by
# a level or so: libjpeg's own two inverse transforms are 1.0 apart on these images, and chroma may be upsampled otherwise. Crops
# that lie a pixel to the side are 13 to 20 levels apart.
LEVELS = {"torchvision": 1e-3, "dali": 2.0}


def make(index: ImageIndex, device: str, backend: str, crops: Any = None, **options: Any) -> Loader:
    return make_loader(index, crops or TrainCrops(32), backend, device=device, cache_bytes=0, **options)


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Grey levels between two batches, on average over the image where they differ most."""
    return float(loaders.levels_apart(a, b).max())


@pytest.fixture
def index(image_files: Any, make_bad_file: Callable) -> ImageIndex:
    """JPEGs, and one image a class that DALI does not get."""
    image_files.fill(each=5, width=200, height=150)
    for label in range(3):
        image_files.add(f"c{label}/x.png", label, make_bad_file("alpha"))
    return image_files.load().train


@by_device
@by_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_batches_are_where_and_what_they_should_be(
    name: str, backend: str, dtype: torch.dtype, index: ImageIndex
) -> None:
    device = torch.device(name)
    for images, labels, indices in make(index, name, backend, dtype=dtype).epoch(0):
        assert (images.dtype, images.device.type) == (dtype, device.type)
        assert device.index is None or images.device.index == device.index
        assert images.is_contiguous()
        assert images.shape[1:] == (3, 32, 32)
        assert (labels.device, labels.dtype) == (images.device, torch.int64)
        assert (indices.device.type, indices.dtype) == ("cpu", torch.int64)
        assert torch.equal(labels.cpu(), torch.from_numpy(index.labels)[indices])


@by_device
@by_backend
@by_crops
def test_crops_are_those_of_the_cpu(name: str, backend: str, crops: Any, index: ImageIndex) -> None:
    expected = make(index, "cpu", "torchvision", crops)
    found = make(index, name, backend, crops)
    for epoch in range(2):
        for a, b in zip(found.epoch(epoch), expected.epoch(epoch), strict=True):
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.labels.cpu(), b.labels)
            assert levels_apart(a.images, b.images) < LEVELS[backend]


@by_device
@by_backend
def test_any_step_can_be_resumed(name: str, backend: str, index: ImageIndex) -> None:
    """Which part of a batch a GPU's JPEG engine decodes, and which its cores, is up to nvJPEG: a level or so."""
    full = list(make(index, name, backend).epoch(1))
    assert [len(batch.labels) for batch in full] == [4, 4, 4, 4, 2]
    for start in (0, 1, 4):
        for a, b in zip(make(index, name, backend).epoch(1, start), full[start:], strict=True):
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.labels, b.labels)
            if backend == "torchvision" or name == "cpu":
                assert torch.equal(a.images, b.images)
            assert levels_apart(a.images, b.images) < LEVELS[backend]


@by_device
@by_backend
@pytest.mark.parametrize("bad_images", ["stop", "skip"])
def test_broken_images(name: str, backend: str, bad_images: str, index: ImageIndex) -> None:
    """In a JPEG's middle, where a decoder of crop boxes may not come, and one that is gone."""
    file = index.file(7)
    whole = file.read_bytes()
    place = len(whole) * 9 // 10
    file.write_bytes(whole[:place] + b"\xff\x02" + whole[place:])
    index.file(11).unlink()
    bad: list[BadImage] = []
    found = make(index, name, backend, bad_images=bad_images, on_bad=bad.append)
    if bad_images == "stop":
        with pytest.raises(UserError, match=r"c1/2\.jpg cannot be decoded|c2/1\.jpg is missing"):
            list(found.epoch(0))
        return
    expected = make(index, "cpu", "torchvision", bad_images="skip")
    for epoch in range(2):
        for a, b in zip(found.epoch(epoch), expected.epoch(epoch), strict=True):
            assert torch.equal(a.indices, b.indices)
            assert a.images.device.type == torch.device(name).type
            assert levels_apart(a.images, b.images) < LEVELS[backend]
    assert sorted(b.index for b in bad) == [7, 11]


@by_device
@by_backend
def test_an_abandoned_epoch_leaves_no_trace(name: str, backend: str, index: ImageIndex) -> None:
    loader = make(index, name, backend)
    expected = [batch.images.cpu() for batch in loader.epoch(3)]
    for taken in (0, 1, 3):
        begun = loader.epoch(0)
        for _ in range(taken):
            next(begun)
        begun.close()  # type: ignore[attr-defined]
        for batch, images in zip(loader.epoch(3), expected, strict=True):
            assert levels_apart(batch.images, images) < LEVELS[backend]
    loader.close()


@by_device
@by_backend
def test_ranks_share_each_training_batch(name: str, backend: str, index: ImageIndex) -> None:
    """18 images in batches of 8, 8 and 2: the last one leaves a rank without, which gets an empty batch on the device."""
    each = [make(index, name, backend, batch_size=8, rank=rank, world_size=3) for rank in range(3)]
    alone = make(index, name, backend, batch_size=8)
    for together, *parts in zip(alone.epoch(1), *(loader.epoch(1) for loader in each), strict=True):
        assert torch.equal(together.indices, torch.cat([part.indices for part in parts]))
        assert levels_apart(together.images, torch.cat([part.images for part in parts])) < LEVELS[backend]
        assert all(torch.equal(part.whole, together.labels) for part in parts)
    assert min(len(part.labels) for part in parts) == 0


def slow(batches: Iterator[Batch], cycles: int = 50_000_000) -> Iterator[torch.Tensor]:
    """What is read of each batch long after the host has let it go, while the next ones are made."""
    for batch in batches:
        torch.cuda._sleep(cycles)
        read = batch.images.clone()
        del batch
        yield read


@on_cuda
@by_backend
def test_a_batch_stays_as_it_is_while_others_are_made(name: str, backend: str, index: ImageIndex) -> None:
    """The host runs ahead of the GPU: what it lets go is still read, and must not be written over."""
    loader = make(index, name, backend, dtype=torch.float32)
    expected = [[batch.images.cpu() for batch in loader.epoch(epoch)] for epoch in range(3)]
    for epoch in range(3):
        read = list(slow(loader.epoch(epoch)))
        for a, b in zip(read, expected[epoch], strict=True):
            assert levels_apart(a, b) < LEVELS[backend]


@on_cuda
@by_backend
def test_another_stream(name: str, backend: str, index: ImageIndex) -> None:
    loader = make(index, name, backend)
    expected = [batch.images.cpu() for batch in loader.epoch(0)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        read = list(slow(loader.epoch(0)))
    stream.synchronize()
    assert all(levels_apart(a, b) < LEVELS[backend] for a, b in zip(read, expected, strict=True))


@on_cuda
@by_backend
def test_the_host_does_not_wait_for_the_gpu(name: str, backend: str, index: ImageIndex) -> None:
    """With rows that DALI does not get, too. PyTorch raises at what it knows to wait."""
    loader = make(index, name, backend)
    list(loader.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        count = sum(len(batch.indices) for batch in loader.epoch(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert count == 18


@on_cuda
@by_backend
def test_what_crosses_the_bus_is_pinned(
    name: str, backend: str, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are drawn into pinned memory, not copied there first; labels and rows are."""
    sizes: list[tuple[bool, torch.dtype]] = []
    move = collate.moved

    def noted(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        sizes.append((tensor.is_pinned(), tensor.dtype))
        return move(tensor, device)

    monkeypatch.setattr(collate, "moved", noted)
    list(make(index, name, backend).epoch(0))
    assert {pinned for pinned, dtype in sizes if dtype == torch.uint8} == {backend == "torchvision"}


@by_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bytes_are_normalised_on_the_device_as_in_the_workers(name: str, dtype: torch.dtype) -> None:
    """Every byte in every channel: the same numbers to a rounding of fp32, cast once."""
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    workers = collate.Normalise(MEAN, STD, dtype, torch.device("cpu"))
    expected = torch.empty(pixels.shape)
    workers.in_worker(pixels.numpy(), expected.numpy())
    theirs = collate.Normalise(MEAN, STD, dtype, torch.device(name))
    theirs.in_workers = False
    found = theirs.to_device(pixels)
    assert (found.dtype, found.device.type) == (dtype, torch.device(name).type)
    torch.testing.assert_close(found.cpu(), expected.to(dtype), atol=1e-6, rtol=torch.finfo(dtype).eps)
    assert torch.equal(workers.all_of(pixels.numpy()), expected.to(dtype))


class FakeTensor:
    """Notes how it is sent to a device."""

    def __init__(self, pinned: bool) -> None:
        self.pinned, self.calls = pinned, list[Any]()

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> "FakeTensor":
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, *, non_blocking: bool) -> "FakeTensor":
        self.calls.append((str(device), non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "pinned", "calls"),
    [
        ("cuda:1", False, ["pinned", ("cuda:1", True)]),
        ("cuda:1", True, [("cuda:1", True)]),
        ("cpu", False, [("cpu", True)]),
    ],
)
def test_how_tensors_are_moved(device: str, pinned: bool, calls: list[Any]) -> None:
    """On machines without a GPU too: pageable memory is pinned first, and nobody waits."""
    tensor = FakeTensor(pinned)
    collate.moved(tensor, torch.device(device))  # type: ignore[arg-type]
    assert tensor.calls == calls
