"""Recipes: functions that return a config. A recipe is where the defaults come from; every setting can be overridden.

Accuracies named here are the papers' (in %, with test-time ensembling, ViT-B/16 CLIP); they need weights and data sets
that no machine of this project had. What was measured here is in ``docs/results.md``; ``docs/recipes.md`` compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any

from fastlift.config import Config
from fastlift.data.datasets.catalogue import PYTHON, SourceSettings, data_set_meant
from fastlift.data.datasets.cutting import CutSettings
from fastlift.data.datasets.dataset import DataSet, no_data_set
from fastlift.data.datasets.long_tail import TailSettings
from fastlift.errors import UserError
from fastlift.settings import hints_of
from fastlift.settings.names import one_of

CLIP_MODEL, CLIP_TAG = "ViT-B-16-quickgelu", "openai"


def _recipe(recipe: str, dataset: str | DataSet | None, defaults: dict[str, Any], settings: dict[str, Any]) -> Config:
    """A recipe's defaults, then the user's settings.

    The backbone fits the data set: the shipped small CLIP for drawn shapes, CLIP ViT-B/16 for photographs. The user's settings
    must have an effect; the defaults may lose theirs by them.
    """
    if not isinstance(dataset, (str, DataSet, NoneType)):
        raise no_data_set(dataset)
    if isinstance(dataset, DataSet):
        of_data = {name for part in (SourceSettings, CutSettings, TailSettings) for name in hints_of(part)}
        if told := sorted(settings.keys() & of_data):
            raise UserError(f"{', '.join(told)}: the data set is given as an object; give this to what made it")
        name = PYTHON if dataset.settings is None else str(dataset.settings["dataset"])
    else:
        name = data_set_meant(dataset, settings.get("data_root"), settings.get("train_list"))
    backbone = {} if name == "shapes_lt" else {"model": CLIP_MODEL, "pretrained": CLIP_TAG}
    config = Config(recipe=recipe).merged(dataset=name, **backbone)
    config = (config.of_data(dataset) if isinstance(dataset, DataSet) else config).merged(**defaults | settings)
    config.check_effects(settings)
    return config


def _is_inaturalist(dataset: str | DataSet | None) -> bool:
    name = dataset.name if isinstance(dataset, DataSet) else dataset
    return isinstance(name, str) and name.startswith("inat")


def lift(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """LIFT: AdaptFormer in every block, cosine classifier from text features, logit-adjusted loss.

    ``fastlift train --dataset imagenet_lt --data-root IMAGENET``, then ``fastlift evaluate RUN --tte fivecrop``

    10 epochs (20 on iNaturalist), SGD at 0.01 with a per-epoch cosine, random resized crops and flips, bilinear resizing.

    Expected, by the paper (five crops): ImageNet-LT 78.3, Places-LT 52.2, iNaturalist 2018 80.4, CIFAR-100-LT
    81.7 / 83.1 / 84.9 at ratio 100 / 50 / 10; with ViT-L/14 82.9, 53.7 and 85.2 on the first three. Not measured here:
    no machine had these data and weights. Measured here: ``shapes_lt``.

    Source: Shi et al., "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML 2024. Arguments as ``build``.
    """
    epochs = 20 if _is_inaturalist(dataset) else 10
    return _recipe("lift", dataset, {"epochs": epochs}, settings)


def lift_plus(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """LIFT+: twice the learning rate, half the epochs, a square crop whose least area grows from epoch to epoch.

    ``fastlift train --recipe lift_plus --dataset cifar100_ir100``, then ``fastlift evaluate RUN --tte fivecrop``

    5 epochs (15 on iNaturalist), SGD at 0.02, convex schedule, no flip, bicubic resizing.

    Expected: see the tables of the paper (arXiv 2504.13282), which could not be read here. Measured here: ``shapes_lt``.

    Source: Shi et al., "LIFT+: Lightweight Fine-Tuning for Long-Tail Learning", 2025. Arguments as ``build``.
    """
    epochs = 15 if _is_inaturalist(dataset) else 5
    crops = {"augmentation": "minimalist", "interpolation": "bicubic"}
    defaults = {"epochs": epochs, "lr": 0.02, "sizes": "lift_plus", **crops}
    return _recipe("lift_plus", dataset, defaults, settings)


def linear_probe(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """The classifier alone learns, on frozen features, with LIFT's start and loss: what the tuner adds is the difference.

    ``fastlift train --recipe linear_probe --dataset places_lt --data-root PLACES``

    Expected, by summaries of the LT-Soups paper (one crop): ImageNet-LT 74.2, Places-LT 48.8, iNaturalist 2018 60.4, CIFAR-100-LT 70.0 at
    ratio 100. Measured here: ``shapes_lt``. LIFT+ found 0.03 to be its best learning rate (``--lr 0.03``).

    Source: LIFT, section 3; LIFT+, fine-tuning methods. Arguments as ``build``.
    """
    return _recipe("linear_probe", dataset, {"tuner": "none"}, settings)


def full_finetune(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """Every weight of the blocks learns, the rest as in LIFT: the heavy fine-tuning that the paper shows to hurt.

    ``fastlift train --recipe full_finetune --dataset imagenet_lt --data-root IMAGENET``

    The learning rate is LIFT's, so that weights are the only difference; the authors' best, searched by them, is 0.0005
    (``--lr 0.0005``), on Places-LT 0.001. Expected, by summaries of the LT-Soups paper, which trains with AdamW (one crop): ImageNet-LT 73.9,
    Places-LT 46.6, iNaturalist 2018 76.1, CIFAR-100-LT 79.6 at ratio 100. Measured here: ``shapes_lt``, at several learning rates.

    Source: LIFT, section 3, and its table of tuners. Arguments as ``build``.
    """
    return _recipe("full_finetune", dataset, {"tuner": "full"}, settings)


def arbitrary_finetune(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """A random share of all weights of the blocks learns, the rest as in LIFT: light fine-tuning without a choice of weights.

    ``fastlift train --recipe arbitrary_finetune --dataset imagenet_lt --data-root IMAGENET``

    The share is the authors' best, searched by them: 0.01, on Places-LT 0.005. Expected: see the papers' tables,
    which could not be read here. Measured here: ``shapes_lt``.

    Source: LIFT, section 4, and its table of tuners. Arguments as ``build``.
    """
    share = 0.005 if (dataset.name if isinstance(dataset, DataSet) else dataset) == "places_lt" else 0.01
    return _recipe("arbitrary_finetune", dataset, {"tuner": "mask", "mask_ratio": share}, settings)


def lt_soups(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """LT-Soups: the start is an average of trainings on smaller, more balanced training sets; then the classifier alone trains.

    ``fastlift train --recipe lt_soups --dataset cifar100_ir100``; LIFT's tuner in place of all weights: ``--tuner adaptformer``

    Seven trainings of every weight of the blocks and the classifier, on at most n, 2 n, ... 64 n images of each class (n: the
    smallest class's), averaged one after another from the pre-trained model on (``soup_keep`` 0.7); then the classifier on the
    whole set. Each 10 epochs, AdamW at 3e-5 (tuners of LIFT: 1e-3), weight decay 0.01, warm-up, a cosine by steps to a
    tenth, and an average of what trains (``ema`` 0.99). As the authors' program runs it; see ``docs/soups.md`` for what differs.

    Expected, by the paper as summaries quote it (one crop): ImageNet-LT 77.4, Places-LT 51.7, iNaturalist 2018 78.2,
    CIFAR-100-LT 83.5 at ratio 100. Measured here: not at this size.

    Source: Aminbeidokhti et al., LT-Soups, NeurIPS 2025. Arguments as ``build``.
    """
    asked = settings.get("tuner", ("full",))
    tuners = (asked,) if isinstance(asked, str) else tuple(asked)
    defaults = {
        "tuner": "full",
        "optimizer": "adamw",
        "lr": 3e-5 if "full" in tuners else 1e-3,
        "weight_decay": 0.01,
        "lr_schedule": "step",
        "warmup_epochs": 0.5,
        "min_lr_ratio": 0.1,
        "ema": 0.99,
        "soup_factors": range(7),
        "train_only": "classifier",
    }
    return _recipe("lt_soups", dataset, defaults, settings)


def coop(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """CoOp: only the words around the class name learn; class features come from the text tower in every step.

    ``fastlift train --recipe coop --dataset cifar100_ir100``

    LIFT+'s settings for it: four words from random values, class name at the end, 50 epochs, batches of 32, SGD at
    0.002, random resized crops and flips, bicubic resizing, logit-adjusted loss. Expected: see LIFT+'s tables
    (arXiv 2504.13282), which could not be read here. Measured here: not at this length.

    Source: Zhou et al., "Learning to Prompt for Vision-Language Models", 2022, as LIFT+ runs it. Arguments as ``build``.
    """
    defaults = {
        "tuner": "none",
        "classifier": "text",
        "text_tuner": "coop",
        "epochs": 50,
        "batch_size": 32,
        "lr": 0.002,
        "interpolation": "bicubic",
    }
    return _recipe("coop", dataset, defaults, settings)


def zero_shot(dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """CLIP as it is: cosine of image and text features in the joint space; nothing trains. Bicubic resizing, as CLIP's.

    ``fastlift zero-shot --dataset places_lt --data-root PLACES``

    Expected, as later papers quote it (one crop): ImageNet-LT 68.3 (many 69.2, medium 67.6, few 67.7). Measured here:
    ``shapes_lt``.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. Arguments as ``build``.
    """
    defaults = {"tuner": "none", "classifier": "zero_shot", "epochs": 0, "interpolation": "bicubic"}
    return _recipe("zero_shot", dataset, defaults, settings)


_ALL = (lift, lift_plus, linear_probe, full_finetune, arbitrary_finetune, lt_soups, coop, zero_shot)
RECIPES: dict[str, Callable[..., Config]] = {recipe.__name__: recipe for recipe in _ALL}


def build(recipe: str, dataset: str | DataSet | None = None, **settings: Any) -> Config:
    """A recipe by name: the function of that name with these arguments.

    Args:
        recipe: one of ``RECIPES``.
        dataset: as ``fastlift train --dataset``; by default what ``data_root`` or ``train_list`` in the settings are of, else
            the drawn shapes. Or a data set as an object (``fastlift.data.from_folder`` and the others). Photographs get CLIP ViT-B/16, drawn shapes the small CLIP that is shipped.
        settings: of ``Config``, by the names of the flags, in place of the recipe's own.

    Raises:
        UserError: an unknown recipe or setting, a value that is refused, or a setting that would have no effect.
    """
    return RECIPES[one_of("recipe", recipe, RECIPES)](dataset, **settings)
