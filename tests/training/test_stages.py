"""Stages of a training with growing images: which side an epoch has, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastlift.config import Config
from fastlift.errors import UserError
from fastlift.models.backbones import outline
from fastlift.training.stages import ProgressiveSettings, Stages


@pytest.mark.parametrize(
    ("model", "image_size", "sides"),
    [
        ("ViT-B-16", None, (160, 192, 224)),
        ("ViT-B-32", None, (160, 192, 224)),
        ("ViT-L-14-336", None, (238, 280, 336)),
        ("shapes-clip", None, (32, 40, 48)),
        ("shapes-clip", 16, (8, 16, 16)),
        ("timm:vit_base_patch16_224", 230, (160, 192, 230)),  # a rest that makes no patch
    ],
)
def test_sides_are_whole_patches_and_the_last_is_the_models_own(
    model: str, image_size: int | None, sides: tuple[int, ...]
) -> None:
    found = outline(model, image_size)
    assert found is not None
    assert ProgressiveSettings((0.7, 0.85, 1.0)).build(found.vit, 10).sides == sides


@pytest.mark.parametrize(
    ("stages", "epochs", "expected"),
    [
        (3, 10, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (3, 3, [0, 1, 2]),
        (2, 5, [0, 0, 0, 1, 1]),
        (4, 10, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_epochs_are_split_evenly(stages: int, epochs: int, expected: list[int]) -> None:
    plan = Stages(tuple(range(stages)), epochs)
    assert [plan.side(epoch) for epoch in range(epochs)] == expected
    assert plan.epochs_at() == {stage: expected.count(stage) for stage in range(stages)}


def test_stages_of_one_size_count_once() -> None:
    plan = Stages((160, 160, 224), 9)
    assert plan.sizes == 2
    assert plan.epochs_at() == {160: 6, 224: 3}
    assert Stages((224,), 0).epochs_at() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"progressive_sizes": (0.7, 0.85)}, "last stage must be at the model's own size"),
        ({"progressive_sizes": ()}, "last stage must be at the model's own size"),
        ({"progressive_sizes": (0.9, 0.7, 1.0)}, "may not shrink from stage to stage, got 0.9 0.7 1"),
        ({"progressive_sizes": (0.0, 1.0)}, r"shares of the model's own size in \(0, 1\], got 0.0"),
        ({"progressive_sizes": (1.5,)}, r"shares of the model's own size in \(0, 1\], got 1.5"),
        ({"progressive_sizes": (160, 192, 224)}, r"shares of the model's own size in \(0, 1\], got 160"),
        ({"progressive_sizes": (0.7, 0.85, 1.0), "epochs": 2}, "3 stages need 3 epochs or more, got 2"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^progressive_sizes: .*{message}"):
        Config().override(**settings)


def test_resnets_are_refused() -> None:
    found = outline("RN50")
    assert found is not None
    with pytest.raises(UserError, match="only vision transformers train at several image sizes"):
        ProgressiveSettings((0.7, 1.0)).build(found.vit, 10)
    assert ProgressiveSettings().build(found.vit, 10).sides == (224,)
