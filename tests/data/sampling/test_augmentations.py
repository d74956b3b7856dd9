"""Which operations a crop gets: uniform, independent, anew each time, and a function of seed, epoch, sample and occurrence."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from fastlift.data.sampling.augmentations import LEVELS, OPERATIONS, Augmentations, AugmentSettings, draw_augmentations
from fastlift.data.sampling.crops import TrainCrops
from fastlift.errors import UserError

RAND, TRIVIAL = AugmentSettings("randaugment", 3, 12), AugmentSettings("trivialaugment")
MANY, ALPHA = np.arange(6000), 1e-4


def columns(chosen: Augmentations) -> list[np.ndarray]:
    return [chosen.operation, chosen.level, chosen.negative]


@pytest.mark.parametrize("again", [False, True])
def test_draws_are_uniform_and_independent(again: bool) -> None:
    """Of many samples, and of one that comes many times."""
    samples, times = (np.full(6000, 5), MANY) if again else (MANY, None)
    chosen = draw_augmentations(TRIVIAL, 1, 2, samples, times)
    assert chosen.operation.shape == (6000, 1)
    for column, values in zip(columns(chosen), (len(OPERATIONS), LEVELS, 2), strict=True):
        assert stats.chisquare(np.bincount(column[:, 0], minlength=values)).pvalue > ALPHA
    pairs = np.zeros((len(OPERATIONS), 2 * LEVELS))
    np.add.at(pairs, (chosen.operation[:, 0], 2 * chosen.level[:, 0] + chosen.negative[:, 0]), 1)
    assert stats.chi2_contingency(pairs).pvalue > ALPHA
    rand = draw_augmentations(RAND, 1, 2, samples, times)
    assert rand.operation.shape == (6000, 3)
    assert (rand.level == 12).all()
    for first, second in ((0, 1), (1, 2), (0, 2)):
        table = np.zeros((len(OPERATIONS), len(OPERATIONS)))
        np.add.at(table, (rand.operation[:, first], rand.operation[:, second]), 1)
        assert stats.chi2_contingency(table).pvalue > ALPHA


@pytest.mark.parametrize("settings", [RAND, TRIVIAL])
def test_they_are_a_function_of_seed_epoch_sample_and_occurrence(settings: AugmentSettings) -> None:
    def drawn(seed: int = 1, epoch: int = 2, samples: np.ndarray = MANY, times: Any = None) -> list[list[Any]]:
        return [column.tolist() for column in columns(draw_augmentations(settings, seed, epoch, samples, times))]

    assert drawn() == drawn() == drawn(times=np.zeros(6000, dtype=int))
    assert drawn(samples=MANY[[70, 3]]) == [[column[70], column[3]] for column in drawn()]
    others = [drawn(seed=2), drawn(epoch=3), drawn(times=np.ones(6000, dtype=int)), drawn(samples=MANY + 6000)]
    for other in others:
        assert 0.02 < np.mean(np.array(other[0])[:, 0] == np.array(drawn()[0])[:, 0]) < 0.15  # 1 / 14 by chance


def test_runs_stay_repeatable_over_versions() -> None:
    golden = draw_augmentations(TRIVIAL, 1, 2, np.arange(4))
    assert [column[:, 0].tolist() for column in columns(golden)] == GOLDEN


GOLDEN = [[13, 6, 8, 12], [22, 13, 30, 12], [False, False, False, True]]


def test_crops_draw_by_their_settings() -> None:
    assert TrainCrops(32).augmentations(1, 2, MANY) is None
    crops = TrainCrops(32, augment="randaugment", randaugment_ops=3, randaugment_magnitude=12)
    chosen = crops.augmentations(1, 2, MANY)
    assert chosen is not None
    for one, other in zip(columns(chosen), columns(draw_augmentations(RAND, 1, 2, MANY)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment": "autoaugment"}, "unknown value of augment 'autoaugment'"),
        ({"randaugment_ops": 0}, "randaugment_ops: expected a whole number from 1 to 100, got 0"),
        ({"randaugment_magnitude": 31}, "randaugment_magnitude: expected a whole number from 0 to 30, got 31"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    for kind in (AugmentSettings, lambda **given: TrainCrops(32, **given)):
        with pytest.raises(UserError, match=message):
            kind(**given)
