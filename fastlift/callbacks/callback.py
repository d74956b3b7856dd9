"""What a training tells those who follow it. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastlift.system.signals import Interrupted

Event = Mapping[str, Any]


@dataclass(frozen=True)
class RunStart:
    """A training that begins, or goes on.

    Attributes:
        folder: the run folder.
        run: the run's own name, 32 hex digits drawn at its start; a run that goes on has the same.
        config: all settings, as ``config.json`` has them.
        data: the data set, as ``data.json`` has it.
        step: steps taken before.
        history: the events until then, lines of ``metrics.jsonl``; empty for a new run.
    """

    folder: Path
    run: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    step: int
    history: Sequence[Event]


@dataclass(frozen=True)
class RunEnd:
    """A training that has ended, or that something has stopped.

    Attributes:
        results: what ``results.json`` holds; None where it did not end.
        error: what stopped it; None where it ended. An ``Interrupted`` for a signal.
    """

    results: Mapping[str, Any] | None
    error: BaseException | None

    @property
    def status(self) -> Literal["finished", "interrupted", "failed"]:
        """In a word."""
        if self.error is None:
            return "finished"
        return "interrupted" if isinstance(self.error, (KeyboardInterrupt, Interrupted)) else "failed"


class Callback:
    """Follows a training: derive from it, write the methods that you want, and give ``fastlift.train(callbacks=[...])`` one.

    They are called in the first of several processes, in the thread that trains, one after another. An error in one does not
    end the run: a warning tells it with the callback's name, and the callback hears of nothing more but the end. What they
    are told are the lines of ``metrics.jsonl`` (docs/reading_a_run.md has their fields); a run that goes on from a
    checkpoint tells the steps since it again.
    """

    def on_start(self, run: RunStart) -> None:
        """The training of ``run`` begins, or goes on."""

    def on_step(self, step: int, values: Event) -> None:
        """Every ``--log-steps`` steps: ``values`` are loss, accuracy, learning_rate ... after ``step`` steps of the run."""

    def on_epoch(self, step: int, values: Event) -> None:
        """An epoch has ended after ``step`` steps: ``values`` are train_loss, train_accuracy ..."""

    def on_evaluation(self, step: int, values: Event) -> None:
        """A split was evaluated after ``step`` steps: ``values`` has its name (``split``: val or test) and the figures."""

    def on_end(self, end: RunEnd) -> None:
        """The training has ended, or was stopped: ``end`` has the results or the error. Called once after ``on_start``."""


def scalars(event: str, values: Event) -> dict[str, float]:
    """The numbers of an event under the names of curves: ``step/loss``, ``epoch/train_loss``, ``val/accuracy``, ``test/few``."""
    kind = values.get("split", "test") if event == "evaluation" else event
    return {
        f"{kind}/{name}": value
        for name, value in values.items()
        if isinstance(value, (int, float)) and name not in ("epoch", "step", "seconds")
    }
