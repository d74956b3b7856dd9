"""Evaluating the validation split while a run trains: when, by which figure the best is chosen, when training ends early.

Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastlift.settings import Acts, Between, May, Settings

BestBy = Literal[
    "mean_class_accuracy", "accuracy", "macro_f1", "harmonic_mean", "geometric_mean", "worst_class", "log_loss"
]
_LOWER_IS_BETTER = ("log_loss",)
_WHEN = Acts("of evaluations while a run trains (--eval-every)", lambda eval_every: eval_every is not None)


def _whole_epochs_or_parts_of_one(eval_every: float | None) -> str | None:
    if eval_every is None or eval_every < 1 or eval_every == int(eval_every):
        return None
    return f"eval_every: expected a whole number of epochs, or less than 1 for parts of one, got {eval_every:g}"


@dataclass(frozen=True)
class ValidationSettings(Settings):
    """When the validation split is evaluated, and what its figures decide."""

    eval_every: Annotated[
        float | None,
        Between(0, 10**6, "(]"),
        Acts("when a training evaluates its validation split (epochs 1 or more)", lambda epochs: epochs > 0),
        May.CHANGE,
    ] = None
    """Evaluate the validation split every N epochs and at the end; 0.25: four times an epoch. The best checkpoint is kept,
    and the test split is evaluated with it, once. Needs a validation split, such as --val-share 0.1. Default: never, as in
    the papers."""
    best_by: Annotated[BestBy, _WHEN, May.CHANGE] = "mean_class_accuracy"
    """Figure of the validation split by which the best checkpoint is chosen; of equal ones the earlier."""
    patience: Annotated[int | None, Between(1), _WHEN, May.CHANGE] = None
    """End training after so many evaluations in a row without a better one (default: train all epochs)."""
    RULES = (_whole_epochs_or_parts_of_one,)

    def is_due(self, epoch: int, step: int, steps_per_epoch: int, epochs: int) -> bool:
        """Whether to evaluate where ``epoch`` epochs and ``step`` steps of the next one are done; always after the last."""
        if self.eval_every is None or (epoch, step) == (0, 0):
            return False
        if self.eval_every >= 1:
            return step == 0 and (epoch % int(self.eval_every) == 0 or epoch == epochs)
        parts = min(round(1 / self.eval_every), steps_per_epoch)
        return step in {part * steps_per_epoch // parts for part in range(parts)}

    def score(self, figures: Mapping[str, Any]) -> float:
        """How good an evaluation is: higher is better, minus infinity where it does not have the figure."""
        value = figures.get(self.best_by)
        if value is None:
            return -math.inf
        return -value if self.best_by in _LOWER_IS_BETTER else value

    def ranked(self, found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Evaluations (events of ``metrics.jsonl``) from the best on; of equal ones the earlier comes first."""
        return sorted(found, key=lambda event: (-self.score(event), event["step"]))


@dataclass
class Standing:
    """What the evaluations of a run say so far."""

    settings: ValidationSettings
    found: list[dict[str, Any]] = field(default_factory=list)  # events, by step

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The best of them."""
        return self.settings.ranked(self.found)[0] if self.found else None

    @property
    def since_best(self) -> int:
        """How many have come after the best one."""
        best = self.best
        return 0 if best is None else sum(event["step"] > best["step"] for event in self.found)

    @property
    def is_over(self) -> bool:
        """Whether training ends early."""
        return self.settings.patience is not None and self.since_best >= self.settings.patience

    def holds(self, step: int) -> bool:
        """Whether there is one of this step."""
        return any(event["step"] == step for event in self.found)
