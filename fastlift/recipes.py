"""Recipes: functions that return a config. A recipe is where the defaults come from; every setting can be overridden.

Accuracies named here are the papers' (with test-time ensembling, ViT-B/16 CLIP); they need weights and data sets that no
machine of this project had. What was measured here is in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastlift.config import Config
from fastlift.naming import one_of

CLIP_MODEL, CLIP_TAG = "ViT-B-16-quickgelu", "openai"


def _base(recipe: str, dataset: str) -> Config:
    """The backbone that fits the data set: the shipped small CLIP for drawn shapes, CLIP ViT-B/16 for photographs."""
    config = Config(recipe=recipe).override(dataset=dataset)
    return config if dataset == "shapes_lt" else config.override(model=CLIP_MODEL, pretrained=CLIP_TAG)


def lift(dataset: str = "shapes_lt", **settings: Any) -> Config:
    """LIFT: AdaptFormer in every block, cosine classifier from text features, logit-adjusted loss.

    ``fastlift train --dataset imagenet_lt --data-root IMAGENET``

    10 epochs (20 on iNaturalist), SGD at 0.01 with a per-epoch cosine, random resized crops and flips. The paper's
    accuracy: ImageNet-LT 78.3, Places-LT 52.2, iNaturalist 80.4, CIFAR-100-LT 81.7 / 83.1 / 84.9 (ratio 100 / 50 / 10).

    Source: Shi et al., ICML 2024.
    """
    epochs = 20 if dataset.startswith("inat") else 10
    return _base("lift", dataset).override(**{"epochs": epochs} | settings)


def lift_plus(dataset: str = "shapes_lt", **settings: Any) -> Config:
    """LIFT+: twice the learning rate, half the epochs, a square crop whose least area grows from epoch to epoch.

    ``fastlift train --recipe lift_plus --dataset cifar100_ir100``

    5 epochs (15 on iNaturalist), SGD at 0.02, convex schedule, no flip. Source: LIFT+ (2025).
    """
    epochs = 15 if dataset.startswith("inat") else 5
    defaults = {"epochs": epochs, "lr": 0.02, "augmentation": "minimalist", "sizes": "lift_plus"}
    return _base("lift_plus", dataset).override(**defaults | settings)


def linear_probe(dataset: str = "shapes_lt", **settings: Any) -> Config:
    """The classifier alone learns, on frozen features, with LIFT's start and loss: what the tuner adds is the difference.

    ``fastlift train --recipe linear_probe``
    """
    return _base("linear_probe", dataset).override(**{"tuner": "none"} | settings)


def full_finetune(dataset: str = "shapes_lt", **settings: Any) -> Config:
    """Every weight of the blocks learns, the rest as in LIFT: the heavy fine-tuning that the paper shows to hurt.

    ``fastlift train --recipe full_finetune``
    """
    return _base("full_finetune", dataset).override(**{"tuner": "full"} | settings)


def zero_shot(dataset: str = "shapes_lt", **settings: Any) -> Config:
    """CLIP as it is: cosine of image and text features in the joint space; nothing trains.

    ``fastlift zero-shot --dataset places_lt --data-root PLACES``
    """
    defaults = {"tuner": "none", "classifier": "zero_shot", "epochs": 0}
    return _base("zero_shot", dataset).override(**defaults | settings)


RECIPES: dict[str, Callable[..., Config]] = {
    "lift": lift,
    "lift_plus": lift_plus,
    "linear_probe": linear_probe,
    "full_finetune": full_finetune,
    "zero_shot": zero_shot,
}


def build(recipe: str, dataset: str = "shapes_lt", **settings: Any) -> Config:
    """A recipe by name."""
    return RECIPES[one_of("recipe", recipe, RECIPES)](dataset, **settings)
