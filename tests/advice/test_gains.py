"""What more images bring, on classes whose truth is known: intervals hold it as often as they say, and plans pay."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from fastlift.advice.gains import Predictor, check
from fastlift.advice.learning_curves import LEVELS, Counts

CLASSES = 60


def truth(images: np.ndarray, offset: np.ndarray, g: float) -> np.ndarray:
    """Accuracy of classes that follow the law, [C] or [C, L]."""
    common = 0.9 * (1 - 0.75 * np.maximum(images, 1.0) ** -g)
    return expit(logit(common) + offset.reshape(-1, *[1] * (images.ndim - 1)))


def simulated(seed: int, g: float = 0.45, per_class: int = 30) -> tuple[Counts, np.ndarray, np.ndarray]:
    """Counts of a long tail, today's numbers, and the offsets; an image that is right with few images is right with more."""
    generator = np.random.default_rng(seed)
    now = np.round(300 * (3 / 300) ** (np.arange(CLASSES) / (CLASSES - 1))).astype(np.int64)
    images = np.maximum(1.0, np.round(now[:, None] / 2.0 ** np.arange(LEVELS)))
    offset = generator.normal(0, 0.7, CLASSES)
    ease = generator.uniform(size=(CLASSES, 1, per_class))
    right = ease < truth(images, offset, g)[:, :, None]  # [C, L, H]
    full = right[:, :1]
    gained, lost = (full & ~right).sum(axis=2), (~full & right).sum(axis=2)
    counts = Counts(images, right.sum(axis=2), np.full(CLASSES, per_class), gained, lost, apart=True)
    return counts, now, offset


@pytest.fixture(scope="module")
def predictors() -> list[tuple[Predictor, np.ndarray, np.ndarray]]:
    found = []
    for seed in range(8):
        counts, now, offset = simulated(seed)
        found.append((Predictor(counts, now, np.full(CLASSES, 1 / CLASSES)), now, offset))
    return found


def test_intervals_hold_the_truth(predictors: list) -> None:
    """Of twice as many images of each class: at least 90 % of 480 intervals that say 95 %."""
    inside = []
    for predictor, now, offset in predictors:
        gains = 100 * (truth(2.0 * now, offset, 0.45) - truth(1.0 * now, offset, 0.45))
        for label, gain in enumerate(gains):
            told = predictor.of_class(label, float(now[label]))
            assert told is not None
            inside.append(told.low <= gain <= told.high)
    assert np.mean(inside) >= 0.9


def test_intervals_of_the_figure_hold_the_truth(predictors: list) -> None:
    """Of the mean over the classes, with twice the images and by the plan."""
    inside = []
    for predictor, now, offset in predictors:
        for more in (now, predictor.plan(300)):
            gain = 100 * (truth(now + more.astype(float), offset, 0.45) - truth(1.0 * now, offset, 0.45)).mean()
            told = predictor.of_figure(more.astype(np.float64))
            inside.append(told.low <= gain <= told.high)
    assert np.mean(inside) >= 0.9


def test_checks_on_subsets_say_how_wrong_predictions_are(predictors: list) -> None:
    """Coverage near what the intervals say, and an error no larger than of saying nothing."""
    for factor in (2, 4, 8):
        checks = [one for predictor, _, _ in predictors for one in predictor.checks if one.factor == factor]
        assert len(checks) == 8
        assert 0.88 <= np.mean([one.coverage for one in checks]) <= 1
        assert np.mean([one.error for one in checks]) < np.mean([one.error_of_none for one in checks])
        assert np.mean([abs(one.predicted - one.measured) for one in checks]) < 2.5
        assert all(one.measured > 0 for one in checks)


def test_the_plan_pays_more_than_other_ways(predictors: list) -> None:
    """By the truth: a plan of 300 images brings more than 300 spread as the classes are, and more than evenly, on average."""
    by_plan, even, proportional = [], [], []
    for predictor, now, offset in predictors:
        before = truth(1.0 * now, offset, 0.45).mean()
        for more, kept in (
            (predictor.plan(300), by_plan), (np.full(CLASSES, 5.0), even), (300 * now / now.sum(), proportional)
        ):  # fmt: skip
            kept.append(truth(now + more, offset, 0.45).mean() - before)
    assert np.mean(by_plan) > np.mean(even) > np.mean(proportional)


def test_a_plan_spends_the_budget_within_what_was_checked(predictors: list) -> None:
    predictor, now, _ = predictors[0]
    plan = predictor.plan(300)
    assert plan.sum() == 300
    assert ((now + plan) / now <= predictor.most).all()
    assert predictor.plan(7).sum() == 7
    assert predictor.plan(10**9).sum() <= (predictor.most - 1) * now.sum()


def test_where_images_bring_nothing_no_gain_is_told() -> None:
    """Flat classes: of 6 runs at most one tells a gain of the figure."""
    told = 0
    for seed in range(6):
        counts, now, _ = simulated(seed, g=1e-9)
        told += Predictor(counts, now, np.full(CLASSES, 1 / CLASSES)).of_figure(1.0 * now).is_told
    assert told <= 1


def test_beyond_what_was_checked_nothing_is_told(predictors: list) -> None:
    predictor, now, _ = predictors[0]
    assert predictor.most == 8
    assert predictor.of_class(CLASSES - 1, 7.0 * now[-1]) is not None
    assert predictor.of_class(CLASSES - 1, 7.0 * now[-1] + 1) is None


def test_classes_of_one_image_cannot_be_told() -> None:
    counts, now, _ = simulated(0)
    now[-1], counts.held[-2] = 1, 0
    predictor = Predictor(counts, now, np.full(CLASSES, 1 / CLASSES))
    assert predictor.of_class(CLASSES - 1, 1.0) is None
    assert predictor.of_class(CLASSES - 2, 1.0) is None
    assert predictor.plan(200)[-2:].tolist() == [0, 0]


def test_too_few_classes_are_not_checked() -> None:
    counts, now, _ = simulated(0)
    few = Counts(*(getattr(counts, name)[:5] for name in ("images", "right", "held", "gained", "lost")), apart=True)
    assert check(few, 1) is None
    predictor = Predictor(few, now[:5], np.full(5, 0.2))
    assert predictor.most == 1
    assert predictor.plan(100).sum() == 0
    assert predictor.of_class(0, 10.0) is None


def test_counted_gains_are_those_of_the_answers() -> None:
    """With many held-out images, what was counted is the true gain from a half to all."""
    counts, now, offset = simulated(0, per_class=4000)
    found = check(counts, 1)
    assert found is not None
    compared = counts.images[:, 0] > 1.5 * counts.images[:, 1]
    gains = truth(counts.images[:, 0], offset, 0.45) - truth(counts.images[:, 1], offset, 0.45)
    assert found.measured == pytest.approx(100 * gains[compared].mean(), abs=1.5)
    assert found.classes == compared.sum()
    assert len(now) == CLASSES
