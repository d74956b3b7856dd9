"""Steps whose loss or gradients are not finite: kept out of what trains, and noted, without asking the device.

A loss that is not finite makes its gradients NaN, the gradients of all processes are added up, and each looks at the
sums: all of them leave a step out, or none does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fastlift.training.settings import OnNonFinite

NEVER = -1
# Gradients in fp16 may overflow while the scaler looks for its scale, halving it from 2^16 at each. What overflows below
# this one is beyond fp16 by itself: no scale will help, and without an end nothing would be learned in silence.
LEAST_SCALE = 2.0**-13


class Seen(NamedTuple):
    """What became of a step, in bools [] on the device.

    Attributes:
        good: it is no fault: its loss and its predictions count.
        updates: it changes what trains; a good one does not where fp16's scaler looks for its scale.
    """

    good: Tensor
    updates: Tensor


class Watch:
    """What became of the steps of a training, in registers on its device.

    Attributes:
        taken: steps looked at, counted on the host by who takes them.
        number: of the next step, from 0.
        first: the first that was not finite, from 0; ``NEVER`` where all were.
        skipped: how many were not.

    Args:
        device: of loss and gradients.
        mode: ``skip`` leaves out a step that is not finite. ``stop`` leaves out the steps after it too, so that what trains
            stays as it was before it until the host reads the registers.
    """

    def __init__(self, device: torch.device, mode: OnNonFinite) -> None:
        self.mode = mode
        self.taken = 0
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.first = torch.full((), NEVER, dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    def guard(self, loss: Tensor) -> Tensor:
        """The loss with the same gradients, or with NaN as all of them where this step must not be taken."""
        bad = ~loss.detach().isfinite()
        if self.mode == "stop":
            bad = bad | (self.first >= 0)
        return loss * torch.where(bad, torch.nan, 1.0)

    def look(self, loss: Tensor, gradients: Iterable[Tensor], scale: Tensor | None = None) -> Seen:
        """Note one step, and whether it is finite, on the device.

        Args:
            loss: of the batch, without the guard.
            gradients: of everything that trains.
            scale: by which they were multiplied, on the device (fp16): an overflow above ``LEAST_SCALE`` is its scaler's
                to leave out, and no fault of the step.
        """
        finite = torch.nn.utils.get_total_norm(gradients, norm_type=torch.inf).isfinite()
        may_be = finite if scale is None else finite | (scale > LEAST_SCALE)
        good = loss.isfinite() & may_be
        if self.mode == "stop":
            good = good & (self.first < 0)
        self.first.copy_(torch.where((self.first < 0) & ~good, self.number, self.first))
        self.skipped += ~good
        self.number += 1
        return Seen(good, good & finite)

    def first_step(self) -> int | None:
        """The first step that was not finite, if there was one: waits for the device."""
        first = int(self.first)
        return None if first == NEVER else first

    def restart(self, taken: int, skipped: int) -> None:
        """Go on after so many steps, of which some were left out."""
        self.taken = taken
        self.number.fill_(taken)
        self.first.fill_(NEVER)
        self.skipped.fill_(skipped)
