"""The losses and the head as modules: right, in the state dict, in one graph, picklable, and clear about wrong input."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

import fastlift
from fastlift.interop import modules
from fastlift.training import losses

COUNTS = [60, 20, 7, 2, 1]


@pytest.fixture(autouse=True)
def _graphs_of_other_tests_are_forgotten() -> None:
    """Of one function the compiler keeps eight at most."""
    torch.compiler.reset()


LOSSES = {
    "LA": lambda: fastlift.LogitAdjustedCrossEntropy(COUNTS, tau=0.8),
    "BS": lambda: modules.BalancedSoftmaxLoss(COUNTS),
    "Focal": lambda: modules.FocalLoss(COUNTS, gamma=1.5),
    "LDAM": lambda: modules.LDAMLoss(COUNTS, margin=0.3, scale=10.0),
    "CB": lambda: modules.ClassBalancedCrossEntropy(COUNTS, beta=0.9),
    "GRW": lambda: modules.InverseFrequencyCrossEntropy(COUNTS),
    "LADE": lambda: modules.LADELoss(COUNTS, weight=0.2),
    "smoothed": lambda: modules.ClassBalancedCrossEntropy(COUNTS, beta=0.9, label_smoothing=0.1),
    "fused": lambda: fastlift.FusedCosineLoss(16, COUNTS),
}
PRIOR = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, 16 if name == "fused" else 5, generator=generator)
    return rows, torch.randint(0, 5, (8,), generator=generator)


def test_logit_adjustment_is_the_formula() -> None:
    logits, labels = batch("LA")
    wanted = F.cross_entropy(logits.double() + 0.8 * PRIOR.log(), labels)
    torch.testing.assert_close(LOSSES["LA"]()(logits, labels).double(), wanted, rtol=1e-6, atol=1e-6)


def test_the_fused_loss_is_the_formula(device: torch.device) -> None:
    features, labels = (part.to(device) for part in batch("fused"))
    module = LOSSES["fused"]().to(device)
    logits = 25 * F.normalize(features.double()) @ F.normalize(module.classifier.weight.double()).T
    loss, predictions = module.loss_and_predictions(features, labels)
    wanted = F.cross_entropy(logits + PRIOR.log().to(device), labels)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(predictions, logits.argmax(1))
    torch.testing.assert_close(module.logits(features).double(), logits, rtol=1e-5, atol=1e-5)
    with_focal = fastlift.FusedCosineLoss(16, COUNTS, "Focal", gamma=1.0).to(device)
    unfused = losses.build("Focal", COUNTS, gamma=1.0)(with_focal.logits(features), labels)
    torch.testing.assert_close(with_focal(features, labels), unfused)


def test_accumulated_micro_batches_are_the_batch() -> None:
    features, labels = batch("fused")
    module = LOSSES["fused"]()
    module(features, labels).backward()
    whole = module.classifier.weight.grad.clone()
    module.zero_grad()
    for part in range(2):
        (module(features[4 * part : 4 * part + 4], labels[4 * part : 4 * part + 4]) / 2).backward()
    torch.testing.assert_close(module.classifier.weight.grad, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["LogitAdjusted", "BalancedSoftmax", "ClassBalanced", "InverseFrequency"])
def test_label_smoothing_is_an_argument_of_cross_entropies(kind: str) -> None:
    ending = "Loss" if kind == "BalancedSoftmax" else "CrossEntropy"
    module = getattr(modules, kind + ending)(COUNTS, label_smoothing=0.3)
    logits, labels = batch("LA")
    wanted = losses.build(module.name, COUNTS, label_smoothing=0.3)(logits, labels)
    assert torch.equal(module(logits, labels), wanted)
    assert not torch.equal(wanted, losses.build(module.name, COUNTS)(logits, labels))
    features, labels = batch("fused")
    fused = fastlift.FusedCosineLoss(16, COUNTS, module.name, label_smoothing=0.3)
    torch.testing.assert_close(fused(features, labels), module(fused.logits(features), labels))


@pytest.mark.parametrize("name", ["LA", "BS", "CB", "GRW", "smoothed"])
def test_soft_labels_of_torchvisions_mixup(name: str) -> None:
    logits, labels = batch(name)
    module = LOSSES[name]()
    _, soft = v2.MixUp(num_classes=5)(torch.zeros(8, 3, 2, 2), labels)
    torch.testing.assert_close(module(logits, soft), module.loss(logits, soft))
    torch.testing.assert_close(module(logits, F.one_hot(labels, 5).double()), module(logits, labels))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, soft), module(logits, soft))
    with pytest.raises(fastlift.UserError, match=r"labels: expected probabilities of shape \[8, 5\], got \[8, 4\]"):
        module(logits, soft[:, :4])
    with pytest.raises(fastlift.UserError, match=r"labels: expected int64 of shape \[8\], got torch.float32"):
        LOSSES["Focal"]()(logits, soft)


@pytest.mark.parametrize("name", LOSSES)
def test_state_copies_and_graphs(name: str) -> None:
    module: Any = LOSSES[name]()
    rows, labels = batch(name)
    wanted = module(rows, labels)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(rows, labels), wanted)
    fresh = LOSSES[name]()
    for tensor in (*fresh.buffers(), *fresh.parameters()):
        tensor.data.zero_()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(rows, labels), wanted)
    assert {str(t.device) for t in copy.deepcopy(module).to("meta").state_dict().values()} <= {"meta"}
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows, labels), wanted)
    exported = torch.export.export(module, (rows, labels)).module()
    torch.testing.assert_close(exported(rows, labels), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(rows, labels), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("make", [lambda: fastlift.AdaptFormer(16, 4), lambda: fastlift.CosineClassifier(16, 5)])
def test_parts_in_company(make: Any) -> None:
    """What the losses above go through, for the two parts that have no labels; and moving averages of their weights."""
    module, x = make(), torch.randn(8, 16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    wanted = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), wanted)
    fresh = make()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), wanted)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), wanted)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), wanted)
    torch.testing.assert_close(torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), wanted)  # neither is rounded to 8 bits by another's autocast
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), wanted)
    average = torch.optim.swa_utils.AveragedModel(module)
    average.update_parameters(module)
    torch.testing.assert_close(average(x), wanted)


def test_adaptformer_alone() -> None:
    module = fastlift.AdaptFormer(16, 4)
    t = torch.randn(2, 3, 16)
    torch.testing.assert_close(module(t), t)
    nn.init.normal_(module.up_proj.weight)
    branch = module.up_proj(F.relu(module.down_proj(module.ln(t))))
    torch.testing.assert_close(module(t), t + branch, rtol=1e-5, atol=1e-5)
    norm = nn.LayerNorm(16).requires_grad_(False)
    normed, residual = torch.utils.checkpoint.checkpoint(module.beside, t, norm, use_reentrant=False)
    torch.testing.assert_close(normed, norm(t), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(residual, t + branch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([], "expected one number a class"),
        ([3, 0, 1], "1 of 3 classes have no image"),
        ([[1, 2]], "expected one number"),
        ([[1], [2, 3]], "expected one number"),
        (["a", "b"], "expected one number"),
        ([3, float("nan"), 1], "expected finite numbers, got nan"),
    ],
)
def test_class_counts(counts: Any, message: str) -> None:
    for make in (fastlift.LogitAdjustedCrossEntropy, lambda counts: fastlift.FusedCosineLoss(16, counts)):
        with pytest.raises(fastlift.UserError, match=message):
            make(counts)


def test_wrong_input() -> None:
    logits, labels = batch("LA")
    loss, head = LOSSES["LA"](), LOSSES["fused"]()
    wrong = [
        (loss, logits[:, :4], labels, "logits is for 4 classes, but the loss was made from 5 class counts"),
        (loss, logits, labels + 3, "labels: expected 0 to 4, got"),
        (loss, logits, labels - 5, "labels: expected 0 to 4, got -"),
        (loss, logits, labels[:5], r"labels: expected int64 of shape \[8\]"),
        (loss, logits, labels.float(), r"labels: expected int64 of shape \[8\], got torch.float32"),
        (loss, logits, [0, 1], "labels: expected a tensor, got list"),
        (head, [[0.0]], labels, "features: expected a tensor, got list"),
        (loss, logits[0], labels, "two dimensions"),
        (head, batch("fused")[0], labels + 3, "labels: expected 0 to 4, got"),
        (head, logits, labels, r"features: expected \[B, 16\], got \[8, 5\]"),
    ]
    for module, rows, targets, message in wrong:
        with pytest.raises(fastlift.UserError, match=message):
            module(rows, targets)
    with pytest.raises(fastlift.UserError, match="option of the loss"):
        fastlift.FusedCosineLoss(16, COUNTS, gamma=2.0)
