"""Losses: formulas against plain arithmetic in float64, gradients by finite differences, the same on every device."""

import copy
import pickle
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.data.loading.mixed import Mixed
from fastlift.errors import UserError
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


def mixed_batch(size: int = 9) -> tuple[Tensor, Tensor, Mixed, Tensor]:
    """Logits, labels of the larger shares, the rest of them, and the same as probabilities, by hand."""
    z, y = batch(size)
    mixed = Mixed((y * 3 + 1) % len(COUNTS), torch.linspace(0.5, 1, size))
    soft = torch.zeros(size, len(COUNTS), dtype=torch.float64)
    for i in range(size):
        soft[i, y[i]] += mixed.share[i]
        soft[i, mixed.other[i]] += 1 - mixed.share[i].double()
    return z, y, mixed, soft


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", SOFT)
def test_soft_labels(name: str, smoothing: float) -> None:
    """By hand, as torch has it with probabilities, and gradients; the mean is weighted by the classes of the labels."""
    z, _, _, soft = mixed_batch()
    z.requires_grad_()
    weight, smooth = weights_of(name), (1 - smoothing) * soft + smoothing / len(COUNTS)
    shifted = z + prior_of(name)
    by_hand = -(weight * smooth * shifted.log_softmax(dim=1)).sum() / (weight * soft).sum()
    found = double(losses.build(name, COUNTS, label_smoothing=smoothing))(z, soft)
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=0)
    expected = torch.autograd.grad(by_hand, z)[0]
    torch.testing.assert_close(torch.autograd.grad(found, z)[0], expected, rtol=1e-6, atol=1e-9)
    if name in ("CE", "BS", "LA"):
        torchs = F.cross_entropy(z + prior_of(name), soft, label_smoothing=smoothing)
        torch.testing.assert_close(found.detach(), torchs.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SOFT)
def test_probabilities_of_one_class_are_labels(name: str) -> None:
    z, y = batch()
    loss = double(losses.build(name, COUNTS, label_smoothing=0.1))
    torch.testing.assert_close(loss(z, F.one_hot(y, len(COUNTS)).double()), loss(z, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("classifier", ["cosine", "linear", "l2", "layernorm"])
@pytest.mark.parametrize("name", SOFT)
def test_mixed_labels_from_features(name: str, classifier: str, smoothing: float, device: torch.device) -> None:
    """Loss and gradients are the mean by shares of those of both labels, each image weighted by its labels' classes."""
    _, y, mixed, _ = mixed_batch()
    head, features = classifiers.CLASSIFIERS[classifier](16, len(COUNTS)), torch.randn(9, 16, requires_grad=True)
    shifted, weight, share = head(features).double() + prior_of(name), weights_of(name), mixed.share.double()
    of_both = [
        F.cross_entropy(shifted, labels, weight, reduction="none", label_smoothing=smoothing)
        for labels in (y, mixed.other)
    ]
    total = (share * weight[y] + (1 - share) * weight[mixed.other]).sum()
    by_hand = (share * of_both[0] + (1 - share) * of_both[1]).sum() / total
    expected = torch.autograd.grad(by_hand, [features, *head.parameters()])
    loss, head = losses.build(name, COUNTS, label_smoothing=smoothing).to(device), head.to(device)
    leaf, moved = features.detach().to(device).requires_grad_(), Mixed(*[one.to(device) for one in mixed])
    value, predictions = loss.on_mixed(head, leaf, y.to(device), moved)
    torch.testing.assert_close(value.double().cpu(), by_hand, rtol=1e-6, atol=1e-6)
    assert torch.equal(predictions.cpu(), head.cpu()(features).argmax(dim=1))
    head.to(device)
    for found, wanted in zip(torch.autograd.grad(value, [leaf, *head.parameters()]), expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["CE", "CB"])
def test_parts_of_a_mixed_batch_count_as_much_as_their_labels(name: str) -> None:
    """Of a batch of pairs, which is cut within one: the parts' losses make up the whole's."""
    z, y = batch(6)
    partners = y.view(3, 2).flip(1).flatten()
    mixed = Mixed(partners, torch.tensor([0.6, 0.75, 0.9]).repeat_interleave(2))
    loss = double(losses.build(name, COUNTS))
    weight, share = weights_of(name), mixed.share.double()
    total = weight[y].sum()  # as unmixed: both of each pair are there
    torch.testing.assert_close((share * weight[y] + (1 - share) * weight[partners]).sum(), total)
    parts = []
    for rows in (slice(0, 3), slice(3, 4), slice(4, 6)):
        part = loss(z[rows], mixed.of(rows).soft(y[rows], len(COUNTS), torch.float64))
        parts.append(part * loss.mixed_share(y[rows], y, mixed.of(rows)))
    whole = loss(z, mixed.soft(y, len(COUNTS), torch.float64))
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SOFT)))
def test_losses_of_one_label_refuse_mixed_images(name: str) -> None:
    _, y, mixed, _ = mixed_batch()
    with pytest.raises(UserError, match="Loss has no soft labels: images cannot be mixed"):
        losses.build(name, COUNTS).on_mixed(
            classifiers.CLASSIFIERS["cosine"](16, len(COUNTS)), torch.randn(9, 16), y, mixed
        )


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
