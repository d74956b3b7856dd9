"""The classifier of CLIP itself with parts that learn: class features come from text in every step (LIFT+).

Here prompt learning (CoOp), CLIP-Adapter, projection tuning and tuners in the text tower have their place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastlift.models.classifiers import Classifier
from fastlift.models.text.tower import TextTransformer
from fastlift.models.tuners.adapter import Adapter


@dataclass(frozen=True)
class Projections:
    """To the joint space: ``image`` [D, E], None where the features lie there already, and ``text`` [W, E]."""

    image: Tensor | None
    text: Tensor


class TextClassifier(Classifier):
    """z = scale * <A_i(f P_i), A_t(T P_t)>, both L2-normed, with T the text tower's features of the class prompts.

    A_i and A_t are CLIP-Adapters x + A(x), or nothing. ``scale`` is CLIP's exp(logit_scale), which stays. Where no
    gradient is needed the class features are computed once, and kept until the model trains on or is loaded anew.

    Args:
        text: the text tower with the class prompts.
        projections: CLIP's own; they learn where ``tune_projections`` says so.
        adapters: rank of CLIP-Adapters on both sides, or None.

    Source: CoOp (Zhou et al. 2022), CLIP-Adapter (Gao et al. 2021), as LIFT+ uses them.
    """

    normalize = "both"

    def __init__(
        self,
        text: TextTransformer,
        projections: Projections,
        scale: float,
        *,
        tune_projections: bool = False,
        adapters: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.text, self.scale, self.tune_projections = text, scale, tune_projections
        image = projections.image
        self.image_projection = None if image is None else nn.Parameter(image.float().clone(), tune_projections)
        self.text_projection = nn.Parameter(projections.text.float().clone(), tune_projections)
        joint = projections.text.shape[1]
        self.image_adapter = None if adapters is None else Adapter(joint, adapters, generator)
        self.text_adapter = None if adapters is None else Adapter(joint, adapters, generator)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Class features [C, E], not normalised, in fp32."""
        if torch.is_grad_enabled():  # a step may follow, and the fused optimiser leaves no trace in the versions
            self._kept = None
            return self._class_features()
        state = tuple(parameter._version for parameter in self.parameters())
        if self._kept is None or self._kept[0] != state or self._kept[1].device != self.text_projection.device:
            self._kept = (state, self._class_features())
        return self._kept[1]

    def _class_features(self) -> Tensor:
        features = self.text().float() @ self.text_projection
        return features if self.text_adapter is None else self.text_adapter(features)

    def prepare(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.image_projection is not None:
            features = features @ self.image_projection
        return features if self.image_adapter is None else self.image_adapter(features)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The context, the projections and the adapters, as far as they learn (tuners in the tower are the model's)."""
        named: dict[str, nn.Parameter] = {} if self.text.context is None else {"context": self.text.context}
        if self.tune_projections:
            named["text_projection"] = self.text_projection
            if self.image_projection is not None:
                named["image_projection"] = self.image_projection
        for side in ("image_adapter", "text_adapter"):
            adapter = getattr(self, side)
            if adapter is not None:
                named |= {f"{side}.{name}": parameter for name, parameter in adapter.named_parameters()}
        return named

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """The text tower computes in ``dtype``; projections and adapters in fp32."""
        self.text.set_compute_dtype(dtype)
        self._kept = None
