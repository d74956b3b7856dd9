"""A model whose logits are calibrated: shifted by the prior, divided by a temperature, with a threshold for its answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastlift.errors import UserError
from fastlift.models.classifiers import Classifier
from fastlift.models.preprocessing import EnsemblingSettings


@dataclass(frozen=True)
class Calibration:
    """What ``fastlift calibrate`` fitted to the logits of a model: (z + s log p) / T.

    Attributes:
        strength: s; 0 is the plain model, negative values favour rare classes further, positive ones frequent classes.
        temperature: T; above 1 the model becomes less sure.
        class_counts: training images of each class, whose shares are p.
        threshold: an image whose largest probability is below it is "none of these"; None where none was fitted.
        ensembling: the crops whose mean logits it was fitted to.
    """

    strength: float
    temperature: float
    class_counts: tuple[int, ...]
    threshold: float | None
    ensembling: EnsemblingSettings

    def shift(self) -> Tensor:
        """s log p, fp32 [C]."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        return (self.strength * (counts / counts.sum()).log()).float()

    def check_crops(self, asked: EnsemblingSettings) -> None:
        """Refuse other crops than those of the fit, whose mean logits are less, or more, sure.

        Raises:
            UserError: they differ; the message says which to ask for.
        """
        if asked.ensembling_name != self.ensembling.ensembling_name:
            raise UserError(
                f"the calibration was fitted with {_flags(self.ensembling)}, and holds for no other crops: ask for these, or "
                f"fit it anew (fastlift calibrate RUN {_flags(asked)})"
            )


def _flags(crops: EnsemblingSettings) -> str:
    more = f" --tte-crops {crops.tte_crops}" if crops.tte == "random" else ""
    more += "" if crops.expand is None else f" --expand {crops.expand}"
    return f"--tte {crops.tte}{more}"


class CalibratedClassifier(Classifier):
    """(z + s log p) / T of a classifier's logits z: features [B, D] -> [B, C].

    The mean over crops of such logits is that of the plain ones, shifted and divided, so it stands inside the model.
    """

    shift: Tensor

    def __init__(self, inner: nn.Module, shift: Tensor, temperature: float) -> None:
        super().__init__()
        self.inner, self.temperature = inner, temperature
        self.register_buffer("shift", shift)

    def around(self, inner: nn.Module) -> CalibratedClassifier:
        """The same around another classifier."""
        return CalibratedClassifier(inner, self.shift, self.temperature)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Those of the classifier inside."""
        assert isinstance(self.inner, Classifier)
        return self.inner.trained_parameters()

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """That of the classifier inside; the logits are fp32."""
        assert isinstance(self.inner, Classifier)
        self.inner.set_compute_dtype(dtype)

    def forward(self, features: Tensor) -> Tensor:
        return (self.inner(features) + self.shift) / self.temperature
