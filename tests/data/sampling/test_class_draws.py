"""Re-sampling by class: exact shares, images that take turns, and what is left to chance by chi-square tests."""

from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastlift.data.index.index import ImageIndex, PathTable, array_index
from fastlift.data.index.replacements import Replacements
from fastlift.data.sampling.class_draws import ClassDraws, Sampling, SamplingSettings, expected_draws
from fastlift.data.sampling.crop_boxes import CropBoxes
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.stream import Step, Stream, epoch_order
from fastlift.errors import UserError

KINDS = ("square_root", "balanced", "progressive")
COUNTS = (200, 90, 31, 13, 5, 1)
N, CLASSES, EPOCHS = sum(COUNTS), len(COUNTS), 5
LABELS = np.random.Generator(np.random.Philox(7)).permutation(np.repeat(np.arange(CLASSES), COUNTS))
ALPHA = 1e-4  # of each chi-square test; seeds are fixed, so a test passes always or never
counts_of_classes = st.lists(st.integers(1, 400), min_size=2, max_size=30)


def index_of(labels: np.ndarray = LABELS, shards: np.ndarray | None = None) -> ImageIndex:
    sizes, names = np.full(len(labels), 40, dtype=np.int32), tuple(map(str, range(labels.max() + 1)))
    paths = PathTable.from_strings(str(i) for i in range(len(labels)))
    return ImageIndex("x", None, paths, labels, sizes, sizes, names, "f", shards=shards)


def stream(sampling: Sampling = "balanced", **options: Any) -> Stream:
    given: dict[str, Any] = {"batch_size": 32, "seed": 3, "sampling": sampling} | options
    return Stream(given.pop("index", index_of()), TrainCrops(32, epochs=EPOCHS), **given)


def drawn(kind: Sampling, epochs: int, seed: int = 3) -> np.ndarray:
    """Times that each sample is drawn in each epoch: [epochs, N]."""
    of = stream(kind, seed=seed)
    return np.array([np.bincount(of.samples_of(of.order(epoch)), minlength=N) for epoch in range(epochs)])


def test_expected_draws_are_the_papers() -> None:
    counts = np.array([64, 16, 4, 0])
    roots = 84 / (8 + 4 + 2) * np.array([8, 4, 2, 0])
    assert expected_draws(counts, "shuffle", 1, 3).tolist() == [64, 16, 4, 0]
    np.testing.assert_allclose(expected_draws(counts, "square_root", 1, 3), roots, rtol=1e-15)
    assert expected_draws(counts, "balanced", 1, 3).tolist() == [28, 28, 28, 0]
    progressive = [expected_draws(counts, "progressive", epoch, 3).tolist() for epoch in range(3)]
    assert progressive == [[64, 16, 4, 0], [46, 22, 16, 0], [28, 28, 28, 0]]


def test_shuffle_is_the_order_that_it_was() -> None:
    for epoch in range(3):
        np.testing.assert_array_equal(stream("shuffle").order(epoch), epoch_order(N, 3, epoch))


@given(counts=counts_of_classes, epoch=st.integers(0, 9), seed=st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("kind", get_args(Sampling))
def test_every_class_has_its_share(kind: Sampling, counts: list[int], epoch: int, seed: int) -> None:
    """Rounded up or down to a whole number; where it is whole, exactly. An epoch keeps its length."""
    labels, n = np.repeat(np.arange(len(counts)), counts), sum(counts)
    found = ClassDraws(labels, kind, seed, 10)
    expected, quotas = expected_draws(np.array(counts), kind, epoch, 10), found.quotas(epoch)
    samples = found.of(epoch) % n
    assert len(samples) == n
    np.testing.assert_array_equal(np.bincount(labels[samples], minlength=len(counts)), quotas)
    assert (np.abs(quotas - expected) < 1.001).all()
    whole = (np.abs(expected - np.rint(expected)) < 1e-9).all()
    assert not whole or (quotas == np.rint(expected)).all()


@given(counts=counts_of_classes, seed=st.integers(0, 2**63 - 1))
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_class_take_turns(kind: Sampling, counts: list[int], seed: int) -> None:
    """None comes again before all others of its class, in an epoch and across them: so all of a class come as often, within one."""
    labels, n = np.repeat(np.arange(len(counts)), counts), sum(counts)
    found = ClassDraws(labels, kind, seed, 4)
    epochs = [found.of(epoch) for epoch in range(4)]
    for c, count in enumerate(counts):
        of_class = [epoch[labels[epoch % n] == c] for epoch in epochs]
        in_a_row = np.concatenate(of_class) % n
        for first in range(0, len(in_a_row) - count, max(1, count // 2)):
            assert len(set(in_a_row[first : first + count].tolist())) == count
        for one in of_class:  # the occurrence of a draw is how often its sample was drawn before in the epoch
            seen: dict[int, int] = {}
            for draw in one.tolist():
                assert draw // n == seen.get(draw % n, 0)
                seen[draw % n] = draw // n + 1


def test_what_a_share_has_beyond_a_whole_number_is_spread_over_the_epochs() -> None:
    """Of 50 draws a class has one or two: never two more or fewer than its part by now (independent draws: eight)."""
    labels = np.arange(50) % 37
    for seed in range(20):
        found = ClassDraws(labels, "balanced", seed, 1)
        total = np.cumsum([found.quotas(epoch) for epoch in range(40)], axis=0)
        expected = 50 / 37 * np.arange(1, 41)[:, None]
        assert np.abs(total - expected).max() < 2.5
        np.testing.assert_array_equal(found.before(40), total[-1])


def test_which_classes_round_up_is_chance() -> None:
    """Over seeds, in any epoch: a share of 56.67 draws is 57 two times in three."""
    for epoch in (0, 3):
        up = sum(ClassDraws(LABELS, "balanced", seed, 1).quotas(epoch) - N // CLASSES for seed in range(900))
        share = N / CLASSES - N // CLASSES
        tests = [stats.binomtest(int(one), 900, share).pvalue for one in up]
        assert min(tests) > ALPHA


def test_which_images_of_a_class_come_is_chance() -> None:
    """Of 200 images 57 or 56 come in an epoch: over seeds, each as often as any other, and each pair."""
    first = np.flatnonzero(LABELS == 0)
    came = np.array([drawn("balanced", 1, seed)[0, first] for seed in range(300)])
    assert set(came.sum(axis=1)) == {56, 57}
    expected = came.sum() / 200
    spread = ((came.sum(axis=0) - expected) ** 2).sum() / (expected * (1 - expected / 300))
    assert ALPHA < stats.chi2.sf(spread, 199) < 1 - ALPHA
    pairs = (came[:, :-1] * came[:, 1:]).sum()
    assert stats.binomtest(int(pairs), 300 * 199, 56.67 / 200 * 55.67 / 199).pvalue > ALPHA


@pytest.mark.parametrize("kind", KINDS)
def test_batches_mix_the_classes(kind: Sampling) -> None:
    """The draws of a class lie anywhere in an epoch: of ten parts of it, each has as many."""
    table = np.zeros((CLASSES, 10))
    for seed in range(60):
        of = stream(kind, seed=seed)
        labels = LABELS[of.samples_of(of.order(2))]
        for part, some in enumerate(np.array_split(labels, 10)):
            table[:, part] += np.bincount(some, minlength=CLASSES)
    assert stats.chi2_contingency(table).pvalue > ALPHA


def test_an_order_is_a_function_of_seed_and_epoch_alone() -> None:
    golden = stream("square_root").order(2)[:6]
    assert golden.tolist() == GOLDEN
    orders = [stream(kind, seed=seed).order(epoch) for kind in KINDS for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == len(orders)
    asked = stream("progressive")
    for epoch in (3, 1, 4, 1):  # in any order of asking
        np.testing.assert_array_equal(asked.order(epoch), stream("progressive").order(epoch))


GOLDEN = [38, 7, 85, 604, 285, 317]


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("shards", [None, np.arange(N, dtype=np.int32) % 5])
def test_ranks_share_each_batch(world: int, shards: np.ndarray | None) -> None:
    index, none = index_of(shards=shards), Replacements(index_of(), "stop", None)
    alone = stream(index=index)
    order = alone.order(1)
    for number in range(alone.steps_per_epoch):
        whole = alone.step(order, 1, number, none)
        parts = [stream(index=index, rank=rank, world_size=world).step(order, 1, number, none) for rank in range(world)]
        assert sorted(np.concatenate([crops_of(part) for part in parts]).tolist()) == sorted(crops_of(whole).tolist())
        sizes = [len(part.samples) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        for part in parts:
            np.testing.assert_array_equal(part.whole, whole.samples)


def crops_of(step: Step) -> np.ndarray:
    """What a step shows: [B, 5]."""
    boxes = step.boxes
    assert isinstance(boxes, CropBoxes)
    return np.stack([step.samples, step.occurrences, boxes.x[:, 0], boxes.y[:, 0], boxes.flip[:, 0]], axis=1)


@pytest.mark.parametrize("kind", ["random_resized_crop", "minimalist"])
def test_a_sample_has_another_crop_each_time(kind: Any) -> None:
    """The only image of a class, drawn dozens of times in an epoch: boxes and flips are those of independent draws."""
    crops = TrainCrops(8, kind=kind, flip=True, epochs=2)
    same, sizes = np.full(4000, 9), np.full(4000, 400)
    found = crops.boxes(3, 0, same, sizes, sizes, np.arange(4000))
    others = crops.boxes(3, 0, np.arange(4000), sizes, sizes)
    assert len({tuple(box) for box in np.concatenate([found.x, found.y, found.w, found.h], axis=1).tolist()}) > 3900
    for name in ("x", "y", "w", "h"):
        assert stats.ks_2samp(getattr(found, name)[:, 0], getattr(others, name)[:, 0]).pvalue > ALPHA
        following = np.corrcoef(getattr(found, name)[:-1, 0], getattr(found, name)[1:, 0])[0, 1]
        assert abs(following) < 4 / 4000**0.5
    assert stats.binomtest(int(found.flip.sum()), 4000).pvalue > ALPHA
    runs = sum(one != other for one, other in pairwise(found.flip[:, 0]))
    assert stats.binomtest(runs, 3999).pvalue > ALPHA


def test_the_first_time_has_the_crop_that_it_had() -> None:
    rows, sizes = np.arange(50), np.full(50, 300)
    for crops in (TrainCrops(8), TrainCrops(8, kind="minimalist")):
        before, now = crops.boxes(3, 1, rows, sizes, sizes), crops.boxes(3, 1, rows, sizes, sizes, np.zeros(50, int))
        for name in ("x", "y", "w", "h", "flip"):
            np.testing.assert_array_equal(getattr(before, name), getattr(now, name))
    assert TrainCrops(8).boxes(3, 1, rows[:3], sizes[:3], sizes[:3]).x[:, 0].tolist() == [51, 18, 36]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"--sampling balanced draws .* all draws of a rare class would come together"):
        stream(index=index_of(shards=np.zeros(N, dtype=np.int32)), shuffle_shards=1)
    even = array_index("even", np.zeros((6, 2, 2, 3), np.uint8), np.arange(6) % 3, ["a", "b", "c"])
    with pytest.raises(UserError, match=r"^sampling balanced would change nothing here: all classes of even have 2"):
        SamplingSettings("balanced").check(even)
    SamplingSettings("balanced").check(index_of())
    SamplingSettings().check(even)
