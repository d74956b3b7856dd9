"""From settings to a model: the backbone, its tuners, and the classifier at its start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlift.data.sampling.crops import Interpolation
from fastlift.errors import UserError
from fastlift.models import backbones
from fastlift.models.backbones import Backbone, BackboneSettings
from fastlift.models.classifier_init import ClassifierInitSettings, class_features
from fastlift.models.classifiers import OF_TEXT, Classifier, ClassifierSettings, ZeroShotClassifier
from fastlift.models.lift import LiftModel
from fastlift.models.preprocessing import Preprocessing
from fastlift.models.resnet import ResNet
from fastlift.models.text.classifier import TextSideSettings
from fastlift.models.text.features import Progress, PromptTextSettings
from fastlift.models.tuners import TunerSettings
from fastlift.models.weights import weights_fingerprint
from fastlift.settings import converted, keywords
from fastlift.settings.validate import Rule
from fastlift.system.memory import check_room, free_bytes
from fastlift.system.settings import SeedSettings

_NO_TRAINING = "classifier zero_shot does not train: use it with tuner none and epochs 0 (recipe zero_shot)"


def _something_trains(classifier: str, tuner: tuple[str, ...], text_tuner: tuple[str, ...], epochs: int) -> str | None:
    if classifier == "text" and epochs and tuner == text_tuner == ("none",):
        return "classifier text without a tuner or text_tuner has nothing that trains (recipe zero_shot)"
    return None


def _zero_shot_tunes_nothing(classifier: str, tuner: tuple[str, ...]) -> str | None:
    return _NO_TRAINING if classifier == "zero_shot" and tuner != ("none",) else None


def _zero_shot_has_no_epochs(classifier: str, epochs: int) -> str | None:
    return _NO_TRAINING if classifier == "zero_shot" and epochs else None


@dataclass(frozen=True)
class ModelSettings(  # type: ignore[misc]  # each part builds itself: cut it out first
    TextSideSettings, PromptTextSettings, ClassifierInitSettings, ClassifierSettings, TunerSettings, BackboneSettings
):
    """Which backbone, what learns in it, and how the classifier is initialised."""

    RULES: ClassVar[tuple[Rule, ...]] = (_something_trains, _zero_shot_tunes_nothing, _zero_shot_has_no_epochs)


@dataclass(frozen=True)
class CreateSettings(ModelSettings, SeedSettings):  # type: ignore[misc]  # as above
    """All settings that ``create_model`` takes."""

    interpolation: Interpolation = "bilinear"


def create_model(
    name: str | Path | dict[str, Any] | ModelSettings,
    *,
    class_names: Sequence[str],
    init: str | Tensor | None = None,
    interpolation: Interpolation = "bilinear",
    seed: int = 0,
    progress: Progress | None = None,
    rows: range | None = None,
    **settings: Any,
) -> LiftModel:
    """A LIFT model, ready to train: the tuner starts at the frozen model, the classifier at the text features.

    Args:
        name: ``shapes-clip`` (shipped), an open_clip model name, an open_clip model configuration (dict, or path of its
            JSON), or ``timm:NAME``; or all settings of a model at once (a ``ModelSettings``, such as a config's
            ``model``). A type checker checks names and types in ``ModelSettings(...)``.
        class_names: names of the C classes, in the order of the labels.
        init: the classifier's initial weight: ``text`` (text features of the class names, mapped back to the ViT's
            width by the projection's transpose, L2-normed), ``random``, or a weight [C, D], as ``fastlift.starts`` makes
            it from training images. The classifiers ``text`` and ``zero_shot`` have no weight to initialise.
        interpolation: how images are resized: ``bilinear`` (LIFT), or ``bicubic`` (LIFT+, CLIP's own evaluation).
        seed: of the tuner's and the classifier's random initial values.
        progress: called with (done, total) while prompts are encoded.
        rows: of the C classes, those that a classifier with a weight of its own is made for (``init`` then has their rows
            alone), where processes split it between them; default: all.
        settings: any of ``ModelSettings``, with its names, defaults and meanings: the flags of ``fastlift train --help``
            from ``pretrained``, ``image_size``, ``tuner``, ``rank`` and ``layers`` to ``classifier``, ``prompt`` and
            ``text_tuner``. ``tuner`` and ``text_tuner`` are one name or several. These keywords are checked when the
            call runs, not by a type checker.

    Returns:
        the model on the CPU, in eval mode (it has no dropout), computing in fp32.

    Raises:
        UserError: unknown names, weights that do not fit, settings without a meaning.

    Source: LIFT (Shi et al., "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML 2024).
    """
    asked = _keywords(name, init, settings | {"interpolation": interpolation, "seed": seed})
    names = list(class_names)
    if len(names) < 2:
        raise UserError(f"class_names: expected at least two classes, got {len(names)}")
    source = asked.model if isinstance(name, ModelSettings) else name
    backbone = backbones.load(source, asked.pretrained, asked.image_size)
    weights = backbone.vit.named_parameters()  # under the names that the fingerprints in run folders were taken with
    fingerprint = weights_fingerprint((name.replace(".pre_mlp.", ".branch."), weight) for name, weight in weights)
    height, width = backbone.vit.image_size
    if height != width:
        raise UserError(f"models with images that are not square ({height} x {width}) are not supported")
    tuners, generator = asked.part(TunerSettings), torch.Generator().manual_seed(seed)
    context = tuners.context(backbone.vit, len(names), generator)
    resolved = tuners.resolve(context)
    if not isinstance(backbone.vit, ResNet):
        check_room(tuners.trained_bytes(backbone.vit, context), resolved.values(), free_bytes())
    parameters = tuners.attach(backbone.vit, context)
    head, inside = _classifier(asked, backbone, names, init, generator, progress, rows)
    return LiftModel(
        backbone.vit,
        head,
        class_names=names,
        preprocessing=Preprocessing(height, backbone.mean, backbone.std, interpolation),
        tuner_parameters=parameters | inside,
        tuner_settings=resolved,
        backbone_fingerprint=fingerprint,
    ).eval()


def _keywords(name: Any, init: str | Tensor | None, given: dict[str, Any]) -> CreateSettings:
    """The settings that ``create_model`` was given, checked."""
    if "model" in given:
        raise UserError("model: create_model takes the model as its first argument")
    values = name.values() if isinstance(name, ModelSettings) else {}
    values |= keywords(CreateSettings, given)
    if init is not None and not isinstance(init, Tensor):
        values["init"] = init
    return converted(CreateSettings, values)


def _classifier(
    settings: ModelSettings,
    backbone: Backbone,
    names: list[str],
    init: str | Tensor | None,
    generator: torch.Generator,
    progress: Progress | None,
    rows: range | None,
) -> tuple[Classifier, dict[str, nn.Parameter]]:
    """The classifier with its initial weight, and what trains for it inside the text tower."""
    prompt = settings.part(PromptTextSettings)
    if isinstance(init, Tensor) and settings.classifier in OF_TEXT:
        raise UserError(
            f"init: the classifier {settings.classifier} is made from text and has no weight of its own to initialise"
        )
    if settings.classifier == "zero_shot":
        features = F.normalize(class_features(backbone, names, prompt.prompt, progress), dim=1)
        projection = None if backbone.projection is None else backbone.projection.float()
        return ZeroShotClassifier(projection, features, backbone.logit_scale), {}
    if settings.classifier == "text":
        image_side = settings.part(TunerSettings)
        return settings.part(TextSideSettings).build(backbone, names, prompt, image_side, generator)
    own = settings.part(ClassifierSettings).build(backbone.vit.width, len(names), generator, rows)
    names = names if rows is None else names[rows.start : rows.stop]
    initial = settings.part(ClassifierInitSettings)
    weight = init if isinstance(init, Tensor) else initial.build(backbone, names, prompt.prompt, progress)
    if weight is not None:
        own.set_weight(weight)
    return own, {}
