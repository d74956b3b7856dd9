"""The loss of a training that draws the classes otherwise than the data has them: it corrects for the draws.

Logit adjustment and its like take back what unequal class frequencies of the batches do to the logits. Under re-sampling these
frequencies are the sampler's, not the data's; in progressive sampling they change from epoch to epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastlift.data.sampling.class_draws import Sampling, expected_draws
from fastlift.training.losses import LossSettings
from fastlift.training.losses.base import Loss

_EVEN_IS_CE = ("LA", "BS", "CB", "GRW")  # with equal class frequencies, these are cross-entropy
_OF_DRAWS = (*_EVEN_IS_CE, "LADE")


@dataclass(frozen=True)
class LossOfDraws:
    """Which loss an epoch has: of the expected draws of each class, N q_c (``expected_draws``).

    LDAM's margins stay those of the data: they grow as a class has fewer *different* images, however often it is drawn (so does its
    authors' program with re-sampling, "LDAM-DRS"). CE and the focal loss know no frequencies.

    Attributes:
        scale: of LDAM's margins, as ``LossSettings.build`` has it.
        class_counts: images of each class of the training split, int [C].
        epochs: of the whole training.
    """

    settings: LossSettings
    scale: float
    class_counts: np.ndarray
    sampling: Sampling
    epochs: int

    def at(self, epoch: int) -> Loss:
        """The loss of an epoch; errors as ``fastlift.losses.build``."""
        counts = self.class_counts
        if self.sampling != "shuffle" and self.settings.loss in _OF_DRAWS:
            counts = expected_draws(counts, self.sampling, epoch, self.epochs)
        return self.settings.build(counts, self.scale)

    def follow(self, loss: Loss, epoch: int) -> None:
        """Turn the loss of one epoch into that of another: its buffers are written in place, where a captured step reads them."""
        if self.sampling != "progressive":
            return
        fresh = dict(self.at(epoch).named_buffers())
        with torch.no_grad():
            for name, buffer in loss.named_buffers():
                buffer.copy_(fresh[name])

    def told(self) -> str:
        """What re-sampling does here, for who reads along; empty for none."""
        if self.sampling == "shuffle":
            return ""
        first, last = (expected_draws(self.class_counts, self.sampling, at, self.epochs) for at in (0, self.epochs - 1))
        counts, few = self.class_counts, int(np.argmin(self.class_counts))
        over = (
            ""
            if self.sampling != "progressive"
            else f" in the last epoch (in the first as many as there are: {first[few]:g})"
        )
        return (
            f"sampling {self.sampling}: an epoch has {counts.sum():,} draws as before; the rarest class, of {counts[few]:,} images, is "
            f"drawn {last[few]:.4g} times{over}, the most frequent, of {counts.max():,}, {last[np.argmax(counts)]:.4g} times. "
            f"{self._of_loss()}"
        )

    def _of_loss(self) -> str:
        name = self.settings.loss
        if name == "LDAM":
            return "The margins of LDAM stay those of the numbers of different images"
        if name not in _OF_DRAWS:
            return f"The loss {name} knows no class frequencies"
        if self.sampling == "balanced":
            is_ce = ": it is cross-entropy" if name in _EVEN_IS_CE else ""
            return f"The loss {name} corrects for the frequencies of the draws, which are equal{is_ce}"
        which = "the running epoch's" if self.sampling == "progressive" else "the"
        return f"The loss {name} corrects for the class frequencies of {which} draws, not for those of the data"
