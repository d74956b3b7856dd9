"""Augmented crops are torchvision's, pixel by pixel: its own classes, handed our draws."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from loaders import all_same, levels, make_loader
from PIL import Image
from torchvision.transforms import v2

from fastlift.data import build_loader
from fastlift.data.index.index import ImageIndex
from fastlift.data.loading import loader as loader_module
from fastlift.data.loading.augment import augment_crop
from fastlift.data.loading.loader import LoaderSettings
from fastlift.data.sampling.augmentations import LEVELS, OPERATIONS, Augment, Augmentations
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError

KINDS: tuple[Augment, ...] = ("randaugment", "trivialaugment")


@pytest.fixture
def original(make_image: Any) -> Image.Image:
    return make_image(40, 40, seed=3)  # type: ignore[no-any-return]


def torchvisions(
    image: Image.Image, augment: str, chosen: Augmentations, row: int, patch: pytest.MonkeyPatch
) -> np.ndarray:
    """What its class makes of an image where torch's random numbers are ours."""
    rows = [column[row].tolist() for column in (chosen.operation, chosen.level, chosen.negative)]
    for operation, level, negative in zip(*rows, strict=True):
        transform = v2.RandAugment(1, level) if augment == "randaugment" else v2.TrivialAugmentWide()
        integers = iter([operation, level])
        with patch.context() as patched:
            patched.setattr(torch, "randint", lambda high, size, numbers=integers: torch.tensor(next(numbers)))
            patched.setattr(torch, "rand", lambda size, sign=negative: torch.tensor(0.25 if sign else 0.75))
            image = transform(image)
    return np.asarray(image)


def test_operations_are_torchvisions() -> None:
    for transform in (v2.RandAugment(), v2.TrivialAugmentWide()):
        assert tuple(transform._AUGMENTATION_SPACE) == OPERATIONS
        assert transform.num_magnitude_bins == LEVELS
        assert v2.InterpolationMode(transform.interpolation) == v2.InterpolationMode.NEAREST


@pytest.mark.parametrize("augment", KINDS)
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=OPERATIONS)
def test_each_operation_and_strength(
    original: Image.Image, augment: Augment, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = list(itertools.product(range(LEVELS), (False, True)))
    level, negative = (np.array(column)[:, None] for column in zip(*pairs, strict=True))
    chosen = Augmentations(np.full_like(level, number), level, negative)
    for row in range(len(pairs)):
        crop = np.asarray(original).transpose(2, 0, 1).copy()
        augment_crop(crop, augment, chosen, row)
        np.testing.assert_array_equal(
            crop.transpose(1, 2, 0), torchvisions(original, augment, chosen, row, monkeypatch), err_msg=str(pairs[row])
        )


@pytest.fixture
def index(image_files: Any) -> ImageIndex:
    """Four images of two classes, eight of a third."""
    image_files.fill(classes=2, each=4)
    for k in range(8):
        image_files.add(f"c2/{k}.jpg", 2, (image_files.root / f"c{k % 2}/{k // 2}.jpg").read_bytes())
    found: ImageIndex = image_files.load().train
    return found


@pytest.mark.parametrize("cache_bytes", [0, 2**29])
@pytest.mark.parametrize("kind", ["random_resized_crop", "minimalist"])
@pytest.mark.parametrize("augment", KINDS)
def test_batches_are_augmented_crops(
    index: ImageIndex, augment: Any, kind: Any, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crops are those without it, then changed; several operations one after the other; again another way in the next epoch."""
    plain = TrainCrops(24, kind=kind, epochs=3)
    crops = TrainCrops(24, kind=kind, epochs=3, augment=augment, randaugment_ops=3, **MAGNITUDE.get(augment, {}))
    changed = []
    loaders = [make_loader(index, one, cache_bytes=cache_bytes) for one in (plain, crops)]
    for epoch in (0, 1):
        for before, after in zip(*(loader.epoch(epoch) for loader in loaders), strict=True):
            chosen = crops.augmentations(1, epoch, before.indices.numpy())
            assert chosen is not None
            for row, (one, other) in enumerate(zip(levels(before.images), levels(after.images), strict=True)):
                image = Image.fromarray(one.round().permute(1, 2, 0).byte().numpy())
                expected = torchvisions(image, augment, chosen, row, monkeypatch)
                np.testing.assert_array_equal(other.round().permute(1, 2, 0).byte().numpy(), expected)
                changed.append(not torch.equal(one, other))
    assert np.mean(changed) > 0.5


MAGNITUDE: dict[str, Any] = {"randaugment": {"randaugment_magnitude": 14}}


def test_workers_starts_and_ranks_change_nothing(index: ImageIndex) -> None:
    crops = TrainCrops(24, augment="trivialaugment")

    def loader(**options: Any) -> Any:
        return make_loader(index, crops, cache_bytes=0, sampling="balanced", **options)

    full = list(loader().epoch(1))
    assert all_same(iter(full[1:]), loader(workers=3).epoch(1, 1))
    ranks = [loader(rank=rank, world_size=2).epoch(1) for rank in range(2)]
    for whole, *parts in zip(full, *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


def test_torchs_own_random_numbers_are_left_alone(index: ImageIndex) -> None:
    before: Iterator[Any] = torch.get_rng_state()
    list(make_loader(index, TrainCrops(24, augment="randaugment")).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", KINDS)
def test_dali_is_refused_by_name_and_passed_by_otherwise(
    index: ImageIndex, augment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = rf"--augment {augment} changes pixels that fastlift's threads have made, and --executor dali leaves them to DALI"
    with pytest.raises(UserError, match=message):
        build_loader(index, TrainCrops(24, augment=augment), batch_size=4, mean=(0,) * 3, std=(1,) * 3, executor="dali")
    monkeypatch.setattr(loader_module, "without_dali", lambda device: "")
    assert LoaderSettings().backend_for(index, "cuda", cache_bytes=0)[0] == "dali"
    backend, why = LoaderSettings().backend_for(index, "cuda", cache_bytes=0, augment=augment)
    assert (backend, why) == ("torchvision", f"--augment {augment} changes pixels that the threads make")
