"""The growing log of a run: a line an event in ``metrics.jsonl``, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlift.runs.folder import RunFolder
from fastlift.runs.stored import is_event
from fastlift.system.files import append, parse_json, write_atomically

Event = dict[str, Any]


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
        """One event; numbers among the values become TensorBoard scalars ``event/name``.

        Raises:
            OSError: the disk is full, for instance; no part of the line stays.
        """
        line = (json.dumps({"event": event, "step": step, **values}) + "\n").encode()
        append(self._file, line, self._path)
        for name, value in values.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "seconds"):
                self._board.add_scalar(f"{event}/{name}", value, step)


def read_events(path: Path) -> tuple[list[tuple[Event, bytes]], list[int]]:
    """The events of a log with the lines that they stand in; and the numbers of the lines that hold none."""
    events, unreadable = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:  # a byte that is no UTF-8 costs the text that it stands in, not the line
            event = parse_json(line.decode("utf-8", errors="replace").encode())
        except ValueError:
            event = None
        if is_event(event):
            events.append((event, line))
        else:
            unreadable.append(number)
    return events, unreadable


def has_event(path: Path, event: str, step: int) -> bool:
    """Whether a log has a line of this kind and step."""
    if not path.is_file():
        return False
    events, _ = read_events(path)
    return any(found.get("event") == event and found["step"] == step for found, _ in events)


def keep_events(path: Path, wanted: Callable[[Event], bool]) -> None:
    """Drop all lines but those of wanted events, and what a kill cut short; a kill meanwhile leaves the log as it was."""
    if not path.is_file():
        return
    events, _ = read_events(path)
    kept = b"".join(line + b"\n" for event, line in events if wanted(event))
    if kept != path.read_bytes():
        write_atomically(path, lambda part: part.write_bytes(kept))
