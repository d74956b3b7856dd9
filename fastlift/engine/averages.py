"""A run that keeps an average of what trains hands the average out; what trains stands beside it, named ``raw``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fastlift.errors import UserError
from fastlift.evaluation.evaluate import Evaluation
from fastlift.models.lift import LiftModel
from fastlift.training.averaging import Weights
from fastlift.training.class_shards import ShardedClassifier
from fastlift.training.step import Learner

RAW = " (raw)"  # behind the name of an evaluation


def check_weights(ema: float | None, which: Weights | None) -> None:
    """Refuse a choice of weights of a run that has one set of them alone, by its setting.

    Raises:
        UserError: the run keeps no average.
    """
    if which is not None and ema is None:
        raise UserError(
            f"weights {which}: this run keeps no average of its weights (--ema), so there is nothing to choose"
        )


def make_whole(learner: Learner) -> dict[str, Tensor]:
    """Give the model its whole classifier back where it is split; and the average of that model's ``trained``, if there is one.

    All ranks take part.
    """
    model, split, found = learner.model, learner.model.classifier, dict[str, Tensor]()
    if learner.average is not None:
        with learner.average.in_place():
            if isinstance(split, ShardedClassifier):
                model.classifier = split.joined()
            found = {name: parameter.detach().clone() for name, parameter in model.trained().items()}
    if isinstance(split, ShardedClassifier):
        model.classifier = split.joined()
    return found


def evaluate_both(
    model: LiftModel, average: Mapping[str, Tensor], evaluate: Callable[[], Evaluation], say: Callable[[str], object]
) -> tuple[Evaluation, Evaluation | None]:
    """Of the average, which the model has then; and of what it had, which is told; None where there is no average."""
    if not average:
        return evaluate(), None
    raw = evaluate()
    say(
        f"the run hands out the average of its weights; those that trained have an accuracy of {raw.metrics.accuracy:.1f} %"
    )
    with torch.no_grad():
        for name, parameter in model.trained().items():
            parameter.copy_(average[name])
    return evaluate(), raw
