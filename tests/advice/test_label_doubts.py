"""Wrong labels that were planted are found, and how many is told honestly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from advice.clouds import clouds

from fastlift.advice.label_doubts import Judged, judge, judge_across, plant, planted_found
from fastlift.advice.probe import SCALE, Probe

COUNTS = [80, 50, 30, 20, 12, 8]


def test_planted_labels_come_first() -> None:
    """Of 5 % wrong labels of well-parted classes, 90 % of as many most doubtful images are found."""
    features, labels, _ = clouds(COUNTS, spread=0.15)
    probe = Probe(None, 0.1, len(COUNTS))
    given = judge_across(probe, features, labels, seed=0)
    changed, to_any, to_alike = plant(labels.numpy(), given.suggested, len(COUNTS), seed=0)
    found = planted_found(judge_across(probe, features, torch.from_numpy(changed), seed=0), to_any, to_alike)
    assert found.planted == 10
    assert found.found >= 9
    assert found.found == found.of_any[0] + found.of_alike[0]
    assert found.found_in_twice >= found.found


def test_a_label_is_judged_without_its_own_image() -> None:
    """An image far from everything is learned by heart where it is seen; across folds it is not."""
    features, labels, _ = clouds([30, 30], spread=0.1)
    features[0] = features[45]  # looks like the other class
    judged = judge_across(Probe(None, 0.03, 2), features, labels, seed=0)
    assert judged.score[0] > 0.9
    assert judged.order()[0] == 0
    assert judged.suggested[0] == 1


def test_scores_are_the_formula() -> None:
    """p(other) / (p(other) + p(label)) with the prior, from a softmax written out."""
    features, labels, centres = clouds([10, 6, 4], spread=0.6)
    log_prior = torch.tensor([0.5, 0.3, 0.2]).log()
    judged = judge(centres, features, labels, log_prior)
    p = (SCALE * features @ centres.T + log_prior).softmax(dim=1).double()
    own = p[torch.arange(20), labels]
    others = p.clone()
    others[torch.arange(20), labels] = 0
    best, at = others.max(dim=1)
    np.testing.assert_allclose(judged.score, (best / (best + own)).numpy(), rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(judged.suggested, at.numpy())


def test_a_class_of_one_image_is_not_judged() -> None:
    features, labels, _ = clouds([20, 9, 1])
    judged = judge_across(Probe(None, 0.1, 3), features, labels, seed=0)
    assert np.isnan(judged.score[-1])
    assert not np.isnan(judged.score[:-1]).any()
    assert len(judged.order()) == 29


def test_planting_changes_what_it_says() -> None:
    labels = np.repeat(np.arange(5), 40)
    alike = (labels + 1) % 5
    changed, to_any, to_alike = plant(labels, alike, 5, seed=3)
    np.testing.assert_array_equal(np.flatnonzero(changed != labels), np.sort(np.concatenate([to_any, to_alike])))
    np.testing.assert_array_equal(changed[to_alike], alike[to_alike])
    assert len(to_any) == len(to_alike) == 5
    np.testing.assert_array_equal(changed, plant(labels, alike, 5, seed=3)[0])


def test_counts_of_what_was_found() -> None:
    """By hand: of places 0 to 9 the most doubtful are 3, 1, 7, 0; planted were 3 and 4 (any), 7 and 9 (alike)."""
    score = np.array([0.6, 0.8, 0.1, 0.9, 0.3, 0.2, 0.05, 0.7, np.nan, 0.5])
    found = planted_found(Judged(score, np.zeros(10, dtype=np.int64)), np.array([3, 4]), np.array([7, 9]))
    assert (found.planted, found.found, found.found_in_twice) == (4, 2, 4)
    assert found.of_any == (1, 2)
    assert found.of_alike == (1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_chance_finds_chance(seed: int) -> None:
    """Labels that features say nothing about: what is found is what a blind draw finds."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(400, 16, generator=generator), dim=1)
    labels = torch.randint(0, 4, (400,), generator=generator)
    probe = Probe(None, 0.3, 4)
    changed, to_any, to_alike = plant(labels.numpy(), (labels.numpy() + 1) % 4, 4, seed)
    found = planted_found(judge_across(probe, features, torch.from_numpy(changed), seed), to_any, to_alike)
    assert found.found <= 5  # of 20, where 1 is expected


def test_what_could_be_learned_by_heart_is_not() -> None:
    """Labels drawn at random, in so many dimensions that a fit on them is right for all: across folds it is right by chance."""
    features = torch.nn.functional.normalize(torch.randn(60, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(60) % 2
    probe = Probe(None, 1e-4, 2)
    by_heart = judge(probe.fit(features, labels), features, labels, torch.zeros(2))
    assert (by_heart.score < 0.5).all()
    assert 0.3 < (judge_across(probe, features, labels, seed=0).score > 0.5).mean() < 0.7
