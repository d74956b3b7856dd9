"""How the classifier is initialised: by text features of the class names, random rows, or a weight made from training images.

Source of the inits from images: LIFT (Shi et al., ICML 2024), table 7.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.errors import UserError
from fastlift.models.backbones import Backbone
from fastlift.models.classifiers import OF_TEXT
from fastlift.models.text.features import Progress, text_features
from fastlift.settings import Acts, Settings
from fastlift.settings.validate import Rule


def choose_shots(labels: np.ndarray, shots: int | None, seed: int) -> np.ndarray:
    """Rows (int64, ascending) of at most ``shots`` samples of each class, drawn without replacement; all for None.

    ``labels`` are int64 [N].
    """
    if shots is None:
        return np.arange(len(labels))
    order = np.random.Generator(np.random.Philox(seed & (2**64 - 1))).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]  # each class's rows together, shuffled
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # place within the class
    return np.sort(by_class[rank < shots])


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """w_c = mean of the features [N, D] whose label (``labels``, int64 [N]) is c, L2-normed: fp32 [C, D] of C ``classes``.

    Raises:
        UserError: a class without an image.
    """
    counts = _counts(labels, classes)
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64).index_add(0, labels, features.double())
    return F.normalize(sums / counts[:, None], dim=1).float()


def linear_probe(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Coefficients of a multinomial logistic regression, L2-normed: fp32 [C, D]; arguments as ``class_means``.

    L-BFGS, at most 100 iterations, L2 penalty of strength 1, classes weighted by n / (C n_c), features as they are.

    Raises:
        UserError: a class without an image.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _counts(labels, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the papers stop after 100 iterations, converged or not
        probe = LogisticRegression(solver="lbfgs", max_iter=100, class_weight="balanced")
        probe.fit(features.numpy(), labels.numpy())
    weight = torch.from_numpy(probe.coef_)
    if classes == 2:  # scikit-learn keeps one row for two classes
        weight = torch.cat([-weight, weight])
    return F.normalize(weight, dim=1).float()


def _counts(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        raise UserError(f"no image to initialise {len(empty)} of {classes} classes from (first: {empty[:10]})")
    return counts


@dataclass(frozen=True)
class ImageInit:
    """A weight [C, D] made of frozen features [N, D] with their labels [N], of all images or of ``shots`` a class."""

    make: Callable[[Tensor, Tensor, int], Tensor]
    shots: int | None = None


# Those that need images of the training set: ``fastlift.starts`` makes them, ``create_model`` takes them as a tensor.
IMAGE_INITS = {
    "class_mean": ImageInit(class_means),
    "class_mean_1": ImageInit(class_means, shots=1),
    "class_mean_10": ImageInit(class_means, shots=10),
    "class_mean_100": ImageInit(class_means, shots=100),
    "linear_probe": ImageInit(linear_probe),
}
_NAMES = ("text", "random", *IMAGE_INITS)

if TYPE_CHECKING:
    InitName = str
else:  # the choices of the flag are the names above, which a type checker cannot read
    InitName = Literal[_NAMES]


def _needs_a_weight(init: str, classifier: str) -> str | None:
    if init in IMAGE_INITS and classifier in OF_TEXT:
        return f"init {init}: the classifier {classifier} has no weight of its own to initialise"
    return None


@dataclass(frozen=True)
class ClassifierInitSettings(Settings):
    """The initial weight of the classifier."""

    init: Annotated[
        InitName,
        Acts(
            "the initial weight of the classifier, and the classifiers text and zero_shot have none",
            lambda classifier: classifier not in OF_TEXT,
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
    """Text features [C, E] of the class names."""
    if backbone.text is None:
        raise UserError(
            "init: this model has no text tower for init text: choose another init (class_mean, linear_probe or "
            "random). Zero-shot classification needs a text tower"
        )
    return text_features(backbone.text, class_names, prompt, progress=progress)
