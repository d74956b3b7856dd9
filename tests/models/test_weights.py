"""A fingerprint of weights changes with what it names, and with nothing else."""

import pytest
import torch

from fastlift.models.weights import weights_fingerprint

WEIGHTS = {"a": torch.randn(301, 77), "scale": torch.tensor(1.5), "half": torch.randn(5).bfloat16()}
KNOWN = weights_fingerprint(WEIGHTS.items())


def test_same_for_copies_views_and_any_number_of_threads() -> None:
    assert weights_fingerprint({name: tensor.clone() for name, tensor in WEIGHTS.items()}.items()) == KNOWN
    assert weights_fingerprint((WEIGHTS | {"a": WEIGHTS["a"].t().contiguous().t()}).items()) == KNOWN
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        assert weights_fingerprint(WEIGHTS.items()) == KNOWN
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("row", [0, 150, 300])
def test_every_weight_counts(row: int) -> None:
    changed = WEIGHTS["a"].clone()
    changed[row, 38] = torch.nextafter(changed[row, 38], torch.tensor(9.0))
    assert weights_fingerprint((WEIGHTS | {"a": changed}).items()) != KNOWN


def test_order_names_and_dtypes_count() -> None:
    assert weights_fingerprint((WEIGHTS | {"a": WEIGHTS["a"].flip(0)}).items()) != KNOWN
    assert weights_fingerprint((WEIGHTS | {"a": WEIGHTS["a"].reshape(77, 301)}).items()) != KNOWN
    assert weights_fingerprint((WEIGHTS | {"half": WEIGHTS["half"].float()}).items()) != KNOWN
    assert weights_fingerprint((f"{name}.", tensor) for name, tensor in WEIGHTS.items()) != KNOWN
