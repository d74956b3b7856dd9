"""The optimiser: its settings, how it is made of them, and what it keeps of everything that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastlift.settings import Acts, Between, Settings
from fastlift.training.kept import SLOTS

OptimizerName = Literal["sgd", "adamw"]


def _trains(epochs: int) -> bool:
    return epochs > 0


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """How gradients change what trains."""

    lr: Annotated[float, Between(0)] = 0.01
    """Learning rate at its highest; from there it follows a cosine (see --lr-schedule). The default is SGD's: AdamW wants
    about a tenth of it for tuners, and less to train the whole backbone."""
    optimizer: Annotated[OptimizerName, Acts("what updates what trains (epochs 1 or more)", _trains)] = "sgd"
    """SGD with momentum, as the papers, or AdamW (Loshchilov & Hutter 2019)."""
    momentum: Annotated[
        float, Between(0, 1, "[)"), Acts("SGD's (optimizer sgd)", lambda optimizer: optimizer == "sgd")
    ] = 0.9
    """Momentum of SGD."""
    betas: Annotated[
        tuple[float, float],
        Between(0, 1, "[)"),
        Acts("AdamW's (optimizer adamw)", lambda optimizer: optimizer == "adamw"),
    ] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    eps: Annotated[
        float, Between(0, ends="(]"), Acts("AdamW's (optimizer adamw)", lambda optimizer: optimizer == "adamw")
    ] = 1e-8
    """What AdamW adds to the root of the squares' average before it divides by it."""
    weight_decay: Annotated[float, Between(0)] = 5e-4
    """Decay of what trains. SGD adds it to the gradient (L2), AdamW takes lr times it from the weights by itself."""
    clip_grad: Annotated[
        float | None, Between(0, ends="(]"), Acts("a bound on gradients (epochs 1 or more)", _trains)
    ] = None
    """Scale the gradient of a batch down where its norm (L2, over all that trains) is above this."""

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The fused optimiser, and all that it keeps of its parameters (fp32, of their shapes; step counts []) at zero.

        Left to itself an optimiser makes that at its first update. Where SGD's is skipped, the fused kernel (torch 2.14) goes
        on from garbage.
        """
        return _BUILDERS[self.optimizer](self, list(parameters))

    @property
    def copies(self) -> int:
        """How many numbers are held for one that trains: itself, its gradient, and what the optimiser keeps of it."""
        return 2 + (2 if self.optimizer == "adamw" else bool(self.momentum))


def _sgd(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> Optimizer:
    momentum, decay = settings.momentum, settings.weight_decay
    made = torch.optim.SGD(parameters, lr=settings.lr, momentum=momentum, weight_decay=decay, fused=True)
    for parameter in parameters if momentum else ():
        made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def _adamw(settings: OptimizerSettings, parameters: list[nn.Parameter]) -> Optimizer:
    decay = settings.weight_decay
    made = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=decay, fused=True
    )
    for parameter in parameters:
        made.state[parameter] |= {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),  # counts the updates that were made
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return made


_BUILDERS: dict[OptimizerName, Callable[[OptimizerSettings, list[nn.Parameter]], Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def state_of(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What ``optimizer`` keeps of named parameters: ``SLOT.NAME``, zeros before the first step; empty for plain SGD."""
    return {
        f"{SLOTS[slot]}.{name}": tensor
        for name, parameter in parameters.items()
        for slot, tensor in optimizer.state[parameter].items()
        if tensor is not None
    }
