"""The optimisers are torch's own, over many steps; what they keep travels, and a step that is left out changes none of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fixtures import Files, tiny_batch, tiny_learner
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.training.optimizers import OptimizerSettings, state_of
from fastlift.training.step import Learner

ADAMW = OptimizerSettings(lr=0.002, optimizer="adamw", betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05)
SGD = OptimizerSettings(lr=0.005, momentum=0.8, weight_decay=0.01)
BOTH = [SGD, ADAMW]


def plain(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's, one tensor at a time."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, foreach=False
        )
    return torch.optim.AdamW(
        parameters,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        foreach=False,
    )


def settings(**changed: Any) -> OptimizerSettings:
    return OptimizerSettings(**ADAMW.values() | changed)


@pytest.mark.parametrize("settings", BOTH, ids=lambda one: one.optimizer)
def test_three_hundred_updates_are_torchs_own(settings: OptimizerSettings) -> None:
    """On gradients of many sizes, in fp64, where an update that is another one cannot pass for rounding."""
    generator = torch.Generator().manual_seed(0)
    mine = [nn.Parameter(torch.randn(shape, generator=generator).double()) for shape in ((4, 5), (3,), ())]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in mine]
    made, reference = settings.build(mine), plain(settings, theirs)
    for number in range(300):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator).double() * 10.0 ** (number % 5 - 3)
            other.grad = one.grad.clone()
        made.step()
        reference.step()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-9, atol=1e-9)


def gradients(some: Learner, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of a batch, by autograd alone."""
    loss, _ = some.loss.on_features(some.model.classifier, some.model.features(batch[0]), batch[1])
    return list(torch.autograd.grad(loss, list(some.parameters.values())))


@pytest.mark.parametrize("settings", BOTH, ids=lambda one: one.optimizer)
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_steps_are_torchs_own_with_its_clipping(
    tiny_clip: Files, settings: OptimizerSettings, micro_batch: int | None
) -> None:
    """``clip_grad_norm_`` over the gradient of the whole batch: some steps are above the bound, some below."""
    bound = {"sgd": 2.5, "adamw": 2.5}[settings.optimizer]
    some = tiny_learner(
        tiny_clip, optimizer=OptimizerSettings(**settings.values() | {"clip_grad": bound}), micro_batch=micro_batch
    )
    other = tiny_learner(tiny_clip)
    theirs = list(other.parameters.values())
    reference, norms = plain(settings, theirs), []
    for number in range(20):
        batch = tiny_batch(other, number)
        for parameter, gradient in zip(theirs, gradients(other, batch), strict=True):
            parameter.grad = gradient
        norms.append(float(nn.utils.clip_grad_norm_(theirs, bound)))
        reference.step()
        some.step(*batch)
    assert min(norms) < bound < max(norms), norms
    for name, parameter in some.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=1e-5, atol=1e-5)


def test_clipping_in_fp16_is_of_the_gradient_without_its_scale(tiny_clip: Files, device: torch.device) -> None:
    bound = OptimizerSettings(lr=1.0, momentum=0.0, weight_decay=0.0, clip_grad=0.01)
    some = tiny_learner(tiny_clip, device, dtype=torch.float16, optimizer=bound, on_nonfinite="skip")
    some.scaler = torch.amp.GradScaler(device.type, init_scale=128.0)
    before = copy.deepcopy(some.model.state())
    some.step(*tiny_batch(some))
    moved = torch.stack([(some.parameters[name] - before[name]).norm() for name in before]).norm()
    assert float(moved.detach()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_step_that_is_left_out_changes_nothing(tiny_clip: Files, device: torch.device, dtype: torch.dtype) -> None:
    """Neither a moment nor the count of updates, by which AdamW corrects them."""
    some = tiny_learner(tiny_clip, device, dtype=dtype, optimizer=settings(clip_grad=0.5), on_nonfinite="skip")
    some.scaler = torch.amp.GradScaler(device.type, init_scale=128.0, enabled=dtype is torch.float16)
    for number in range(2):
        some.step(*tiny_batch(some, number))
    before = {name: tensor.detach().clone() for name, tensor in {**some.parameters, **some.kept()}.items()}
    images, labels = tiny_batch(some)
    some.step(images * torch.nan, labels)
    for name, tensor in {**some.parameters, **some.kept()}.items():
        assert torch.equal(tensor, before[name]), name
    assert {float(count) for name, count in some.kept().items() if name.startswith("step.")} == {2.0}


def test_what_is_kept_travels(tiny_clip: Files, device: torch.device) -> None:
    """To the same bits: without the counts, AdamW would begin to correct its moments anew."""
    one, other, anew = (tiny_learner(tiny_clip, device, optimizer=ADAMW) for _ in range(3))
    one.step(*tiny_batch(one))
    for some in (other, anew):
        some.model.load_trained({name: parameter.detach() for name, parameter in one.parameters.items()})
        some.take_kept(one.kept())
    for name, tensor in anew.kept().items():
        if name.startswith("step."):
            tensor.zero_()
    for some in (one, other, anew):
        some.step(*tiny_batch(some))
    for name, parameter in one.parameters.items():
        assert torch.equal(other.parameters[name], parameter)
        assert not torch.equal(anew.parameters[name], parameter)


def test_another_optimisers_state_is_refused(tiny_clip: Files) -> None:
    one, other = tiny_learner(tiny_clip, optimizer=ADAMW), tiny_learner(tiny_clip)
    with pytest.raises(UserError, match=r"(?s)the optimiser's state in x does not fit this run's .* missing exp_avg\."):
        one.check_kept(other.kept(), "x")
    with pytest.raises(UserError, match=r"step.head.weight is torch.int64"):
        one.take_kept(one.kept() | {"step.head.weight": torch.tensor(3)})


def test_what_is_kept_of_each() -> None:
    weight = nn.Parameter(torch.ones(3))
    of = {"head.weight": weight}
    assert state_of(OptimizerSettings(momentum=0.0).build([weight]), of) == {}
    assert state_of(SGD.build([weight]), of).keys() == {"momentum.head.weight"}
    kept = state_of(ADAMW.build([weight]), of)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "step.head.weight": (),
        "exp_avg.head.weight": (3,),
        "exp_avg_sq.head.weight": (3,),
    }
    assert not any(tensor.any() for tensor in kept.values())
    copies = [settings.copies for settings in (OptimizerSettings(momentum=0.0), SGD, ADAMW)]
    assert copies == [2, 3, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adam"}, "unknown value of optimizer 'adam'; did you mean adamw"),
        ({"betas": (0.9, 1.0)}, r"betas: expected a number in \[0, 1\), got 1.0"),
        ({"betas": (0.9,)}, "betas: expected a list of 2"),
        ({"eps": 0.0}, "eps: expected more than 0, got 0.0"),
        ({"clip_grad": 0.0}, "clip_grad: expected more than 0, got 0.0"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        OptimizerSettings(**values)
