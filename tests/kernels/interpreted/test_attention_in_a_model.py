"""A whole ViT with attention's own kernels, switched on by the setting, against the library's attention."""

import copy

import pytest
import torch

from fastlift.models.create import create_model
from fastlift.models.fused import FusedSettings
from fastlift.models.lift import LiftModel
from fastlift.training import losses
from fastlift.training.optimizers import OptimizerSettings
from fastlift.training.step import Learner

pytest.importorskip("triton")

NAMES = ["red star", "blue disc", "green ring"]


def twins(**settings: object) -> tuple[LiftModel, LiftModel]:
    """Equal models, the second with its own attention."""
    plain = create_model(
        "timm:test_vit", class_names=NAMES, rank=2, pretrained="random", init="random", image_size=64, **settings
    )
    fused = copy.deepcopy(plain)
    assert FusedSettings(("attention",)).build(fused.vit) == []
    assert all(fused.vit.block(i).fused_tokens > 0 for i in range(fused.vit.depth))
    return plain, fused


def test_losses_are_those_of_the_library(launched: list[str]) -> None:
    models = twins(tuner=("adaptformer", "vpt_shallow"))
    depth, side = models[0].vit.depth, models[0].preprocessing.image_size
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(2, 3, side, side, generator=draw), torch.tensor([0, 2])
    found = []
    for model in models:
        learner = Learner(model, losses.build("LA", torch.tensor([5, 3, 2])), OptimizerSettings(lr=0.05))
        told = []
        for _ in range(2):
            learner.sums.loss.zero_()
            learner.sums.images = 0
            learner.step(images, labels)
            told.append(learner.sums.read()[0])
        found.append(told)
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=1e-5, atol=0)
    assert launched.count("attention_forward_kernel") == 2 * depth
    assert launched.count("attention_backward_kernel") >= 2 * (depth - 1)
    for one, other in zip(models[0].trained().values(), models[1].trained().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_longer_sequences_take_the_library(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fused = twins()
    side = plain.preprocessing.image_size
    images = torch.randn(1, 3, side, side)
    from fastlift_kernels.attention import configuration

    monkeypatch.setattr(configuration, "MOST_TOKENS", 16)
    configuration.most_tokens.cache_clear()
    (told,) = FusedSettings(("attention",)).build(fused.vit)
    configuration.most_tokens.cache_clear()
    assert "up to 16 tokens" in told
    assert f"this model has {plain.vit.sequence_length}" in told
    torch.testing.assert_close(fused.vit(images), plain.vit(images), rtol=0, atol=0)
    assert not launched
