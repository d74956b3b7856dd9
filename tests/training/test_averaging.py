"""The average of what trains is torch's own, over many steps; a step that is left out changes none of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from devices import DEVICES
from fixtures import Files, tiny_batch, tiny_learner
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from fastlift.errors import UserError
from fastlift.training.averaging import AverageSettings, WeightAverage
from fastlift.training.step import Learner


class Parts(nn.Module):
    """What torch averages: parameters under their names."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.names = list(parameters)
        self.parts = nn.ParameterList(parameters.values())


def doubled(parameters: dict[str, nn.Parameter]) -> Parts:
    return Parts({name: nn.Parameter(parameter.detach().double()) for name, parameter in parameters.items()})


def averaged(model: AveragedModel) -> dict[str, Tensor]:
    return dict(zip(model.module.names, model.module.parts, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 0.9999])
def test_two_hundred_updates_are_torchs_own(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in (("a", (3, 4)), ("b", ()))
    }
    found = WeightAverage(decay, parameters)
    theirs = AveragedModel(Parts(parameters), multi_avg_fn=get_ema_multi_avg_fn(decay))
    exact = AveragedModel(doubled(parameters), avg_fn=get_ema_avg_fn(decay))
    for _ in range(200):
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        found.update(torch.tensor(True))
        theirs.update_parameters(Parts(parameters))
        exact.update_parameters(doubled(parameters))
    for name, expected in averaged(theirs).items():
        assert torch.equal(found.weights[name], expected)
        torch.testing.assert_close(found.weights[name].double(), averaged(exact)[name].detach(), rtol=1e-6, atol=1e-6)
    assert int(found.updates) == 200


@pytest.mark.parametrize("place", DEVICES)
@pytest.mark.parametrize("bad", [0, 4])
def test_it_follows_the_steps_that_were_taken(tiny_clip: Files, place: str, bad: int) -> None:
    """Also where the first is left out: the average begins with the first that is not."""
    some = tiny_learner(tiny_clip, place, on_nonfinite="skip", average=AverageSettings(0.9))
    assert some.average is not None
    theirs = AveragedModel(Parts(some.parameters), avg_fn=get_ema_avg_fn(0.9))
    for number in range(12):
        images, labels = tiny_batch(some, number)
        some.step(images * torch.nan if number == bad else images, labels)
        if number != bad:
            theirs.update_parameters(Parts(some.parameters))
    assert int(some.average.updates) == 11
    for name, expected in averaged(theirs).items():
        torch.testing.assert_close(some.average.weights[name], expected.detach(), rtol=1e-6, atol=1e-6)


def test_a_step_that_looks_for_fp16s_scale_is_none(tiny_clip: Files, device: torch.device) -> None:
    some = tiny_learner(tiny_clip, device, dtype=torch.float16, average=AverageSettings(0.9))
    assert some.average is not None
    before = copy.deepcopy(some.average.weights)
    hook = next(iter(some.parameters.values())).register_hook(lambda gradient: gradient + torch.inf)
    some.step(*tiny_batch(some))
    hook.remove()
    assert int(some.watch.skipped) == 0, "it is no fault"
    assert int(some.average.updates) == 0
    some.scaler = torch.amp.GradScaler(device.type, init_scale=128.0)
    some.step(*tiny_batch(some))
    assert int(some.average.updates) == 1
    for name, parameter in some.parameters.items():
        assert torch.equal(some.average.weights[name], parameter), "the first update makes it the weights"
    assert not torch.equal(before["head.weight"], some.parameters["head.weight"])


def test_steps_are_not_changed_by_it(tiny_clip: Files, device: torch.device) -> None:
    one, other = tiny_learner(tiny_clip, device), tiny_learner(tiny_clip, device, average=AverageSettings(0.9))
    for some in (one, other):
        for number in range(3):
            some.step(*tiny_batch(some, number))
    for name, parameter in one.parameters.items():
        assert torch.equal(other.parameters[name], parameter)


def test_it_takes_the_weights_place_and_gives_it_back(tiny_clip: Files) -> None:
    some = tiny_learner(tiny_clip, average=AverageSettings(0.5))
    assert some.average is not None
    for number in range(3):
        some.step(*tiny_batch(some, number))
    own = {name: parameter.detach().clone() for name, parameter in some.parameters.items()}
    places = [parameter.data_ptr() for parameter in some.parameters.values()]
    with some.average.in_place():
        for name, parameter in some.parameters.items():
            assert torch.equal(parameter, some.average.weights[name])
        assert not torch.equal(some.parameters["head.weight"], own["head.weight"])
    with pytest.raises(RuntimeError, match="midst"), some.average.in_place():  # also where an evaluation fails
        raise RuntimeError("midst")
    for name, parameter in some.parameters.items():
        assert torch.equal(parameter, own[name])
    assert [parameter.data_ptr() for parameter in some.parameters.values()] == places


def test_it_travels_to_the_same_bits(tiny_clip: Files, device: torch.device) -> None:
    one, other = (tiny_learner(tiny_clip, device, average=AverageSettings(0.9)) for _ in range(2))
    for number in range(2):
        one.step(*tiny_batch(one, number))
    other.model.load_trained({name: parameter.detach() for name, parameter in one.parameters.items()})
    other.take_kept(one.kept())
    for some in (one, other):
        some.step(*tiny_batch(some, 2))
    assert kept(one).keys() == kept(other).keys()
    assert all(torch.equal(tensor, kept(other)[name]) for name, tensor in kept(one).items())
    with pytest.raises(UserError, match=r"(?s)not in the model: ema\.head\.weight"):
        tiny_learner(tiny_clip, device).check_kept(one.kept())


def kept(some: Learner) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in some.kept().items() if name.startswith("ema.")}


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1])
def test_a_decay_that_is_none_is_refused(decay: Any) -> None:
    with pytest.raises(UserError, match=rf"^ema: expected a number in \[0, 1\), got {decay}"):
        AverageSettings(decay)
