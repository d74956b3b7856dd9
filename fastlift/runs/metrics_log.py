"""The growing log of a run: a line an event in ``metrics.jsonl``, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from fastlift.callbacks.callback import scalars
from fastlift.runs.events import keep_events
from fastlift.runs.folder import RunFolder
from fastlift.system.files import append


class MetricsLog:
    """Appends events to ``metrics.jsonl``, a line each, and scalars to TensorBoard.

    A resumed run first drops the lines after its checkpoint, so that every step stands there once.
    """

    def __init__(self, run: RunFolder, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = run.metrics
        began = run.metrics.exists()
        keep_events(run.metrics, lambda event: event["step"] <= from_step)
        self._file = os.open(run.metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # TensorBoard forgets what an earlier process wrote from this step on.
            self._board = SummaryWriter(str(run.tensorboard), purge_step=from_step + 1 if began else None)
        except BaseException as error:  # a disk, or no more threads
            os.close(self._file)
            if isinstance(error, OSError):
                error.filename = error.filename or str(run.tensorboard)
            raise

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        os.close(self._file)
        try:
            self._board.close()
        except OSError:
            if kind is None:  # else what went wrong first is told
                raise

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """One event; numbers among the values become TensorBoard scalars, ``step/loss`` or ``val/accuracy``.

        Raises:
            OSError: the disk is full, for instance; no part of the line stays.
        """
        line = (json.dumps({"event": event, "step": step, **values}) + "\n").encode()
        append(self._file, line, self._path)
        for name, value in scalars(event, values).items():
            self._board.add_scalar(name, value, step)
