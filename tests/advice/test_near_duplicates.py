"""Nearest neighbours block by block, and from when on two images are one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.advice import near_duplicates
from fastlift.advice.altered import ALTERATIONS, altered
from fastlift.advice.near_duplicates import mirrored, nearest, small_copy, threshold


def drawn(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("block_bytes", [4 * 7**2, 4 * 50**2, 2**25])
@pytest.mark.parametrize("same", [False, True])
def test_blocks_find_what_one_product_finds(monkeypatch: pytest.MonkeyPatch, block_bytes: int, same: bool) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK_BYTES", block_bytes)
    keys = drawn(60, 16, seed=1)
    queries = keys if same else drawn(23, 16, seed=2)
    product = queries @ keys.T
    if same:
        product.fill_diagonal_(-9)
    similarity, place = nearest(queries, keys, same=same)
    np.testing.assert_allclose(similarity, product.max(dim=1).values.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(place, product.argmax(dim=1).numpy())


def test_no_product_is_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with queries times keys."""
    monkeypatch.setattr(near_duplicates, "_BLOCK_BYTES", 4 * 10**2)
    sizes = []
    multiply = torch.Tensor.__matmul__

    def watched(first: Tensor, second: Tensor) -> Tensor:
        sizes.append(first.shape[0] * second.shape[1])
        return multiply(first, second)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    nearest(drawn(35, 4, seed=0), drawn(44, 4, seed=1))
    assert max(sizes) == 100
    assert sum(sizes) == 35 * 44


def test_threshold_lets_few_different_images_pass() -> None:
    """Over splits without a copy, about as many false pairs as are said: 0.1 a split, 0.1 to 4 in 40 of them."""
    false = 0
    for seed in range(40):
        train, test = drawn(800, 24, seed=2 * seed), drawn(400, 24, seed=2 * seed + 1)
        limit = threshold(nearest(train, train, same=True)[0], len(test))
        assert limit.similarity is not None
        false += int((nearest(test, train)[0] >= limit.similarity).sum())
    assert false <= 16


def test_threshold_is_not_moved_by_copies_in_the_training_split() -> None:
    train = drawn(1000, 24, seed=0)
    clean = threshold(nearest(train, train, same=True)[0], 500).similarity
    with_copies = torch.cat([train, F.normalize(train[:8] + 0.02 * drawn(8, 24, seed=1), dim=1), train[20:60]])
    found = threshold(nearest(with_copies, with_copies, same=True)[0], 500)
    assert clean is not None
    assert found.similarity is not None
    assert abs(found.similarity - clean) < 0.35 * (1 - clean)
    assert found.among_training == 2 * (8 + 40)


def test_of_few_training_images_nothing_is_told() -> None:
    few = drawn(50, 24, seed=0)
    assert threshold(nearest(few, few, same=True)[0], 100).similarity is None


@pytest.fixture
def scenes() -> np.ndarray:
    """Images of smooth random colours, uint8 [24, 64, 64, 3]."""
    noise = torch.rand(24, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, (64, 64), mode="bicubic").clamp(0, 1)
    return (255 * smooth).byte().permute(0, 2, 3, 1).numpy()


def described(images: list[np.ndarray]) -> Tensor:
    rows = [F.interpolate(torch.tensor(one).permute(2, 0, 1)[None] / 255, (64, 64)) for one in images]
    return small_copy(torch.cat(rows))


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_small_copies_know_an_altered_image_again(scenes: np.ndarray, kind: str) -> None:
    originals = described(list(scenes))
    copies = described([altered(one, kind, seed) for seed, one in enumerate(scenes)])
    plain, turned = nearest(copies, originals), nearest(mirrored(copies), originals)
    similarity, place = turned if kind == "mirrored" else plain
    np.testing.assert_array_equal(place, np.arange(len(scenes)))
    if kind != "cropped to 90 %":
        assert similarity.min() > 0.95
    assert not np.array_equal(altered(scenes[0], kind, 0), scenes[0])


def test_altered_copies_are_the_same_for_the_same_seed(scenes: np.ndarray) -> None:
    first, again, other = (altered(scenes[0], "cropped to 90 %", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_light_and_contrast_fall_out_of_small_copies() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small_copy(images), small_copy(0.3 * images + 0.5), rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored(small_copy(images)), small_copy(images.flip(3)), rtol=0, atol=1e-6)
