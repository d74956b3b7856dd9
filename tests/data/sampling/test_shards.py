"""Orders that read few shards at a time, and the shares of processes by shard."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fastlift.data.index.index import ImageIndex, PathTable
from fastlift.data.index.replacements import Replacements
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.shards import windows_of
from fastlift.data.sampling.stream import Stream
from fastlift.errors import UserError

SHARDS, EACH = 12, 50
N = SHARDS * EACH


def index_of(shards: np.ndarray | None) -> ImageIndex:
    sizes = np.full(N, 40, dtype=np.int32)
    paths = PathTable.from_strings(str(i) for i in range(N))
    return ImageIndex("x", None, paths, np.zeros(N, dtype=np.int64), sizes, sizes, ("a",), "f", shards=shards)


INDEX = index_of(np.repeat(np.arange(SHARDS, dtype=np.int32), EACH))


def stream(index: ImageIndex = INDEX, **options: Any) -> Stream:
    return Stream(index, TrainCrops(32), **{"batch_size": 32, "seed": 3, **options})


def steps(of: Stream, epoch: int = 0) -> list[np.ndarray]:
    order, none = of.order(epoch), Replacements(of.index, "stop", None)
    return [of.step(order, epoch, step, none).samples for step in range(of.steps_per_epoch)]


@pytest.mark.parametrize("at_a_time", [1, 3, 5, 12, 99])
def test_a_window_has_so_many_shards_and_every_sample_comes_once(at_a_time: int) -> None:
    order = stream(shuffle_shards=at_a_time).order(1)
    assert sorted(order.tolist()) == list(range(N))
    shards = INDEX.shards[order]  # type: ignore[index]
    for first in range(0, N, at_a_time * EACH):
        window = shards[first : first + at_a_time * EACH]
        assert len(set(window.tolist())) == min(at_a_time, SHARDS, SHARDS - first // EACH)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = [stream(shuffle_shards=3, seed=seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert orders[0].tobytes() == stream(shuffle_shards=3, seed=0).order(0).tobytes()
    golden = stream(shuffle_shards=3, seed=0).order(0)[:8]
    assert golden.tolist() == GOLDEN


GOLDEN = [431, 207, 439, 374, 437, 418, 245, 227]


def test_one_window_of_all_shards_is_the_full_shuffle() -> None:
    assert (stream(shuffle_shards=SHARDS).order(2) == stream().order(2)).all()


def test_shards_of_a_window_are_mixed_and_shards_come_in_every_window() -> None:
    """In a window of six shards, a shard's images are spread over it; over epochs, each shard is in each of the windows."""
    order = stream(shuffle_shards=6).order(0)
    place = np.argsort(order).reshape(SHARDS, EACH) % (6 * EACH)
    assert (np.abs(place.mean(axis=1) - 3 * EACH) < 5 * 300 / np.sqrt(12 * EACH)).all()
    counts = np.zeros((SHARDS, 4))
    for epoch in range(400):
        counts[np.arange(SHARDS), windows_of(np.arange(SHARDS), 0, epoch, 3)] += 1
    assert (np.abs(counts - 100) < 5 * np.sqrt(100)).all()


def test_sets_without_shards_are_refused() -> None:
    with pytest.raises(UserError, match="--shuffle-shards: x has no shards"):
        stream(index_of(None), shuffle_shards=2)
    stream(index_of(None), shuffle_shards=2, shuffle=False)  # an evaluation of the same settings


@pytest.mark.parametrize("at_a_time", [None, 4])
@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_ranks_share_each_batch_by_shard(world: int, at_a_time: int | None) -> None:
    alone = steps(stream(shuffle_shards=at_a_time))
    ranks = [steps(stream(shuffle_shards=at_a_time, rank=rank, world_size=world)) for rank in range(world)]
    for step, whole in enumerate(alone):
        shares = [mine[step] for mine in ranks]
        assert sorted(np.concatenate(shares).tolist()) == sorted(whole.tolist())
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        shards = [INDEX.shards[one] for one in shares]  # type: ignore[index]
        for one, following in pairwise(shards):
            assert not len(one) or not len(following) or one.max() <= following.min()


def test_a_rank_reads_about_its_part_of_the_shards() -> None:
    """Of windows of twelve shards, four ranks read three and their neighbours, where each would read nearly all."""
    read = [np.concatenate(steps(stream(rank=rank, world_size=4, batch_size=120))) for rank in range(4)]
    most = [np.bincount(INDEX.shards[rows], minlength=SHARDS) for rows in read]  # type: ignore[index]
    for rank, counts in enumerate(most):
        assert counts[3 * rank : 3 * rank + 3].sum() > 0.75 * counts.sum()
    files = [np.concatenate(steps(stream(index_of(None), rank=rank, world_size=4))) for rank in range(4)]
    assert all(len(set((rows // EACH).tolist())) == SHARDS for rows in files)


def test_one_process_and_files_are_as_before() -> None:
    """One process takes a batch in its order; files have no shards, so processes share by place as ever."""
    order = stream().order(0)
    assert (np.concatenate(steps(stream())) == order).all()
    halves = [steps(stream(index_of(None), rank=rank, world_size=2))[0] for rank in (0, 1)]
    assert (np.concatenate(halves) == order[:32]).all()
