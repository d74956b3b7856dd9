"""Intervals of figures that are no mean over classes: the figures themselves, coverage, pairs, and what tells nothing."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlift.evaluation import resampling
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.intervals import wilson
from fastlift.evaluation.resampling import RESAMPLED, Answers, draw

IMAGES = [40, 7, 0, 25, 12, 30]  # of each class


def drawn(seed: int, broken: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits [n, C] and labels [n]; some of the logits are NaN."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(IMAGES)), IMAGES))
    logits = generator.standard_normal((len(labels), len(IMAGES)), dtype=np.float32)
    logits[np.arange(len(labels)), labels] += np.linspace(0.5, 2.5, len(IMAGES), dtype=np.float32)[labels]
    logits *= np.float32(1.5)  # nearly calibrated
    logits[:broken] = np.nan
    return logits, labels


def said(seed: int, broken: int = 0) -> Answers:
    """What an evaluation keeps of each image."""
    logits, labels = drawn(seed, broken)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = np.where(np.isnan(logits[:, 0]), -1, logits.argmax(axis=1)).astype(np.int32)
    own = probabilities[np.arange(len(labels)), labels]
    return Answers(labels.astype(np.int32), predicted, probabilities.max(axis=1), own)


def figures(answers: Answers) -> dict[str, float]:
    """Those of all images once."""
    images = np.bincount(answers.labels, minlength=len(IMAGES))
    found = resampling._Columns.of(answers, images).figures(np.arange(len(answers.labels)))
    return dict(zip(RESAMPLED, found, strict=True))


@pytest.mark.parametrize("broken", [0, 9])
def test_the_figures_are_those_of_the_evaluation(broken: int) -> None:
    """Of every image once; and the draws lie around them."""
    logits, labels = drawn(0, broken)
    accumulator = ClassificationAccumulator(len(IMAGES))
    accumulator.update(torch.from_numpy(logits), torch.from_numpy(labels))
    metrics, answers = accumulator.compute([1] * len(IMAGES)), said(0, broken)
    found, draws = figures(answers), draw(answers, len(IMAGES))
    assert found == pytest.approx({name: getattr(metrics, name) for name in RESAMPLED}, rel=1e-5)
    for name, value in found.items():
        low, high = draws.interval(name, value) or (0.0, 0.0)
        assert low < value < high
        assert draw(answers, len(IMAGES)).interval(name, value) == (low, high), "drawn the same each time"


def test_the_log_loss_varies_as_a_mean_of_classes_does() -> None:
    answers = said(1)
    losses = -np.log(answers.label_probability)
    variances = [losses[answers.labels == c].var() * n for c, n in enumerate(IMAGES) if n]
    error = np.sqrt(sum(variances)) / sum(IMAGES)
    low, high = draw(answers, len(IMAGES)).interval("log_loss", figures(answers)["log_loss"]) or (0.0, 0.0)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def held_of_80(monkeypatch: pytest.MonkeyPatch, images: list[int]) -> dict[str, int]:
    """In how many of 80 test sets an interval holds what other sets give on average; with few draws."""
    monkeypatch.setattr(sys.modules[__name__], "IMAGES", images)
    monkeypatch.setattr(resampling, "DRAWS", 200)
    others = [figures(said(seed)) for seed in range(1000, 1400)]
    truth = {name: np.mean([other[name] for other in others]) for name in RESAMPLED}
    held = dict.fromkeys(RESAMPLED, 0)
    for seed in range(80):
        answers = said(seed)
        draws = draw(answers, len(IMAGES))
        for name, value in figures(answers).items():
            low, high = draws.interval(name, value) or (0.0, 0.0)
            held[name] += low <= truth[name] <= high
    return held


@pytest.mark.parametrize("images", [IMAGES, [4] * 20])
def test_they_hold_the_truth_as_often_as_they_say(images: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many and of few images a class; a calibration error that is chance for a good part."""
    held = held_of_80(monkeypatch, images)
    assert all(count >= 71 for count in held.values()), held  # 95 % would be 76
    assert min(held.values()) < 80


def test_intervals_that_are_too_narrow_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 %, since 80 test sets do not tell 90 from 95; that of the calibration error holds more than it says."""
    monkeypatch.setattr(resampling, "middle", lambda draws: tuple(np.quantile(draws, [0.1, 0.9])))
    held = held_of_80(monkeypatch, IMAGES)
    assert max(held["macro_f1"], held["log_loss"]) < 71


def test_two_models_are_drawn_in_pairs() -> None:
    """The same images: what both have alike cancels."""
    answers = said(2)
    wrong = np.flatnonzero(answers.predicted != answers.labels)[::4]
    predicted = answers.predicted.copy()
    predicted[wrong] = answers.labels[wrong]
    better = replace(answers, predicted=predicted)
    one, other = draw(answers, len(IMAGES)), draw(better, len(IMAGES))
    assert one.difference(one, "macro_f1", 0.0) == (0.0, 0.0)
    before, after = figures(answers)["macro_f1"], figures(better)["macro_f1"]
    low, high = one.difference(other, "macro_f1", after - before) or (0.0, 0.0)
    apart = one.interval("macro_f1", before) or (0.0, 0.0)
    assert 0 < low < after - before < high
    assert high - low < 0.6 * np.sqrt(2) * (apart[1] - apart[0]), "of two test sets it would be 1 times that"


def test_where_nothing_varies_or_nothing_tells() -> None:
    answers = said(3)
    perfect = draw(replace(answers, predicted=answers.labels), len(IMAGES))
    assert perfect.interval("macro_f1", 100.0) == pytest.approx([100 * bound for bound in wilson(114, 114)])
    lost = answers.label_probability.copy()
    lost[5] = 0
    draws = draw(replace(answers, label_probability=lost), len(IMAGES))
    assert draws.interval("log_loss", 1.0) is None
    assert draws.difference(draws, "log_loss", 0.0) is None
    assert draws.interval("macro_f1", 50.0) is not None
    sure = draw(replace(answers, predicted=answers.labels, confidence=np.ones_like(lost)), len(IMAGES))
    assert sure.interval("expected_calibration_error", 0.0) == (0.0, 0.0)
    nothing = draw(replace(answers, predicted=np.full_like(answers.predicted, -1)), len(IMAGES))
    assert nothing.interval("macro_f1", 0.0) == pytest.approx([100 * bound for bound in wilson(0, 114)])


def test_of_a_million_images_fewer_sets_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_MOST_DRAWN", 300 * 114)
    answers = said(4)
    assert len(draw(answers, len(IMAGES)).macro_f1) == 300
