"""What a user sees: while something runs, sentences and progress bars on stderr; results on stdout.

Names come from strangers' files. What would steer the terminal or hide in it is shown as an escape (``printing.printable``),
here, where all text leaves, and nowhere before.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.segment import Segment

from fastlift.system.printing import printable
from fastlift.system.progress import Bar

SECONDS_BETWEEN_LINES = 15.0
LATE_S = 30.0  # the pace of late is that of so many seconds at least


class PrintableConsole(Console):
    """rich's console, whose own control sequences alone reach the terminal: texts have theirs escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, lines=True), segment.style)


def show_line(text: str) -> None:
    """One line of a command's result."""
    print(printable(text), flush=True)


def show_json(value: Any) -> None:
    """A command's result for programs, on one line: read back, every name is as it was."""
    print(printable(json.dumps(value, ensure_ascii=False)), flush=True)


def show_result(value: Any, shown: RenderableType, as_json: bool) -> None:
    """A command's result, for programs or, as a table or a text, for people."""
    if as_json:
        show_json(value)
    else:
        PrintableConsole().print(shown)


def show_found(found: Any, as_json: bool) -> None:
    """What a command found: an object that can tell itself as JSON (``to_dict``) and to people (``render``)."""
    show_result(found.to_dict(), found.render(), as_json)


def complain(message: str) -> None:
    """One thing that went wrong, while the command goes on."""
    print(f"fastlift: {printable(message)}", file=sys.stderr)


class Terminal:
    """Bars on a terminal; where there is none, a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or PrintableConsole(stderr=True)

    def say(self, message: str) -> None:
        # No markup: messages hold paths, and a path may hold brackets.
        self.console.print(printable(message), highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, label: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield _Lines(self, label, total, done)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
        beside = [TextColumn(f"{{task.fields[{field}]}}", markup=False) for field in ("left", "note")]
        progress = Progress(*columns, *beside, console=self.console)
        with progress:
            yield _RichBar(progress, progress.add_task(label, total=total, completed=done, left="", note=""), total)


class Pace:
    """How long the rest will take, by the pace of the later half of the time so far, and of half a minute at least.

    The first steps of a run may compile and take minutes; steps may be longer than half a minute, too.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # (time, units done), a second apart or more
        self._first = 0.0

    def left(self, now: float, done: int, total: int | None) -> datetime.timedelta | None:
        """After ``done`` of ``total`` units, at ``now`` (seconds); None before the second of them has ended, or without a total."""
        if not self._marks:
            self._first = now
        late = now - max(LATE_S, (now - self._first) / 2)
        while len(self._marks) > 1 and self._marks[0][0] < late:
            self._marks.popleft()
        since, before = self._marks[0] if self._marks else (now, done)
        if not self._marks or now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, done))
        if done <= before or total is None:
            return None
        return datetime.timedelta(seconds=round((now - since) * (total - done) / (done - before)))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID, total: int | None) -> None:
        self.progress, self.task, self.total, self.pace = progress, task, total, Pace()

    def update(self, done: int, note: str | None = None) -> None:
        left = self.pace.left(time.monotonic(), done, self.total)
        fields: dict[str, Any] = {"left": "" if left is None else f"{left} left"} | (
            {} if note is None else {"note": note}
        )
        self.progress.update(self.task, completed=done, **fields)


class _Lines:
    """A line at most every few seconds: logs of batch jobs stay readable."""

    def __init__(self, ui: Terminal, label: str, total: int | None, before: int) -> None:
        self.ui, self.label, self.total, self.before = ui, label, total, before
        self.last, self.pace = time.monotonic(), Pace()
        self.note = ""

    def update(self, done: int, note: str | None = None) -> None:
        self.note = self.note if note is None else note
        now = time.monotonic()
        left = self.pace.left(now, done, self.total)
        if now - self.last < SECONDS_BETWEEN_LINES or done <= self.before:
            return
        self.last = now
        told = "" if left is None else f", {left} left"
        of_all = "" if self.total is None else f"/{self.total}"
        self.ui.say(f"{self.label} {done}{of_all}{told}  {self.note}".rstrip())
