"""One step: what it changes, and that it does not depend on how the batch is cut."""

import pytest
import torch
import torch.nn.functional as F
from devices import EVERY_DEVICE
from fixtures import CLASS_COUNTS, CLASS_NAMES, Files, tiny_batch, tiny_learner, train_on

import fastlift
from fastlift.data.loading.mixed import Mixed
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner


@pytest.mark.parametrize("loss", ["LA", "Focal"])
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_micro_batches_take_the_same_step(tiny_clip: Files, device: torch.device, loss: str, micro_batch: int) -> None:
    whole, parts = (tiny_learner(tiny_clip, device, loss, micro_batch=size) for size in (None, micro_batch))
    for _ in range(2):
        whole.step(*tiny_batch(whole))
        parts.step(*tiny_batch(parts))
    assert whole.sums.read() == pytest.approx(parts.sums.read(), rel=1e-5)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(parts.parameters[name], parameter, rtol=1e-3, atol=1e-5)


def test_frozen_weights_stay(tiny_clip: Files, device: torch.device) -> None:
    some = tiny_learner(tiny_clip, device)
    before = {name: tensor.clone() for name, tensor in some.model.state_dict().items()}
    some.step(*tiny_batch(some))
    trained = {id(parameter) for parameter in some.parameters.values()}
    for name, parameter in some.model.named_parameters():
        # the first step moves the bottleneck's upper half and scale's product is still zero: gradients of the lower half are 0
        moved = not torch.equal(parameter, before[name])
        assert not moved or id(parameter) in trained
    assert not torch.equal(some.parameters["head.weight"], before["classifier.weight"])
    assert some.parameters["tuner.adaptformer_list.0.up_proj.weight"].abs().sum() > 0


@pytest.mark.parametrize("place", EVERY_DEVICE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_falls_in_every_dtype(tiny_clip: Files, place: str, dtype: torch.dtype) -> None:
    some = tiny_learner(tiny_clip, place, dtype=dtype)
    losses = train_on(some, *tiny_batch(some), 40)  # of which fp16 spends some on finding its gradient scale
    assert losses[-1] < 0.5 * losses[0]
    assert {parameter.dtype for parameter in some.parameters.values()} == {torch.float32}


def test_steps_repeat_bit_by_bit(tiny_clip: Files, device: torch.device) -> None:
    """On a GPU too: our ops and losses add in a fixed order, and so does attention over so few tokens."""
    one, other = (tiny_learner(tiny_clip, device, loss="LADE", dtype=torch.bfloat16) for _ in range(2))
    for number in range(3):
        for some in (one, other):
            some.step(*tiny_batch(some, number))
    assert one.sums.read() == other.sums.read()
    for name, parameter in one.parameters.items():
        assert torch.equal(other.parameters[name], parameter)


def test_momentum_travels(tiny_clip: Files, device: torch.device) -> None:
    one, other = tiny_learner(tiny_clip, device), tiny_learner(tiny_clip, device)
    one.step(*tiny_batch(one))
    other.model.load_trained({name: parameter.detach() for name, parameter in one.parameters.items()})
    other.take_kept(one.kept())
    for some in (one, other):
        some.step(*tiny_batch(some))
    for name, parameter in one.parameters.items():
        assert torch.equal(other.parameters[name], parameter)


def test_models_in_which_nothing_trains_are_refused(tiny_clip: Files) -> None:
    model = fastlift.create_model(
        tiny_clip[0], pretrained=tiny_clip[1], class_names=CLASS_NAMES, tuner="none", classifier="zero_shot"
    )
    with pytest.raises(ValueError, match="nothing in this model trains"):
        Learner(model, fastlift.losses.build("CE", CLASS_COUNTS), OptimizerSettings(lr=0.1))


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
@pytest.mark.parametrize("loss", ["LA", "CB"])
def test_a_mixed_step(tiny_clip: Files, device: torch.device, loss: str, micro_batch: int | None) -> None:
    """The gradient is that of the mean by shares of both labels' losses, however the batch is cut; accuracy is by labels."""
    some = tiny_learner(tiny_clip, device, loss, optimizer=OptimizerSettings(lr=0.5, momentum=0, weight_decay=0))
    some.micro_batch = micro_batch
    images, labels = tiny_batch(some)
    pairs = labels.view(-1, 2).flip(1).flatten()
    mixed = Mixed(pairs, torch.tensor([0.5, 0.6, 0.75, 1.0], device=device).repeat_interleave(2))
    before = {name: parameter.detach().clone() for name, parameter in some.parameters.items()}

    logits = some.model(images)
    shifted = logits if some.loss.log_prior is None else logits + some.loss.log_prior  # type: ignore[operator]
    weight = some.loss.class_weight  # type: ignore[union-attr]
    of_both = [F.cross_entropy(shifted, of, weight, reduction="none") for of in (labels, pairs)]  # type: ignore[arg-type]
    expected = (mixed.share * of_both[0] + (1 - mixed.share) * of_both[1]).sum()
    expected = expected / (len(labels) if weight is None else weight[labels].sum())  # type: ignore[index]
    gradients = torch.autograd.grad(expected, list(some.parameters.values()))
    right = (logits.argmax(dim=1) == labels).float().mean()

    some.step(images, labels, mixed=mixed)
    found, accuracy = some.sums.read()
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert accuracy == pytest.approx(100 * float(right))
    for (name, parameter), gradient in zip(some.parameters.items(), gradients, strict=True):
        torch.testing.assert_close((before[name] - parameter) / 0.5, gradient, rtol=1e-3, atol=1e-5)
