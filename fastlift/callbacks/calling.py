"""Callbacks are called so that none of them can lose a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart
from fastlift.errors import FastliftWarning, UserError


def name_of(callback: Callback) -> str:
    """What messages call it."""
    return str(getattr(callback, "name", type(callback).__name__))


class Callbacks:
    """Tells several of them, in their order; what one raises is warned of, and that one hears of nothing more but the end.

    Args:
        callbacks: to be called; none but in the first process.
        loggers: those too.

    Raises:
        UserError: something that is no callback.
    """

    def __init__(self, callbacks: Sequence[Callback] = (), loggers: Sequence[Callback] = ()) -> None:
        if not isinstance(callbacks, Sequence):
            raise UserError(f"callbacks: expected a list of them, got {callbacks!r:.60}")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise UserError(f"callbacks: expected instances of fastlift.Callback, got {callback!r:.60}")
        self._listening, self._begun = [*callbacks, *loggers], list[Callback]()

    def __bool__(self) -> bool:
        """Whether anybody is told."""
        return bool(self._listening)

    def start(self, run: RunStart) -> None:
        """The training begins."""
        self._begun = list(self._listening)
        self._tell(lambda callback: callback.on_start(run))

    def event(self, event: str, step: int, values: Event) -> None:
        """An event of ``metrics.jsonl``; those of other kinds than step, epoch and evaluation are told to nobody."""
        if event in ("step", "epoch", "evaluation"):
            self._tell(lambda callback: getattr(callback, f"on_{event}")(step, values))

    def end(self, end: RunEnd) -> None:
        """The training has ended; told once to those that heard of its start."""
        self._listening, self._begun = self._begun, []
        self._tell(lambda callback: callback.on_end(end))
        self._listening = []

    @contextmanager
    def told_of_failure(self) -> Iterator[None]:
        """What stops the training while entered is their end too."""
        try:
            yield
        except BaseException as error:
            self.end(RunEnd(None, error))
            raise

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self._listening):
            try:
                call(callback)
            except Exception as error:
                self._listening.remove(callback)
                told = f"callback {name_of(callback)} failed and is told nothing more, the run goes on: {_said(error)}"
                warnings.warn(told, FastliftWarning, stacklevel=2)


def _said(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}{first and f': {first:.300}'}"
