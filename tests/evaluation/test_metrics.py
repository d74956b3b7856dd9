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
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

from fastlift.errors import UserError
from fastlift.evaluation.accumulator import ClassificationAccumulator
from fastlift.evaluation.metrics import Metrics, geometric_mean, harmonic_mean


def counts_of(logits: torch.Tensor, labels: torch.Tensor, confusion: bool | None = None) -> ClassificationAccumulator:
    accumulator = ClassificationAccumulator(logits.shape[1], confusion=confusion)
    accumulator.update(logits, labels)
    return accumulator


def drawn(samples: int, classes: int, seed: int = 0, sharpness: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator)
    logits[torch.arange(samples), labels] += sharpness
    return logits, labels


def logits_for(predictions: list[int], classes: int, confidence: float = 0.9) -> torch.Tensor:
    """Logits whose softmax gives ``confidence`` to the prediction and shares the rest equally."""
    probabilities = torch.full((len(predictions), classes), (1 - confidence) / (classes - 1))
    probabilities[torch.arange(len(predictions)), torch.tensor(predictions)] = confidence
    return probabilities.log()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_counts_are_those_of_the_cpu(device: torch.device, dtype: torch.dtype) -> None:
    """To the last image; sums of confidences and losses to the rounding of fp32, and the same bits again."""
    logits, labels = drawn(300, 7)
    logits[5, 3], labels[9] = torch.nan, -1
    here, again = ClassificationAccumulator(7, device), ClassificationAccumulator(7, device)
    for accumulator in (here, again):
        for part in torch.arange(300).split(64):
            accumulator.update(logits[part].to(device, dtype), labels[part].to(device))
    expected = counts_of(logits.to(dtype), labels).state()
    for name, counted in here.state().items():
        assert torch.equal(counted, again.state()[name])
        if name in ("bin_confidence", "loss_sum"):
            torch.testing.assert_close(counted.cpu().double(), expected[name].double(), rtol=1e-5, atol=2.0**12)
        else:
            assert torch.equal(counted.cpu(), expected[name]), name


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


@given(cases, st.integers(0, 60))
def test_merged_parts_equal_the_whole_bit_for_bit(case: tuple[int, int, int], cut: int) -> None:
    samples, classes, seed = case
    logits, labels = drawn(samples, classes, seed)
    cut = min(cut, samples)
    first, second = counts_of(logits[:cut], labels[:cut]), counts_of(logits[cut:], labels[cut:])
    first.merge(second.state())
    counts = list(range(10, 10 + classes))
    assert first.compute(counts) == counts_of(logits, labels).compute(counts)


@given(cases)
def test_order_does_not_matter(case: tuple[int, int, int]) -> None:
    samples, classes, seed = case
    logits, labels = drawn(samples, classes, seed)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    counts = list(range(15, 15 + classes))
    assert counts_of(logits[order], labels[order]).compute(counts) == counts_of(logits, labels).compute(counts)


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


def test_summing_states_in_place_joins_ranks() -> None:
    logits, labels = drawn(90, 7)
    parts = [counts_of(logits[rank::3], labels[rank::3]) for rank in range(3)]
    for name, tensor in parts[0].state().items():  # what all_reduce does on each rank
        tensor += parts[1].state()[name] + parts[2].state()[name]
    assert parts[0].compute([20] * 7) == counts_of(logits, labels).compute([20] * 7)


def test_padding_is_skipped() -> None:
    logits, labels = drawn(40, 5)
    padded = torch.cat([logits, torch.full((3, 5), torch.nan)]), torch.cat([labels, torch.tensor([-1, -100, -1])])
    assert counts_of(*padded).compute([20] * 5) == counts_of(logits, labels).compute([20] * 5)


def test_non_finite_logits_count_as_wrong() -> None:
    logits = logits_for([0, 0, 1, 1], 2)
    logits[0] = torch.nan
    logits[2, 0] = torch.inf
    metrics = counts_of(logits, torch.tensor([0, 0, 1, 1])).compute([5, 5])
    assert metrics.non_finite == 2
    assert metrics.accuracy == 50.0
    assert sum(entry.count for entry in metrics.calibration) == 2
    assert metrics.log_loss == pytest.approx(-np.log(0.9), rel=1e-5)
    broken = counts_of(torch.full((2, 2), torch.nan), torch.tensor([0, 1])).compute([5, 5])
    assert broken.accuracy == 0.0
    assert broken.expected_calibration_error is None
    assert broken.log_loss is None
    json.dumps(broken.to_dict(), allow_nan=False)


def test_masked_class_does_not_overflow_the_loss() -> None:
    metrics = counts_of(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1])).compute([5, 5])
    assert metrics.non_finite == 0
    assert metrics.log_loss == 1000.0


def test_low_precision_logits() -> None:
    logits, labels = drawn(200, 6)
    rounded = logits.bfloat16()
    assert counts_of(rounded, labels).compute([9] * 6) == counts_of(rounded.float(), labels).compute([9] * 6)


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


def test_confusion_matrix_is_optional() -> None:
    logits, labels = drawn(300, 5, sharpness=0.0)
    with_matrix, without = counts_of(logits, labels, confusion=True), counts_of(logits, labels, confusion=False)
    assert len(with_matrix.compute([9] * 5).confusions) == 20
    assert without.compute([9] * 5).confusions == ()
    assert "confusion" not in ClassificationAccumulator(1025).state()
    assert "confusion" in ClassificationAccumulator(1024).state()
    with pytest.raises(ValueError, match="different make"):
        with_matrix.merge(without.state())


def test_accumulator_made_in_inference_mode_can_be_summed_outside() -> None:
    logits, labels = drawn(10, 3)
    with torch.inference_mode():
        accumulator = counts_of(logits, labels)
    for tensor in accumulator.state().values():
        tensor += 0
    assert accumulator.compute([9, 9, 9]).samples == 10


def test_update_reads_no_value_back() -> None:
    """So that a GPU is never waited for. Meta tensors have no values: whatever would bring one to the host raises."""
    accumulator = ClassificationAccumulator(5, "meta")
    labels = torch.empty(8, dtype=torch.int64, device="meta")
    for reads in (torch.bincount, torch.nonzero):
        with pytest.raises(NotImplementedError):
            reads(labels)
    accumulator.update(torch.empty(8, 5, device="meta"), labels)
    assert {tensor.device.type for tensor in accumulator.state().values()} == {"meta"}


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ClassificationAccumulator(0)
    accumulator = ClassificationAccumulator(3)
    with pytest.raises(UserError, match="nothing to evaluate"):
        accumulator.compute([1, 2, 3])
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        accumulator.update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels"):
        accumulator.update(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    accumulator.update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match="2 training counts"):
        accumulator.compute([1, 2])


def test_importing_metrics_does_not_import_torch() -> None:
    code = "import sys, fastlift.evaluation.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
