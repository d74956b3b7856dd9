"""Settings of the training: the optimiser, batches, epochs and the loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from fastlift.settings import Acts, Between, May, NamesPlace, Settings
from fastlift.settings.validate import Rule

OnNonFinite = Literal["stop", "skip"]


@dataclass(frozen=True)
class SGDSettings(Settings):
    """Stochastic gradient descent with momentum."""

    lr: Annotated[float, Between(0)] = 0.01
    """Learning rate at the start; follows a cosine to 0, stepped once an epoch."""
    momentum: Annotated[float, Between(0, 1, "[)")] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Between(0)] = 5e-4
    """Decay of what trains, added to its gradient (L2)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """The fused optimiser, its momentum buffers (fp32, shapes of the parameters) at zero, where the recurrence starts.

        Left to itself SGD makes them at its first update, and where that one is skipped the fused kernel (torch 2.14) goes on
        from garbage.
        """
        optimizer = torch.optim.SGD(parameters, **self.values(), fused=True)
        for parameter in optimizer.param_groups[0]["params"] if self.momentum else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


def _micro_batches_divide_the_batch(batch_size: int, micro_batch: int | None) -> str | None:
    if micro_batch is None or batch_size % micro_batch == 0:
        return None
    return f"micro_batch: {micro_batch} does not divide the batch size {batch_size}"


@dataclass(frozen=True)
class BatchSettings(Settings):
    """How many images a step takes."""

    batch_size: Annotated[int, Between(1)] = 128
    """Images a step, over all processes."""
    micro_batch: Annotated[int | None, Between(1), May.CHANGE] = None
    """Images at a time in memory; gradients of a batch are accumulated (default: the whole batch)."""
    RULES: ClassVar[tuple[Rule, ...]] = (_micro_batches_divide_the_batch,)


@dataclass(frozen=True)
class EpochSettings(Settings):
    """How long the training is."""

    epochs: Annotated[int, Between(0), May.GROW] = 10
    """Passes over the training set; 0 evaluates the model without training. With --resume, more than the run had: it goes on
    by the schedule of so many."""


@dataclass(frozen=True)
class WarmStartSettings(Settings):
    """What trains may start from what another run has learned."""

    init_from: Annotated[
        str | None, NamesPlace(), Acts("where training starts from (epochs 1 or more)", lambda epochs: epochs > 0)
    ] = None
    """Start what trains from another run's: its folder (the best checkpoint where there is one, else the last), or one of its
    checkpoint files. The run must have the same backbone, tuner and classifier; of other classes than its own, those with
    the same name start from its, the others anew."""


@dataclass(frozen=True)
class NonFiniteSettings(Settings):
    """What becomes of steps whose loss or gradients are NaN or infinite (see ``fastlift.training.finite``)."""

    on_nonfinite: Annotated[
        OnNonFinite,
        Acts("what training does with a bad step (epochs 1 or more)", lambda epochs: epochs > 0),
        May.CHANGE,
    ] = "stop"
    """A step whose loss or gradients are not finite: stop before it, with the state saved, or leave its update out."""


@dataclass(frozen=True)
class LoopSettings(Settings):
    """What the training loop writes, and when."""

    checkpoint_steps: Annotated[int | None, Between(1), May.CHANGE] = None
    """Save the state every N steps too, so that a killed run loses less than an epoch."""
    log_steps: Annotated[int, Between(1), May.CHANGE] = 10
    """Steps between two lines of metrics.jsonl; the device is read only then."""
    profile: Annotated[bool, May.CHANGE] = False
    """Record a few steps into profile.json in the run folder, for Perfetto (ui.perfetto.dev) or TensorBoard."""
