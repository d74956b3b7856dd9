"""What the classifier starts from: text features of the class names, random rows, or a weight made from training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.backbones import Backbone
from fastlift.models.text.features import Progress, text_features
from fastlift.settings import Acts, Settings
from fastlift.settings.validate import Rule

# Those that need images of the training set: ``fastlift.starts`` makes them, ``create_model`` takes them as a tensor.
IMAGE_INITS = ("class_mean", "class_mean_1", "class_mean_10", "class_mean_100", "linear_probe")


def _needs_a_weight(init: str, classifier: str) -> str | None:
    if init in IMAGE_INITS and classifier in ("text", "zero_shot"):
        return f"init {init}: the classifier {classifier} has no weight of its own to start"
    return None


@dataclass(frozen=True)
class ClassifierInitSettings(Settings):
    """The start of the classifier's weight."""

    init: Annotated[
        Literal["text", "random", "class_mean", "class_mean_1", "class_mean_10", "class_mean_100", "linear_probe"],
        Acts(
            "the initial weight of the classifier, and the classifiers text and zero_shot have none",
            lambda classifier: classifier not in ("text", "zero_shot"),
        ),
    ] = "text"
    """Classifier init: text features of the class names, random unit rows, mean features of all training images
    of a class (or of 1, 10, 100 of them), or a logistic regression on the training images' features."""

    RULES: ClassVar[tuple[Rule, ...]] = (_needs_a_weight,)

    def build(
        self, backbone: Backbone, class_names: Sequence[str], prompt: str, progress: Progress | None = None
    ) -> Tensor | None:
        """The classifier's weight [C, D]: from text, the class features through the projection's transpose, L2-normed.

        None for ``random``, which classifiers do themselves.

        Raises:
            UserError: a start that needs training images, or text where the model has none.
        """
        if self.init in IMAGE_INITS:
            raise UserError(
                f"init {self.init!r} needs training images: fastlift.train makes it by itself; elsewhere pass the weight "
                "that fastlift.starts makes from features"
            )
        if self.init == "random":
            return None
        features = class_features(backbone, class_names, prompt, progress)
        if backbone.projection is not None:
            features = features @ backbone.projection.float().T
        if features.shape[1] != backbone.vit.width:
            raise UserError(
                "the text features have another width than the image features, and no projection links them"
            )
        return F.normalize(features, dim=1)


def class_features(
    backbone: Backbone, class_names: Sequence[str], prompt: str, progress: Progress | None = None
) -> Tensor:
    """Text features [C, E] of the class names.

    Raises:
        UserError: a model without a text tower, or a prompt that is refused.
    """
    if backbone.text is None:
        raise UserError(
            "init: this model has no text tower for init text: choose another init (class_mean, linear_probe or "
            "random). Zero-shot classification needs a text tower"
        )
    return text_features(backbone.text, class_names, prompt, progress=progress)
