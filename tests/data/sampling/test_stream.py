"""Orders, shards and random numbers: pure functions, checked against their definitions and published vectors."""

import numpy as np
import pytest

from fastlift.data.index.index import array_index
from fastlift.data.index.replacements import BadImageSettings
from fastlift.data.sampling.crops import TrainCrops
from fastlift.data.sampling.philox import philox_4x32, uniform
from fastlift.data.sampling.stream import Stream, epoch_order, share, steps_in

# Random123's known answers for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox_4x32(tuple(np.array([c]) for c in counter), key[0] | key[1] << 32)  # type: ignore[arg-type]
    assert tuple(words[0].tolist()) == expected


def test_uniform_depends_on_each_argument_and_not_on_the_company() -> None:
    samples = np.arange(1000)
    u = uniform(1, 2, 3, samples, 7)
    np.testing.assert_array_equal(u[[5, 900]], uniform(1, 2, 3, np.array([5, 900]), 7))
    for other in (uniform(2, 2, 3, samples, 7), uniform(1, 3, 3, samples, 7), uniform(1, 2, 4, samples, 7)):
        assert not np.any(np.all(u == other, axis=1))
    assert u.min() > 0.0
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 0.02


def test_epoch_order_is_a_permutation_that_never_changes() -> None:
    order = epoch_order(1000, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(1000))
    assert epoch_order(10, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]  # runs must stay repeatable over versions
    assert not np.array_equal(order, epoch_order(1000, 0, 1))
    assert not np.array_equal(order, epoch_order(1000, 1, 0))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("n", [60, 61, 97])
def test_an_epoch_shows_every_sample_once_for_any_number_of_ranks(n: int, world_size: int) -> None:
    index = array_index("drawn", np.zeros((n, 2, 2, 3), np.uint8), np.zeros(n, np.int64), ["one"])
    streams = [Stream(index, TrainCrops(2), 8, seed=3, rank=r, world_size=world_size) for r in range(world_size)]
    order, replacements = epoch_order(n, 3, 1), BadImageSettings().build(index)
    seen: list[int] = []
    for number in range(streams[0].steps_per_epoch):
        steps = [stream.step(stream.order(1), 1, number, replacements) for stream in streams]
        parts = [step.samples for step in steps]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for step in steps:
            np.testing.assert_array_equal(np.concatenate(parts), step.whole)
        seen.extend(steps[0].whole.tolist())
    assert seen == order.tolist()


def test_short_last_batches_can_be_dropped() -> None:
    assert [steps_in(n, 4) for n in (7, 8, 9)] == [2, 2, 3]
    assert [steps_in(n, 4, drop_last=True) for n in (7, 8, 9)] == [1, 2, 2]


@pytest.mark.parametrize("world_size", [1, 2, 7, 30])
def test_shares_hold_everything_once(world_size: int) -> None:
    shares = [list(share(23, rank, world_size)) for rank in range(world_size)]
    assert [i for mine in shares for i in mine] == list(range(23))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_occurrences_of_a_sample_have_numbers_of_their_own() -> None:
    samples = np.arange(200)
    first, zero = uniform(1, 2, 3, samples, 40), uniform(1, 2, 3, samples, 40, np.zeros(200, dtype=int))
    np.testing.assert_array_equal(first, zero)
    each = np.stack([uniform(1, 2, 3, samples, 40, np.full(200, k)) for k in (0, 1, 2, 2**24 - 1)])
    assert len(np.unique(each)) > 0.9999 * each.size  # 32 bits: a few numbers come twice
    with pytest.raises(ValueError, match="too many"):
        uniform(1, 2, 3, samples, 1, np.full(200, 2**24))
    with pytest.raises(ValueError, match="too many"):
        uniform(1, 2, 3, samples, 1025, np.zeros(200, dtype=int))
