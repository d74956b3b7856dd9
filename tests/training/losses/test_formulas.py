"""Losses: formulas against plain arithmetic in float64, gradients by finite differences, the same on every device."""

import copy
import pickle
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.models import classifiers
from fastlift.training import losses

COUNTS = (100, 40, 20, 7, 2)
NAMES = get_args(losses.LossName)
SOFT = ("CE", "CB", "GRW", "BS", "LA")  # those with soft labels


def batch(size: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(size, len(COUNTS), dtype=torch.float64) * 3, torch.arange(size) % len(COUNTS)


def double(loss: losses.Loss) -> losses.Loss:
    return loss.double()


def log_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.log_softmax(dim=1)[torch.arange(len(labels)), labels]


def test_ce() -> None:
    z, y = batch()
    torch.testing.assert_close(losses.build("CE", COUNTS)(z, y), -log_softmax(z, y).mean())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal(gamma: float) -> None:
    z, y = batch()
    q = log_softmax(z, y).exp()
    torch.testing.assert_close(losses.build("Focal", COUNTS, gamma=gamma)(z, y), ((1 - q) ** gamma * -q.log()).mean())


def test_ldam() -> None:
    z, y = batch()
    margins = 0.5 * (torch.tensor(COUNTS, dtype=torch.float64) / min(COUNTS)) ** -0.25
    lowered = z.clone()
    for i, label in enumerate(y):
        lowered[i, label] -= 30 * margins[label]
    torch.testing.assert_close(
        double(losses.build("LDAM", COUNTS, scale=30.0))(z, y), -log_softmax(lowered, y).mean(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("name", ["CB", "GRW"])
def test_weighted(name: str) -> None:
    z, y = batch()
    n = torch.tensor(COUNTS, dtype=torch.float64)
    weight = (1 - 0.9999) / (1 - 0.9999**n) if name == "CB" else n.sum() / n
    weight = weight / weight.mean()
    expected = -(weight[y] * log_softmax(z, y)).sum() / weight[y].sum()
    torch.testing.assert_close(double(losses.build(name, COUNTS))(z, y), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "tau"), [("BS", {}, 1.0), ("LA", {}, 1.0), ("LA", {"tau": 1.7}, 1.7), ("LA", {"tau": 0.0}, 0.0)]
)
def test_logit_adjustment(name: str, options: dict[str, float], tau: float) -> None:
    z, y = batch()
    n = torch.tensor(COUNTS, dtype=torch.float64)
    adjusted = z + tau * (n / n.sum()).log()
    torch.testing.assert_close(
        double(losses.build(name, COUNTS, **options))(z, y), -log_softmax(adjusted, y).mean(), rtol=1e-6, atol=0
    )


def weights_of(name: str) -> Tensor:
    n = torch.tensor(COUNTS, dtype=torch.float64)
    weight = {"CB": (1 - 0.9999) / (1 - 0.9999**n), "GRW": n.sum() / n}.get(name, torch.ones_like(n))
    return weight / weight.mean()


def prior_of(name: str) -> Tensor:
    n = torch.tensor(COUNTS, dtype=torch.float64)
    return (n / n.sum()).log() if name in ("BS", "LA") else torch.zeros_like(n)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
@pytest.mark.parametrize("name", SOFT)
def test_label_smoothing(name: str, smoothing: float) -> None:
    """By hand, and as torch has it; the prior shifts the logits, not the smoothed label."""
    z, y = batch()
    shifted, weight = z + prior_of(name), weights_of(name)
    soft = (1 - smoothing) * F.one_hot(y, len(COUNTS)) + smoothing / len(COUNTS)
    by_hand = -(weight * soft * shifted.log_softmax(dim=1)).sum() / weight[y].sum()
    found = double(losses.build(name, COUNTS, label_smoothing=smoothing))(z, y)
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=0)
    torchs = F.cross_entropy(shifted, y, weight, label_smoothing=smoothing)
    torch.testing.assert_close(found, torchs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("classifier", ["cosine", "linear", "l2", "layernorm"])
@pytest.mark.parametrize("name", SOFT)
def test_label_smoothing_from_features(name: str, classifier: str, device: torch.device) -> None:
    """Through the fused op: loss and gradients as those of torch's own on the logits, in float64."""
    head = classifiers.CLASSIFIERS[classifier](16, len(COUNTS))
    features, (_, y) = torch.randn(9, 16, requires_grad=True), batch()
    expected_loss = F.cross_entropy(head(features).double() + prior_of(name), y, weights_of(name), label_smoothing=0.2)
    expected = torch.autograd.grad(expected_loss, [features, *head.parameters()])
    loss, head = losses.build(name, COUNTS, label_smoothing=0.2).to(device), head.to(device)
    leaf = features.detach().to(device).requires_grad_()
    value, _ = loss.on_features(head, leaf, y.to(device))
    torch.testing.assert_close(value.double().cpu(), expected_loss, rtol=1e-6, atol=1e-6)
    for found, wanted in zip(torch.autograd.grad(value, [leaf, *head.parameters()]), expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6)


def test_lade() -> None:
    z, y = batch()
    n = torch.tensor(COUNTS, dtype=torch.float64)
    p, classes = n / n.sum(), len(COUNTS)
    total = torch.zeros((), dtype=torch.float64)
    for c in range(classes):
        own = z[y == c, c]
        spread = z[:, c] - torch.log(p[c] + 1e-9) + np.log(1 / classes + 1e-9)
        divergence = torch.log(spread.exp().mean())
        total = total + p[c] * (own.mean() - divergence - 0.1 * divergence**2)
    expected = -log_softmax(z + p.log(), y).mean() - 0.1 * total
    torch.testing.assert_close(double(losses.build("LADE", COUNTS))(z, y), expected, rtol=1e-6, atol=0)


def test_lade_with_classes_that_are_not_in_the_batch() -> None:
    z, _ = batch(3)
    assert torch.isfinite(losses.build("LADE", COUNTS)(z, torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    z, y = batch(6)
    loss = double(losses.build(name, COUNTS))
    assert torch.autograd.gradcheck(lambda logits: loss(logits, y), (z.requires_grad_(True),))


@pytest.mark.parametrize("name", NAMES)
def test_on_every_device(name: str, device: torch.device) -> None:
    """Value and gradient in fp32 as in float64 on the CPU, and the same bits again."""
    z, y = batch(40)
    loss = losses.build(name, COUNTS)
    exact = z.clone().requires_grad_()
    double(copy.deepcopy(loss))(exact, y).backward()
    loss.to(device)
    found = []
    for _ in range(2):
        ours = z.float().to(device).requires_grad_()
        value = loss(ours, y.to(device))
        value.backward()
        found.append((value.detach().cpu(), ours.grad.cpu()))
    expected = (double(copy.deepcopy(loss).cpu())(z, y), exact.grad)
    for one, again, wanted in zip(*found, expected, strict=True):
        torch.testing.assert_close(one.double(), wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(one, again)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classifier", ["cosine", "linear", "l2", "layernorm"])
def test_from_features_is_the_same_as_from_logits(name: str, classifier: str, device: torch.device) -> None:
    loss, head = losses.build(name, COUNTS).to(device), classifiers.CLASSIFIERS[classifier](16, len(COUNTS)).to(device)
    features, y = torch.randn(9, 16).to(device).requires_grad_(), batch()[1].to(device)
    plain = loss(head(features), y)
    expected = torch.autograd.grad(plain, [features, *head.parameters()])
    value, predictions = loss.on_features(head, features, y)
    torch.testing.assert_close(value, plain)
    assert torch.equal(predictions, head(features).argmax(dim=1))
    for found, wanted in zip(torch.autograd.grad(value, [features, *head.parameters()]), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_they_travel(name: str) -> None:
    """Pickled, copied, and moved to another dtype, a loss still gives the same value; its state is in buffers."""
    z, y = batch()
    loss = losses.build(name, COUNTS)
    expected = loss(z, y)
    for other in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(other(z, y), expected)
    assert not list(loss.parameters())


def test_ordinary_cross_entropy_is_a_special_case() -> None:
    z, y = batch()
    even = losses.build("LA", [10] * len(COUNTS))
    torch.testing.assert_close(double(even)(z, y), F.cross_entropy(z, y), rtol=1e-6, atol=0)
