"""Mixed images and their labels against torchvision's MixUp and CutMix with the same numbers, and in the batches of both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loaders import BACKENDS, all_same, make_loader
from syncs import no_host_sync, repeatable_sums
from torch import Tensor
from torchvision.transforms import v2

from fastlift.data.loading.mixed import Mixed, mix_, mixed_labels
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.mixing import Mixes, Mixing

SIDE, CLASSES = 16, 6


def by_torchvision(pair: Tensor, labels: Tensor, weight: float, box: list[int], share: float) -> tuple[Tensor, Tensor]:
    """A batch of two images and its labels, which it rolls by one."""
    common = {"labels": labels, "batch_size": 2}
    if weight < 1:
        mixup = v2.MixUp(num_classes=CLASSES)
        return mixup.transform(pair, common | {"lam": weight}), mixup.transform(labels, common | {"lam": weight})
    cutmix, params = v2.CutMix(num_classes=CLASSES), common | {"box": box, "lam_adjusted": share}
    return cutmix.transform(pair, params), cutmix.transform(labels, params)


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_as_torchvision_mixes_each_pair(count: int, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(count)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    mixes = Mixing(1.0, 1.0).of(0, count, np.arange(0, count // 2 * 2, 2), SIDE)
    larger, other, share = mixed_labels(labels.numpy(), mixes)
    mixed = Mixed(torch.from_numpy(other).to(device), torch.from_numpy(share).to(device))
    found = images.clone().to(device)
    mix_(found, torch.from_numpy(mixes.weight).float().to(device), torch.from_numpy(mixes.box).to(device))
    soft = mixed.soft(torch.from_numpy(larger).to(device), CLASSES, torch.float32).cpu()
    for k in range(count // 2):
        rows = slice(2 * k, 2 * k + 2)
        weight, box = float(mixes.weight[k]), mixes.box[k].tolist()
        pixels, probabilities = by_torchvision(images[rows], labels[rows], weight, box, float(mixes.share[k]))
        if weight == 1:
            assert torch.equal(found[rows].cpu(), pixels)
        else:
            torch.testing.assert_close(found[rows].cpu(), pixels, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(soft[rows], probabilities, rtol=1e-6, atol=1e-6)
    if count % 2:
        assert torch.equal(found[-1].cpu(), images[-1]), "an odd last image stays as it is"
        assert (int(larger[-1]), float(share[-1])) == (int(labels[-1]), 1.0)
    assert (share >= 0.5).all()
    assert (soft.argmax(dim=1).numpy() == larger).all(), "the label is the one of the larger share"


def test_16_bits_are_mixed_in_them() -> None:
    images = torch.randn(2, 3, 4, 4).bfloat16()
    mixed = images.clone()
    mix_(mixed, torch.tensor([0.25]), torch.zeros(1, 4, dtype=torch.int64))
    assert mixed.dtype == torch.bfloat16
    exact = 0.25 * images.float() + 0.75 * images.float().flip(0)
    torch.testing.assert_close(mixed.float(), exact, rtol=2**-8, atol=2**-8)


def test_by_hand() -> None:
    """Two pairs and a single image: a blend of a quarter, a box of a quarter of the area."""
    images = torch.arange(1.0, 6).view(5, 1, 1, 1).expand(5, 3, 4, 4).clone()
    mixes = Mixes(np.array([0.25, 0.75]), np.array([0.25, 1.0]), np.array([[0, 0, 0, 0], [2, 0, 4, 2]]))
    mix_(images, torch.tensor([0.25, 1.0]), torch.from_numpy(mixes.box))
    assert images[:2, 0, 0, 0].tolist() == [1.75, 1.25]
    assert images[2, 0].tolist() == [[3, 3, 4, 4], [3, 3, 4, 4], [3, 3, 3, 3], [3, 3, 3, 3]]
    assert images[3, 2].tolist() == [[4, 4, 3, 3], [4, 4, 3, 3], [4, 4, 4, 4], [4, 4, 4, 4]]
    assert (images[4] == 5).all()
    larger, other, share = mixed_labels(np.array([0, 1, 2, 3, 4]), mixes)
    assert larger.tolist() == [1, 0, 2, 3, 4]
    assert other.tolist() == [0, 1, 3, 2, 4]
    assert share.tolist() == [0.75, 0.75, 0.75, 0.75, 1.0]
    soft = Mixed(torch.from_numpy(other), torch.from_numpy(share)).soft(torch.from_numpy(larger), 5, torch.float64)
    assert soft.tolist() == [
        [0.25, 0.75, 0, 0, 0],
        [0.75, 0.25, 0, 0, 0],
        [0, 0, 0.75, 0.25, 0],
        [0, 0, 0.25, 0.75, 0],
        [0, 0, 0, 0, 1],
    ]


def test_equal_labels_are_one() -> None:
    mixed = Mixed(torch.tensor([1]), torch.tensor([0.625]))
    assert mixed.soft(torch.tensor([1]), 3, torch.float32).tolist() == [[0, 1, 0]]
    assert mixed.mean(torch.tensor([2.0]), torch.tensor([4.0])).tolist() == [2.75]


def test_nothing_waits_and_sums_repeat() -> None:
    images, weight, box = torch.randn(4, 3, 8, 8), torch.tensor([0.3, 1.0]), torch.tensor([[0, 0, 0, 0], [1, 2, 5, 6]])
    labels, mixed = torch.tensor([0, 1, 2, 0]), Mixed(torch.tensor([1, 0, 0, 2]), torch.full((4,), 0.75))
    for guard in (no_host_sync, repeatable_sums):
        with guard():
            mix_(images, weight, box)
            mixed.soft(labels, 3, torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_are_the_plain_ones_mixed(backend: str, image_files: Any) -> None:
    """Images and labels of a loader, over an epoch whose batches and last batch are odd; and from any step on."""
    index, mixing = image_files.fill(each=6).load().train, Mixing(0.5, 1.0)
    plain, loader = (make_loader(index, TrainCrops(SIDE), backend, batch_size=7, mixing=of) for of in (None, mixing))
    batches = list(loader.epoch(1))
    for number, (batch, (images, labels, indices)) in enumerate(zip(batches, plain.epoch(1), strict=True)):
        places = 7 * number + np.arange(0, len(images) // 2 * 2, 2)
        mixes = mixing.of(1, 1, places, SIDE)
        mix_(images, torch.from_numpy(mixes.weight).float(), torch.from_numpy(mixes.box))
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.indices, indices)
        larger, other, share = mixed_labels(labels.numpy(), mixes)
        assert batch.mixed is not None
        for found, expected in zip((batch.labels, *batch.mixed), (larger, other, share), strict=True):
            assert torch.equal(found, torch.from_numpy(expected))
        assert torch.equal(batch.whole, labels)
    again = list(loader.epoch(1, 2))
    assert all_same(iter(again), iter(batches[2:]))
    assert all(
        torch.equal(a, b)
        for x, y in zip(again, batches[2:], strict=True)
        for a, b in zip(x.mixed, y.mixed, strict=True)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_mixed_batches(backend: str, world: int, image_files: Any) -> None:
    index, options = image_files.fill(each=6).load().train, {"batch_size": 7, "mixing": Mixing(0.5, 1.0)}
    whole = make_loader(index, TrainCrops(SIDE), backend, **options)
    ranks = [make_loader(index, TrainCrops(SIDE), backend, rank=r, world_size=world, **options) for r in range(world)]
    for batch, *parts in zip(whole.epoch(0), *(rank.epoch(0) for rank in ranks), strict=True):
        for name in ("images", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
        for name in Mixed._fields:
            assert torch.equal(torch.cat([getattr(part.mixed, name) for part in parts]), getattr(batch.mixed, name))
        for part in parts:
            assert torch.equal(part.whole, batch.whole)
