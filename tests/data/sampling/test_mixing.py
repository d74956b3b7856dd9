"""How pairs are mixed, in numbers: the shares' distribution, boxes and their exact areas, and pairs that no rank parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, chisquare, kstest
from torchvision.transforms import v2

from fastlift.data.index.index import ImageIndex, PathTable, array_index
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.loading.dali import feed
from fastlift.data.sampling import augmentations, crops, mixing
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.mixing import Mixes, Mixing, MixingSettings
from fastlift.data.sampling.philox import uniform
from fastlift.data.sampling.stream import Step, Stream, largest_share, share
from fastlift.errors import UserError

SIDE = 32
BOTH = Mixing(0.4, 1.0)


def index_of(n: int, shards: np.ndarray | None = None) -> ImageIndex:
    if shards is None:
        return array_index("drawn", np.zeros((n, 2, 2, 3), np.uint8), np.arange(n, dtype=np.int64) % 7, list("abcdefg"))
    sizes, paths = np.full(n, 40, dtype=np.int32), PathTable.from_strings(str(i) for i in range(n))
    return ImageIndex("x", None, paths, np.zeros(n, dtype=np.int64), sizes, sizes, ("a",), "f", shards=shards)


def steps(index: ImageIndex, batch_size: int = 8, world: int = 1, epoch: int = 0, **options: Any) -> list[list[Step]]:
    """Of each rank."""
    found = []
    for rank in range(world):
        of = Stream(index, TrainCrops(SIDE), batch_size, rank=rank, world_size=world, **{"mixing": BOTH} | options)
        order, none = of.order(epoch), BadImageSettings().build(index)
        found.append([of.step(order, epoch, step, none) for step in range(of.steps_per_epoch)])
    return found


def pairs_of(step: Step) -> dict[tuple[int, ...], tuple[float, ...]]:
    """How each pair of samples is mixed."""
    assert step.mixes is not None
    count = len(step.mixes.share)
    rows = np.column_stack([step.mixes.share, step.mixes.weight, step.mixes.box])
    return {tuple(step.samples[2 * k : 2 * k + 2].tolist()): tuple(rows[k].tolist()) for k in range(count)}


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_shares_of_mixup_are_of_the_beta_distribution(alpha: float) -> None:
    shares = np.concatenate([Mixing(alpha).of(seed, 3, np.arange(0, 40, 2), SIDE).share for seed in range(200)])
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 1e-3


def test_boxes_of_cutmix_have_the_share_outside() -> None:
    """Area, kind of place and side of every box as the definition has them, pixel by pixel."""
    alpha, side = 1.0, 37
    mixes = Mixing(cutmix=alpha).of(5, 0, np.arange(0, 4000, 2), side)
    outside = []
    for left, top, right, bottom in mixes.box.tolist():
        pixels = np.ones((side, side))
        pixels[top:bottom, left:right] = 0
        outside.append(pixels.mean())
        assert 0 <= left <= right <= side
        assert 0 <= top <= bottom <= side
    np.testing.assert_allclose(mixes.share, outside, rtol=0, atol=1e-12)
    assert (mixes.weight == 1).all()
    widths = (mixes.box[:, 2] - mixes.box[:, 0]) / side
    # Of boxes that nothing is cut off from: their width is that of the drawn share, to two pixels.
    whole = (mixes.box[:, :2] > 0).all(axis=1) & (mixes.box[:, 2:] < side).all(axis=1)
    assert whole.sum() > 300
    assert (mixes.box[whole, 2] - mixes.box[whole, 0] == mixes.box[whole, 3] - mixes.box[whole, 1]).all()
    assert (widths[whole] <= 1).all()
    # A box is as often cut off at either side, and its centre is anywhere.
    at_left, at_right = (mixes.box[:, 0] == 0).sum(), (mixes.box[:, 2] == side).sum()
    assert binomtest(int(at_left), int(at_left + at_right)).pvalue > 1e-3


def test_the_box_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same share and centre give its CutMix the same box and the same corrected share."""
    places = np.arange(0, 100, 2)
    mixes, u = Mixing(cutmix=0.7).of(1, 2, places, SIDE), uniform(1, 2, mixing._MIX, places, 4)
    drawn = beta(0.7, 0.7).ppf(u[:, 0])
    for k in range(50):
        theirs = v2.CutMix(alpha=0.7, num_classes=2)
        centre = iter([torch.tensor([int(u[k, 2] * SIDE)]), torch.tensor([int(u[k, 3] * SIDE)])])
        monkeypatch.setattr(theirs._dist, "sample", lambda _, k=k: torch.tensor([drawn[k]], dtype=torch.float64))
        monkeypatch.setattr(torch, "randint", lambda *_, centre=centre, **__: next(centre))
        params = theirs.make_params([torch.zeros(1, 3, SIDE, SIDE)])
        assert params["box"] == tuple(mixes.box[k].tolist())
        assert params["lam_adjusted"] == pytest.approx(mixes.share[k], abs=1e-12)


def test_with_both_each_pair_is_mixed_by_either() -> None:
    mixes = BOTH.of(0, 0, np.arange(0, 8000, 2), SIDE)
    is_cut = mixes.weight == 1
    assert binomtest(int(is_cut.sum()), 4000).pvalue > 1e-3
    assert (mixes.box[~is_cut, 2:] == mixes.box[~is_cut, :2]).all(), "mixup has no box"
    assert (mixes.share[~is_cut] == mixes.weight[~is_cut]).all()
    assert kstest(mixes.share[~is_cut], beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_a_pair_s_numbers_are_its_own() -> None:
    """Functions of seed, epoch and place: alone as in company, and another in each."""
    places = np.arange(0, 200, 2)
    whole = BOTH.of(1, 2, places, SIDE)
    alone = [BOTH.of(1, 2, places[k : k + 1], SIDE) for k in range(100)]
    for field in ("share", "weight", "box"):
        np.testing.assert_array_equal(getattr(whole, field), np.concatenate([getattr(one, field) for one in alone]))
    blend = Mixing(0.4).of(1, 2, places, SIDE).share
    for seed, epoch, others in ((2, 2, places), (1, 3, places), (1, 2, places + 1)):
        assert not (Mixing(0.4).of(seed, epoch, others, SIDE).share == blend).any()
    # Runs must stay repeatable over versions; scipy may round the last digits otherwise.
    golden = BOTH.of(0, 0, np.arange(0, 10, 2), SIDE)
    np.testing.assert_allclose(golden.share, GOLDEN_SHARES, rtol=1e-9)
    assert golden.box.tolist() == GOLDEN_BOXES


GOLDEN_SHARES = [0.822265625, 0.6015625, 0.9375, 0.5078125, 0.00200287656994]
GOLDEN_BOXES = [[19, 18, 32, 32], [0, 15, 24, 32], [9, 12, 17, 20], [0, 14, 28, 32], [21, 2, 21, 2]]


def test_its_random_numbers_are_nobody_else_s() -> None:
    others = [crops._BOX, crops._FLIP, augmentations._STREAM, feed._HOST]
    assert len({mixing._MIX, *others}) == 1 + len(others)


@pytest.mark.parametrize("batch_size", [6, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [41, 44])
def test_pairs_are_the_same_for_any_number_of_ranks(n: int, world: int, batch_size: int) -> None:
    """Whole on one of them, mixed in the same way; an odd last sample of a batch is alone."""
    (alone,), ranks = steps(index_of(n), batch_size), steps(index_of(n), batch_size, world)
    for number, whole in enumerate(alone):
        expected = pairs_of(whole)
        assert len(expected) == len(whole.samples) // 2
        mine = [each[number] for each in ranks]
        assert {pair: how for one in mine for pair, how in pairs_of(one).items()} == expected
        np.testing.assert_array_equal(np.concatenate([one.samples for one in mine]), whole.samples)
        most = largest_share(len(whole.samples), world, 2)
        assert max(len(one.samples) for one in mine) <= most
        for one in mine:
            np.testing.assert_array_equal(one.whole, whole.whole)


def test_resumed_steps_are_those_of_the_whole_epoch() -> None:
    index = index_of(44)
    stream = Stream(index, TrainCrops(SIDE), 8, mixing=BOTH)
    order, none = stream.order(3), BadImageSettings().build(index)
    (whole,) = steps(index, epoch=3)
    assert pairs_of(stream.step(order, 3, 4, none)) == pairs_of(whole[4])


def test_partners_are_random() -> None:
    """Over epochs, each other sample is a sample's partner as often."""
    n = 12
    counts = np.zeros((n, n))
    for epoch in range(1200):
        for step in steps(index_of(n), batch_size=4, epoch=epoch)[0]:
            for a, b in pairs_of(step):
                counts[a, b] += 1
                counts[b, a] += 1
    assert (counts.sum(axis=1) == 1200).all(), "every sample has a partner in every epoch"
    others = counts[~np.eye(n, dtype=bool)]
    assert chisquare(counts[np.triu_indices(n, 1)]).pvalue > 1e-3
    assert others.min() > 0


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_share_by_shard_keep_pairs_too(world: int) -> None:
    index = index_of(60, np.repeat(np.arange(6, dtype=np.int32), 10))
    (alone,), ranks = steps(index, 16), steps(index, 16, world)
    for number, whole in enumerate(alone):
        mine = [each[number] for each in ranks]
        assert {pair: how for one in mine for pair, how in pairs_of(one).items()} == pairs_of(whole)
        firsts = np.concatenate([one.samples[0::2] for one in mine]) // 10
        assert (np.diff(firsts) >= 0).all(), "pairs are in the order of their first sample's shard"


def test_nothing_is_mixed_that_is_not_asked_for() -> None:
    (plain,), (mixed,) = steps(index_of(44), mixing=None), steps(index_of(44))
    for one, other in zip(plain, mixed, strict=True):
        assert one.mixes is None
        np.testing.assert_array_equal(one.samples, other.samples)
        np.testing.assert_array_equal(one.boxes.x, other.boxes.x)
    evaluated = Stream(index_of(44), TrainCrops(SIDE), 8, shuffle=False, mixing=BOTH)
    assert evaluated.step(evaluated.order(0), 0, 0, BadImageSettings().build(index_of(44))).mixes is None


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 7, 30])
@pytest.mark.parametrize("n", [0, 1, 22, 23])
def test_shares_of_groups_hold_everything_once(n: int, world: int, together: int) -> None:
    shares = [share(n, rank, world, together) for rank in range(world)]
    assert [i for mine in shares for i in mine] == list(range(n))
    assert all(mine.start % together == 0 or not mine for mine in shares)
    assert max(map(len, shares)) <= largest_share(n, world, together) <= n
    assert n == 0 or largest_share(n, world, together) - max(map(len, shares)) < together


def test_shares_of_an_odd_batch() -> None:
    mixes = Mixes(np.array([0.25, 0.75]), np.ones(2), np.zeros((2, 4), dtype=np.int64))
    assert mixes.shares(5).tolist() == [0.25, 0.25, 0.75, 0.75, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixup": -0.1}, r"mixup: expected a number in \[0, 1000\]"),
        ({"cutmix": float("nan")}, "cutmix: expected a finite number"),
        ({"mixup": float("inf")}, "mixup: expected a finite number"),
    ],
)
def test_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixingSettings(**values)


def test_settings_build_what_draws() -> None:
    assert MixingSettings().build() is None
    assert MixingSettings(mixup=0.2).build() == Mixing(0.2, 0.0)
    assert MixingSettings(cutmix=1).build() == Mixing(0.0, 1.0)
    assert [MixingSettings(**of).stay_together for of in ({}, {"mixup": 1}, {"cutmix": 1})] == [1, 2, 2]
