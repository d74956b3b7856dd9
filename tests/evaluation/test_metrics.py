"""Metrics against hand-computed numbers, scikit-learn, scipy and torchmetrics, and their invariances."""

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from logits import counts_of, drawn, logits_for
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

from fastlift.errors import UserError
from fastlift.evaluation.metrics import Metrics, geometric_mean, harmonic_mean


def test_hand_computed() -> None:
    # class 0: 4 images, 3 right (one taken for 1); class 1: 2 images, 1 right (one taken for 2); class 2: 2 images, 2 right;
    # class 3: no image, so it counts nowhere.
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    predictions = [0, 0, 0, 1, 1, 2, 2, 2]
    metrics = counts_of(logits_for(predictions, 4), labels).compute([500, 100, 19, 5])
    assert metrics.samples == 8
    assert metrics.accuracy == 75.0
    assert (metrics.many, metrics.medium, metrics.few) == (75.0, 50.0, 100.0)
    assert metrics.group_sizes == {"many": 1, "medium": 1, "few": 1}
    assert metrics.mean_class_accuracy == 75.0
    assert metrics.per_class == (75.0, 50.0, 100.0, None)
    assert metrics.worst_class == 50.0
    # F1: 6/7, 2/4, 4/5
    assert metrics.macro_f1 == pytest.approx(100 * (6 / 7 + 1 / 2 + 4 / 5) / 3)
    assert metrics.harmonic_mean == pytest.approx(3 / (1 / 75 + 1 / 50 + 1 / 100))
    assert metrics.geometric_mean == pytest.approx((75 * 50 * 100) ** (1 / 3))
    assert metrics.expected_calibration_error == pytest.approx(15.0, abs=1e-4)
    assert metrics.log_loss == pytest.approx(-(6 * np.log(0.9) + 2 * np.log(0.1 / 3)) / 8, rel=1e-5)
    assert [(c.label, c.predicted, c.count) for c in metrics.confusions] == [(0, 1, 1), (1, 2, 1)]
    full = [entry for entry in metrics.calibration if entry.count]
    assert len(full) == 1
    assert full[0].lower <= 0.9 < full[0].upper
    assert full[0].accuracy == 75.0
    assert full[0].confidence == pytest.approx(90.0, abs=1e-4)


def test_empty_group_is_none() -> None:
    logits, labels = drawn(50, 3)
    metrics = counts_of(logits, labels).compute([5, 6, 7])
    assert metrics.many is None
    assert metrics.medium is None
    assert metrics.few == pytest.approx(metrics.mean_class_accuracy)


def test_class_at_zero() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    metrics = counts_of(logits_for([0, 0, 0, 0], 2), labels).compute([10, 10])
    assert metrics.worst_class == 0.0
    assert metrics.geometric_mean == 0.0
    assert metrics.harmonic_mean == pytest.approx(2 / (1 / 100 + 1 / 0.001))
    assert metrics.macro_f1 == pytest.approx(100 * (2 / 3) / 2)


def test_means_against_scipy() -> None:
    accuracies = np.random.default_rng(0).uniform(1, 100, 200)
    assert harmonic_mean(accuracies) == pytest.approx(scipy.stats.hmean(accuracies))
    assert geometric_mean(accuracies) == pytest.approx(scipy.stats.gmean(accuracies))
    with np.errstate(divide="ignore"):
        assert geometric_mean(np.array([0.0, 50.0])) == scipy.stats.gmean([0.0, 50.0]) == 0.0


def test_geometric_mean_of_many_classes_does_not_underflow() -> None:
    assert geometric_mean(np.full(8142, 40.0)) == pytest.approx(40.0)


@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (7, 3), (97, 5), (1000, 60)])
def test_against_scikit_learn(samples: int, classes: int) -> None:
    logits, labels = drawn(samples, classes)
    metrics = counts_of(logits, labels).compute([30] * classes)
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    present = np.unique(true)
    assert metrics.accuracy == pytest.approx(100 * sklearn.metrics.accuracy_score(true, predicted))
    macro_f1 = sklearn.metrics.f1_score(true, predicted, average="macro", labels=present, zero_division=0)
    assert metrics.macro_f1 == pytest.approx(100 * macro_f1)
    recalls = sklearn.metrics.recall_score(true, predicted, average=None, labels=present)
    assert [metrics.per_class[index] for index in present] == pytest.approx((100 * recalls).tolist())
    assert metrics.mean_class_accuracy == pytest.approx(100 * recalls.mean())
    assert metrics.worst_class == pytest.approx(100 * recalls.min())
    loss = sklearn.metrics.log_loss(true, logits.double().softmax(1).numpy(), labels=range(classes))
    assert metrics.log_loss == pytest.approx(loss, rel=1e-5)
    matrix = sklearn.metrics.confusion_matrix(true, predicted, labels=range(classes))
    for entry in metrics.confusions:
        assert matrix[entry.label, entry.predicted] == entry.count
    np.fill_diagonal(matrix, 0)
    assert [entry.count for entry in metrics.confusions] == sorted(matrix[matrix > 0].tolist(), reverse=True)[:50]


@pytest.mark.parametrize("sharpness", [0.0, 2.0, 6.0])
def test_against_torchmetrics(sharpness: float) -> None:
    logits, labels = drawn(2000, 20, sharpness=sharpness)
    metrics = counts_of(logits, labels).compute([30] * 20)
    error = multiclass_calibration_error(logits, labels, num_classes=20, n_bins=15, norm="l1")
    assert metrics.expected_calibration_error == pytest.approx(100 * error.item(), abs=1e-3)
    macro_f1 = multiclass_f1_score(logits, labels, num_classes=20, average="macro")
    assert metrics.macro_f1 == pytest.approx(100 * macro_f1.item(), abs=1e-4)


def test_confidence_of_exactly_one_is_in_the_last_bin() -> None:
    metrics = counts_of(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0])).compute([1, 1])
    assert metrics.calibration[-1].count == 2
    assert metrics.calibration[-1].confidence == 100.0
    assert metrics.expected_calibration_error == 50.0


cases = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**31 - 1))


@given(cases)
def test_figures_stay_within_their_bounds(case: tuple[int, int, int]) -> None:
    samples, classes, seed = case
    logits, labels = drawn(samples, classes, seed)
    metrics = counts_of(logits, labels).compute([30] * classes)
    assert 0 <= metrics.worst_class <= metrics.mean_class_accuracy <= 100 + 1e-9
    floor = 1e-9 + (0.001 if metrics.worst_class == 0 else 0)
    if metrics.worst_class > 0:
        assert metrics.worst_class - floor <= metrics.harmonic_mean <= metrics.geometric_mean + floor
        assert metrics.geometric_mean <= metrics.mean_class_accuracy + floor
    assert metrics.expected_calibration_error is not None
    assert 0 <= metrics.expected_calibration_error <= 100
    assert sum(entry.count for entry in metrics.calibration) == samples


def test_json_round_trip_and_summary() -> None:
    logits, labels = drawn(60, 4)
    metrics = counts_of(logits, labels).compute([200, 50, 10, 5])
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    assert Metrics.from_dict(json.loads(text)) == metrics
    assert Metrics.from_dict({**json.loads(text), "key_of_a_later_version": 1}) == metrics
    summary = metrics.summary()
    assert summary["accuracy"] == metrics.accuracy
    assert "per_class" not in summary
    assert "group_sizes" not in summary
    with pytest.raises(UserError, match="macro_f1"):
        Metrics.from_dict({name: value for name, value in metrics.to_dict().items() if name != "macro_f1"})


def test_importing_metrics_does_not_import_torch() -> None:
    code = "import sys, fastlift.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
