"""Every classifier and every loss: it learns, only what it should moves, and training goes on from a checkpoint."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from fixtures import CLASS_COUNTS, Files, tiny_batch, tiny_learner, train_on

import fastlift
from fastlift.runs import checkpoints
from fastlift.runs.identity import Identity
from fastlift.runs.train_state import TrainState
from fastlift.training.losses import LossName, LossSettings
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

CLASSIFIERS = ("cosine", "linear", "l2", "layernorm")
LOSSES = get_args(LossName)


def expect_it_learns_and_is_kept(some: Learner, other: Learner, path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in some.model.state_dict().items()}
    values = train_on(some, *tiny_batch(some), 6)
    assert values[-1] < values[0] - 1e-3
    intended = {id(parameter) for parameter in some.model.trained().values()}
    for key, parameter in some.model.named_parameters():
        assert torch.equal(parameter, before[key]) == (id(parameter) not in intended), key

    place = TrainState(0, 6, 6, 0, 0.0, 0, 0.0, "data", "classes", "weights", {}, Identity("1", "2", "fp32"), ((0, 1),))
    checkpoints.save(path, some, place)
    checkpoints.restore(path, other)
    with torch.no_grad():
        images, _ = tiny_batch(some)
        assert torch.equal(other.model(images), some.model(images))
    assert train_on(other, *tiny_batch(other), 2) == train_on(some, *tiny_batch(some), 2)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_margins_have_the_scale_of_the_config(classifier: str) -> None:
    config = fastlift.recipes.lift(loss="LDAM", scale=7.0, classifier=classifier)
    loss = config.part(LossSettings).build(CLASS_COUNTS, config.model.scale)
    assert isinstance(loss, fastlift.losses.LDAMLoss)
    assert loss.scale == 7.0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(tiny_clip: Files, device: torch.device, tmp_path: Path, name: str) -> None:
    """Alone, on frozen features."""
    alone: dict[str, Any] = {"init": "random", "tuner": "none", "classifier": name}
    some, other = (
        tiny_learner(tiny_clip, device, "CE", model=alone | {"seed": seed}, optimizer=OptimizerSettings(lr=0.02))
        for seed in (0, 4)
    )
    assert set(some.parameters) == {"head.weight"} | ({"head.bias"} if name == "linear" else set())
    expect_it_learns_and_is_kept(some, other, tmp_path / "step-00000006.safetensors")


@pytest.mark.parametrize("name", LOSSES)
def test_losses(tiny_clip: Files, device: torch.device, tmp_path: Path, name: str) -> None:
    """With an AdaptFormer and the cosine classifier."""
    some, other = (
        tiny_learner(
            tiny_clip,
            device,
            name,
            model={"init": "random", "rank": 4, "seed": seed},
            optimizer=OptimizerSettings(lr=0.002),
        )
        for seed in (0, 4)
    )
    expect_it_learns_and_is_kept(some, other, tmp_path / "step-00000006.safetensors")
