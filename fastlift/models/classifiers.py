"""Classifiers: features [B, D] -> logits [B, C] in fp32, and the fused way from features to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastlift_kernels as kernels
from fastlift.errors import UserError
from fastlift.settings import Acts, Between, Settings

_ROWS_DRAWN = 8192  # of a random weight at a time


class Classifier(nn.Module):
    """z = scale * <f', w'> + bias, where a subclass says where w comes from, and what of f and w is normalised."""

    normalize: Literal["both", "weight", "none"] = "none"
    weight: Tensor | nn.Parameter  # [C, D]
    bias: nn.Parameter | None
    scale: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("bias", None)  # a class attribute of that name would keep subclasses from having one

    def prepare(self, features: Tensor) -> Tensor:
        """What is done to the features before the product."""
        return features

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return dict(self.named_parameters())

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Classifiers hold what trains, in fp32."""

    def set_weight(self, weight: Tensor) -> None:
        """Start from ``weight`` [C, D] (text features, class means, a linear probe).

        Raises:
            UserError: a weight of another shape, or a classifier without one of its own.
        """
        if not isinstance(self.weight, nn.Parameter):
            raise UserError("this classifier's weight is made from text: it accepts no other init")
        if weight.shape != self.weight.shape:
            raise UserError(f"classifier weight: expected {list(self.weight.shape)}, got {list(weight.shape)}")
        with torch.no_grad():
            self.weight.copy_(weight)

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_autocast_enabled(features.device.type):  # another's: it would round logits to 8 bits
            with torch.autocast(features.device.type, enabled=False):
                return self._logits(features)
        return self._logits(features)

    def _logits(self, features: Tensor) -> Tensor:
        features, weight = self.prepare(features.float()), self.weight
        if self.normalize == "both":
            features = F.normalize(features, dim=1)
        if self.normalize != "none":
            weight = F.normalize(weight, dim=1)
        return F.linear(features, weight) * self.scale if self.bias is None else F.linear(features, weight, self.bias)

    def cross_entropy(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        log_prior: Tensor | None = None,
        tau: float = 1.0,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        impl: kernels.Impl | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of logits + tau * log_prior, and the argmax of the plain logits, in one op."""
        return kernels.cosine_cross_entropy(
            self.prepare(features),
            self.weight,
            labels,
            log_prior,
            scale=self.scale,
            tau=tau,
            bias=self.bias,
            normalize=self.normalize,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            impl=impl,
        )


class WeightClassifier(Classifier):
    """A classifier with a weight of its own, from features of ``width`` D to C ``classes``.

    Where processes split it by class, one holds some ``rows`` of the weight: the same numbers as in the whole.
    """

    NAME: ClassVar[str]  # what users call it

    def __init__(
        self, width: int, classes: int, *, generator: torch.Generator | None = None, rows: range | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.initial_weight(width, classes, generator, rows or range(classes)))

    def initial_weight(self, width: int, classes: int, generator: torch.Generator | None, rows: range) -> Tensor:
        """Random unit rows [C, D], of which ``rows`` are kept; all are drawn, some at a time."""
        kept = torch.empty(len(rows), width)
        for start in range(0, classes, _ROWS_DRAWN):
            drawn = torch.empty(min(_ROWS_DRAWN, classes - start), width).uniform_(-1, 1, generator=generator)
            first, end = max(rows.start, start), min(rows.stop, start + len(drawn))
            if first < end:
                mine = drawn[first - start : end - start]
                kept[first - rows.start : end - rows.start] = F.normalize(mine, dim=1)
        return kept


class CosineClassifier(WeightClassifier):
    """z = scale * <f/|f|, w/|w|>, scale 25: the LIFT default.

    Features f [B, D] in fp32, bf16 or fp16 -> logits z [B, C] in fp32. D is the ``width``, C the number of ``classes``; the
    weight [C, D] starts as random unit rows from ``generator``, or from PyTorch's own where that is None.
    """

    NAME = "cosine"
    normalize = "both"

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        scale: float = 25.0,
        generator: torch.Generator | None = None,
        rows: range | None = None,
    ) -> None:
        super().__init__(width, classes, generator=generator, rows=rows)
        self.scale = scale


class LinearClassifier(WeightClassifier):
    """z = W f + b, Kaiming-normal start."""

    NAME = "linear"

    def __init__(
        self, width: int, classes: int, *, generator: torch.Generator | None = None, rows: range | None = None
    ) -> None:
        super().__init__(width, classes, generator=generator, rows=rows)
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def initial_weight(self, width: int, classes: int, generator: torch.Generator | None, rows: range) -> Tensor:
        whole = nn.init.kaiming_normal_(torch.empty(classes, width), generator=generator)
        return whole if len(rows) == classes else whole[rows.start : rows.stop].clone()


class L2NormedClassifier(WeightClassifier):
    """z = <f, w/|w|>."""

    NAME = "l2"
    normalize = "weight"


class LayerNormedClassifier(WeightClassifier):
    """z = <LayerNorm(f), w/|w|>; the norm has no affine part and eps 1e-12."""

    NAME = "layernorm"
    normalize = "weight"

    def prepare(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], eps=1e-12)


class ZeroShotClassifier(Classifier):
    """z = scale * <A(P f)/|A(P f)|, class features>, of which nothing trains: CLIP's own head, or ``text`` once trained.

    Args:
        projection: P^T, [D, E], from the ViT's width to the joint space, or None where they are the same.
        weight: class features [C, E], L2-normed.
        scale: exp(logit_scale).
        adapter: A, a CLIP-Adapter, or None.
    """

    projection: Tensor | None

    def __init__(
        self, projection: Tensor | None, weight: Tensor, scale: float, adapter: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.scale, self.adapter = scale, adapter
        self.register_buffer("projection", projection)
        self.register_buffer("weight", weight)

    def prepare(self, features: Tensor) -> Tensor:
        joint = features if self.projection is None else features @ self.projection
        return F.normalize(joint if self.adapter is None else self.adapter(joint), dim=1)

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * self.prepare(features.float()) @ self.weight.T


# Classifiers with a weight of their own, by name.
CLASSIFIERS: dict[str, type[WeightClassifier]] = {
    kind.NAME: kind for kind in (CosineClassifier, LinearClassifier, L2NormedClassifier, LayerNormedClassifier)
}
# Those whose class features are made from text instead, by ``TextSideSettings`` and ``create_model``.
OF_TEXT = ("text", "zero_shot")
_NAMES = (*CLASSIFIERS, *OF_TEXT)

if TYPE_CHECKING:
    ClassifierName = str
else:  # the choices of the flag are the names above, which a type checker cannot read
    ClassifierName = Literal[_NAMES]


@dataclass(frozen=True)
class ClassifierSettings(Settings):
    """The classifier on the features."""

    classifier: ClassifierName = "cosine"
    """Classifier on the class token; 'text' is CLIP's own head with class features from the text tower in every step,
    'zero_shot' the same with nothing that trains."""
    scale: Annotated[
        float,
        Between(0, ends="()"),
        Acts(
            "the cosine classifier's, or of LDAM's margins",
            lambda classifier, loss: classifier == "cosine" or loss == "LDAM",
        ),
    ] = 25.0
    """Scale of the cosine classifier; with the loss LDAM, of its margins, whatever the classifier."""

    def build(
        self, width: int, classes: int, generator: torch.Generator | None = None, rows: range | None = None
    ) -> WeightClassifier:
        """A classifier with a weight of its own, from features of ``width`` D to C ``classes``, at its random start.

        ``rows`` are those of the weight that it holds; default: all.
        """
        if self.classifier == CosineClassifier.NAME:
            return CosineClassifier(width, classes, scale=self.scale, generator=generator, rows=rows)
        return CLASSIFIERS[self.classifier](width, classes, generator=generator, rows=rows)
