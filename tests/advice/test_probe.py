"""The classifier on features: its optimum, and what holds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from advice.clouds import clouds

from fastlift.advice.probe import SCALE, Probe, choose_strength, folds_of, predicted


def objective(
    weight: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, start: torch.Tensor, strength: float
) -> float:
    """The probe's formula, written out."""
    rows = F.normalize(weight, dim=1)
    counts = torch.bincount(labels, minlength=len(rows)).float()
    loss = F.cross_entropy(SCALE * features @ rows.T + (counts / counts.sum()).log(), labels)
    return float(loss + strength * SCALE * (rows - start).square().sum(dim=1).mean())


def test_fit_is_the_minimum_of_the_formula() -> None:
    """Adam, which knows nothing of it, comes to no lower value."""
    features, labels, centres = clouds([30, 12, 5])
    start = F.normalize(centres + 0.3, dim=1)
    found = objective(Probe(start, 0.1, 3).fit(features, labels), features, labels, start, 0.1)
    weight = start.clone().requires_grad_()
    solver = torch.optim.Adam([weight], lr=0.03)
    for _ in range(150):
        solver.zero_grad()
        rows = F.normalize(weight, dim=1)
        counts = torch.bincount(labels).float()
        loss = F.cross_entropy(SCALE * features @ rows.T + (counts / counts.sum()).log(), labels)
        (loss + 0.1 * SCALE * (rows - start).square().sum() / 3).backward()
        solver.step()
    assert found < objective(weight.detach(), features, labels, start, 0.1) + 1e-4
    assert found < objective(start, features, labels, start, 0.1)


def test_a_class_without_an_image_keeps_its_start() -> None:
    features, labels, centres = clouds([20, 10, 0])
    weight = Probe(centres, 0.3, 3).fit(features, labels)
    assert float(weight[2] @ centres[2]) > 0.9
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(3))


def test_without_text_the_start_is_the_class_means() -> None:
    features, labels, _ = clouds([20, 10, 8])
    weight = Probe(None, 1e6, 3).fit(features, labels)
    means = torch.stack([F.normalize(features[labels == c].mean(dim=0), dim=0) for c in range(3)])
    torch.testing.assert_close(weight, means, rtol=0, atol=1e-3)


def test_predictions_know_the_clouds() -> None:
    features, labels, _ = clouds([40, 20, 10], spread=0.1)
    assert (predicted(Probe(None, 0.1, 3).fit(features, labels), features) == labels).all()


def test_a_wrong_start_is_held_less() -> None:
    """Where text misleads, held-out images ask for the weakest hold; where it is right, not."""
    features, labels, centres = clouds([12] * 6, spread=0.5)
    wrong = centres[torch.tensor([1, 2, 3, 4, 5, 0])]
    assert choose_strength(features, labels, wrong, 6, seed=0) < 0.3


def test_threads_are_given_back() -> None:
    features, labels, _ = clouds([5, 5])
    before = torch.get_num_threads()
    Probe(None, 0.1, 2).fit(features, labels)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_hold_each_class_evenly(folds: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [23, 10, 3, 1]))
    fold = folds_of(labels, folds, seed=0)
    for label in range(4):
        sizes = np.bincount(fold[labels == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, folds_of(labels, folds, seed=0))
    assert not np.array_equal(fold, folds_of(labels, folds, seed=1))
