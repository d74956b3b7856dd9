"""Settings of the training: batches, epochs and the loop; the optimiser's are in ``optimizers``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastlift.settings import Acts, Between, May, NamesPlace, Settings
from fastlift.settings.validate import Rule

OnNonFinite = Literal["stop", "skip"]


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
