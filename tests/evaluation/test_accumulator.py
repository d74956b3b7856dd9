"""Counts that add up on the device: in any order and number of parts, without waiting for it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from logits import counts_of, drawn, logits_for

from fastlift.errors import UserError
from fastlift.evaluation.accumulator import ClassificationAccumulator

cases = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**31 - 1))


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


@given(cases, st.integers(0, 60))
def test_merged_parts_equal_the_whole_bit_for_bit(case: tuple[int, int, int], cut: int) -> None:
    samples, classes, seed = case
    logits, labels = drawn(samples, classes, seed)
    cut = min(cut, samples)
    first, second = counts_of(logits[:cut], labels[:cut]), counts_of(logits[cut:], labels[cut:])
    for name, tensor in first.state().items():
        tensor += second.state()[name]
    counts = list(range(10, 10 + classes))
    assert first.compute(counts) == counts_of(logits, labels).compute(counts)


@given(cases)
def test_order_does_not_matter(case: tuple[int, int, int]) -> None:
    samples, classes, seed = case
    logits, labels = drawn(samples, classes, seed)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    counts = list(range(15, 15 + classes))
    assert counts_of(logits[order], labels[order]).compute(counts) == counts_of(logits, labels).compute(counts)


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


def test_confusion_matrix_is_of_few_classes() -> None:
    logits, labels = drawn(300, 5, sharpness=0.0)
    assert len(counts_of(logits, labels).compute([9] * 5).confusions) == 20
    assert "confusion" in ClassificationAccumulator(1024).state()
    many = ClassificationAccumulator(1025)
    many.update(torch.randn(4, 1025), torch.arange(4))
    assert many.compute([9] * 1025).confusions == ()


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
