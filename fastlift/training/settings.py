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


def _keeps_a_tuner(
    epochs: int, init_from: str | None, tuner: tuple[str, ...], classifier: str, soup_factors: tuple[int, ...]
) -> bool:
    has_start = init_from is not None or bool(soup_factors)
    return epochs > 0 and has_start and tuner != ("none",) and classifier not in ("text", "zero_shot")


@dataclass(frozen=True)
class TrainedPartSettings(Settings):
    """What of a model trains."""

    train_only: Annotated[
        Literal["classifier"] | None,
        Acts(
            "for a tuner that keeps what it was given (--init-from, a tuner, and a classifier with a weight of its own; to train a "
            "classifier on the backbone as it is: --tuner none)",
            _keeps_a_tuner,
        ),
    ] = None
    """Train the classifier alone: the tuner, or the whole backbone with tuner full, keeps what --init-from gave it, and takes
    part in the forward pass. Default: all that can train trains."""


def _each_factor_once(soup_factors: tuple[int, ...]) -> str | None:
    twice = next((factor for factor in soup_factors if soup_factors.count(factor) > 1), None)
    return None if twice is None else f"soup_factors: {twice} is there twice; give each factor once"


@dataclass(frozen=True)
class SoupSettings(Settings):
    """LT-Soups: what trains starts from an average of trainings on smaller, more balanced training sets (recipe lt_soups)."""

    soup_factors: Annotated[
        tuple[int, ...],
        Between(0, 40),
        Acts("what a training starts from (epochs 1 or more)", lambda epochs: epochs > 0),
    ] = ()
    """Before the run itself, a training for each factor f: on at most n 2^f images of each class, n being the smallest class's.
    What they train is averaged one after another, from the start of all of them, and the run starts there."""
    soup_keep: Annotated[
        float,
        Between(0, 1, "[)"),
        Acts("the share of an average of trainings (--soup-factors)", lambda soup_factors: bool(soup_factors)),
    ] = 0.7
    """Share of the average so far that each further training leaves in it: average <- 0.7 average + 0.3 next."""
    RULES: ClassVar[tuple[Rule, ...]] = (_each_factor_once,)


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
