"""The events of ``metrics.jsonl``, a line each: read, and dropped where a run goes on from before them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlift.runs.stored import is_event
from fastlift.system.files import parse_json, write_atomically

Event = dict[str, Any]


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


def evaluations(path: Path, split: str) -> list[Event]:
    """The evaluations of one split that a log holds, by step; where one was logged twice, the later line counts."""
    if not path.is_file():
        return []
    of_split = (event for event, _ in read_events(path)[0] if is_evaluation(event, split))
    by_step = {event["step"]: event for event in of_split}
    return [by_step[step] for step in sorted(by_step)]


def is_evaluation(event: Event, split: str) -> bool:
    """Whether an event is an evaluation of this split; one that names none is of the test split."""
    return event["event"] == "evaluation" and event.get("split", "test") == split


def keep_events(path: Path, wanted: Callable[[Event], bool]) -> None:
    """Drop all lines but those of wanted events, and what a kill cut short; a kill meanwhile leaves the log as it was."""
    if not path.is_file():
        return
    events, _ = read_events(path)
    kept = b"".join(line + b"\n" for event, line in events if wanted(event))
    if kept != path.read_bytes():
        write_atomically(path, lambda part: part.write_bytes(kept))
