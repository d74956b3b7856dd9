"""An exponential moving average of what trains, beside it and on the same device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fastlift.settings import Acts, Between, Settings
from fastlift.training.kept import AVERAGE

Weights = Literal["ema", "raw"]


class WeightAverage:
    """avg = d avg + (1 - d) w after each update of the weights w; the first update makes it w.

    These are the semantics of ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn(d)``: there is no warm-up of the
    decay and no correction, since the average starts at weights and not at zero. A step that is left out changes nothing.

    Attributes:
        weights: the average of each parameter, in its dtype (fp32) and of its shape, by its name.
        updates: how many there were, int64 [], on the device.

    Args:
        decay: d.
        parameters: what trains, by name.
    """

    def __init__(self, decay: float, parameters: Mapping[str, nn.Parameter]) -> None:
        self._decay, self._parameters = decay, dict(parameters)
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        device = next(iter(self.weights.values())).device
        self.updates = torch.zeros((), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, updated: Tensor) -> None:
        """Follow a step; ``updated``, a bool on the device, says whether it changed the weights. Never waits for a GPU."""
        share = torch.where(self.updates == 0, 1.0, 1.0 - self._decay)
        share = torch.where(updated, share, 0.0).to(torch.float32)  # of the new weights
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, list(self._parameters.values()), [share] * len(averages))
        self.updates += updated

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it: ``ema.NAME``, and ``ema.updates``."""
        return {f"{AVERAGE}.{name}": tensor for name, tensor in self.weights.items()} | {
            f"{AVERAGE}.updates": self.updates
        }

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the parameters have the average's values; then their own again, to the last bit."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._give(self.weights)
        try:
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])


@dataclass(frozen=True)
class AverageSettings(Settings):
    """Whether a run keeps an average of its weights."""

    ema: Annotated[
        float | None,
        Between(0, 1, "[)"),
        Acts("the decay of an average of what trains (epochs 1 or more)", lambda epochs: epochs > 0),
    ] = None
    """Keep an exponential moving average of what trains, with this decay a step (0.99: over about 100 steps). It is evaluated
    and saved beside the weights that train, and is what the run hands out. Default: none."""

    def build(self, parameters: Mapping[str, nn.Parameter]) -> WeightAverage | None:
        """The average at its start, where one is asked for."""
        return None if self.ema is None else WeightAverage(self.ema, parameters)

    @property
    def more_copies(self) -> int:
        """How many numbers it holds for one that trains."""
        return int(self.ema is not None)
