"""The validation split, evaluated while a run trains; and the best checkpoint, which the test split is evaluated with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastlift.data.datasets.dataset import DataSet
from fastlift.data.index.index import ImageIndex
from fastlift.engine.agreement import first_says, first_values
from fastlift.engine.opening import Place
from fastlift.errors import UserError
from fastlift.evaluation.evaluate import Evaluation, evaluate
from fastlift.evaluation.intervals import wilson
from fastlift.evaluation.metrics import GROUP_NAMES, Metrics
from fastlift.evaluation.settings import EvaluationSettings
from fastlift.evaluation.validation import Standing, ValidationSettings
from fastlift.models.lift import LiftModel
from fastlift.models.resizing import Resizer
from fastlift.runs import checkpoints
from fastlift.runs.bad_images import BadImages
from fastlift.runs.best import best_checkpoint
from fastlift.runs.events import evaluations
from fastlift.runs.folder import RunFolder
from fastlift.runs.identity import Identity
from fastlift.training.averaging import WeightAverage
from fastlift.training.class_shards import ShardedClassifier

# Of an evaluation's event: what is no figure.
_ABOUT = ("event", "step", "epoch", "split", "checkpoint", "seconds", "evaluate_s")


def validation_split(data: DataSet, asked: str = "--eval-every") -> ImageIndex:
    """The split that ``asked`` evaluates; the test split is never taken in its place.

    Raises:
        UserError: there is none.
    """
    if data.val is None:
        raise UserError(
            f"{asked}: {data.name} has no validation split, and the test split is evaluated once, at the end: train with one "
            "that is cut off from the training images (--val-share 0.1), or give one (--val-list)"
        )
    return data.val


@dataclass
class Validation:
    """Evaluates the validation split of a run in training, and keeps account of the best checkpoint.

    It draws no random numbers and changes nothing that trains, so the steps after it are those of a run without it.

    Attributes:
        model: at its own size when this is made; in training perhaps at a stage's, with a classifier that is split.
        average: of what trains, where the run keeps one: it is what is evaluated, and beside it what trains (``raw_accuracy``).
        standing: what the evaluations so far say, the same on all processes.
    """

    settings: ValidationSettings
    passes: EvaluationSettings
    place: Place
    data: DataSet
    model: LiftModel
    run: RunFolder
    bad: BadImages
    average: WeightAverage | None = None
    standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        self.standing, self._resizer = Standing(self.settings), Resizer(self.model.vit)

    def recall(self, step: int) -> None:
        """Take up what the log says of a run that goes on after ``step`` steps."""
        known = first_says(self.place.world, lambda: json.dumps(evaluations(self.run.metrics, "val")))
        self.standing.found = [event for event in json.loads(known) if event["step"] <= step]

    def __call__(
        self, step: int, epoch: int, checkpoint: str, on_progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """Evaluate after ``step`` steps, in ``epoch`` (from 0), where the state is saved as ``checkpoint``; gives the event.

        Raises:
            OutOfMemory: a batch is too large beside what training keeps.
            UserError: as ``evaluate``.
        """
        waiting = self.place.world.collectives.waiting
        during, waiting.during = waiting.during, lambda: f"the validation after step {step:,}"
        with nullcontext() if self.average is None else self.average.in_place():
            found = self._evaluate(on_progress)
        raw = None if self.average is None else self._evaluate(on_progress)
        waiting.during = during
        values: dict[str, Any] = {"epoch": epoch, "split": "val", "checkpoint": checkpoint, **found.metrics.summary()}
        values["evaluate_s"] = found.seconds
        told = ""
        if raw is not None:
            values |= {f"raw_{name}": value for name, value in raw.metrics.summary().items()}
            values["evaluate_s"] += raw.seconds
            told = f"; without averaging {_shown(raw.metrics.summary()[self.settings.best_by])}"
        self.standing.found.append({"step": step, **values})
        self.place.ui.say(self._told(epoch, checkpoint, found.metrics) + told)
        return values

    def _evaluate(self, on_progress: Callable[[int, int], None]) -> Evaluation:
        index = validation_split(self.data)
        with self._as_tested():
            return evaluate(
                self.model,
                index,
                self.data.group_counts.tolist(),
                self.passes,
                world=self.place.world,
                on_progress=on_progress,
                on_bad=self.bad.of(index),
            )

    @contextmanager
    def _as_tested(self) -> Iterator[None]:
        """The model at its own size, with a whole classifier; then as it trains."""
        side, split = self._resizer.side, self.model.classifier
        self._resizer.restore()
        if isinstance(split, ShardedClassifier):
            self.model.classifier = split.joined()
        try:
            yield
        finally:
            self.model.classifier = split
            self._resizer.resize(side)

    def _told(self, epoch: int, checkpoint: str, metrics: Metrics) -> str:
        best = self.standing.best
        assert best is not None
        is_best = best["checkpoint"] == checkpoint
        rank = (
            "the best so far"
            if is_best
            else f"the best is {best['checkpoint']} ({_shown(best[self.settings.best_by])})"
        )
        by = self.settings.best_by.replace("_", " ")
        value = metrics.summary()[self.settings.best_by]
        return f"epoch {epoch + 1}: {told_figures(metrics.summary())}; {by} {_shown(value)}, {rank}"

    def early_end(self) -> str:
        """Why training ends before its last epoch; empty where it goes on."""
        best = self.standing.best
        if best is None or not self.standing.is_over:
            return ""
        return (
            f"training ends early: no better {self.settings.best_by.replace('_', ' ')} in {self.standing.since_best} "
            f"evaluations since {best['checkpoint']} (--patience {self.settings.patience})"
        )

    def take_best(self, identity: Identity, step: int, average: Mapping[str, Tensor]) -> dict[str, Any]:
        """Give the model, whose classifier is whole, the values of the best checkpoint; says which one, for the results.

        Args:
            step: of what the model holds now.
            average: of what trains, which gets the checkpoint's values too; nothing where the run keeps none.
        """
        world, ui = self.place.world, self.place.ui

        def find() -> str:
            path, reasons = best_checkpoint(self.run.checkpoints, self.standing.found, self.settings, identity)
            for reason in reasons:
                ui.say(f"passed over: {reason}")
            return "" if path is None else path.stem

        name = first_says(world, find)
        chosen = next((event for event in self.standing.found if event["checkpoint"] == name), None)
        if chosen is None:
            ui.say("no checkpoint that was evaluated can be used: the test split is evaluated with the last state")
            return {}
        if chosen["step"] != step:
            if world.is_main:  # the others may not see its disk
                path = self.run.checkpoints / f"{name}.safetensors"
                found = checkpoints.read(path, identity)
                self.model.load_trained(found.trained, f"checkpoint {path}")
                for key, tensor in average.items():
                    tensor.copy_(found.weights()[key])
            with torch.no_grad():
                for tensor in (*self.model.trained().values(), *average.values()):
                    tensor.copy_(first_values(world, tensor.detach()))
        by, count = self.settings.best_by, len(self.standing.found)
        ui.say(
            f"the test split is evaluated with {name}: the best {by.replace('_', ' ')} of {count} "
            f"{'evaluation' if count == 1 else 'evaluations'} of the validation split ({_shown(chosen[by])})"
        )
        return {
            "checkpoint": {"name": name, "step": chosen["step"], "best_by": by, "evaluations": count},
            "validation": {name: value for name, value in chosen.items() if name not in _ABOUT},
        }


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def told_figures(figures: dict[str, Any]) -> str:
    """Such as ``validation 71.2 % (68.1 - 74.0; many 80.0, medium 70.1)``: the 95 % interval, and the groups that have an image."""
    groups = [f"{name} {figures[name]:.1f}" for name in GROUP_NAMES if figures[name] is not None]
    images = figures["samples"]
    low, high = wilson(figures["accuracy"] * images / 100, images)
    told = "; ".join(filter(None, [f"{100 * low:.1f} - {100 * high:.1f}", ", ".join(groups)]))
    return f"validation {figures['accuracy']:.1f} % ({told})"
