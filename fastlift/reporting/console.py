"""What a user sees: while something runs, sentences and progress bars on stderr; results on stdout.

Names come from strangers' files. What would steer the terminal or hide in it is shown as an escape (``naming.printable``),
here, where all text leaves, and nowhere before.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from fastlift.naming import printable

SECONDS_BETWEEN_LINES = 15.0


class PrintableConsole(Console):
    """rich's console, whose own control sequences alone reach the terminal: texts have theirs escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, lines=True), segment.style)


def show(result: RenderableType) -> None:
    """A table or a text as a command's result."""
    PrintableConsole().print(result)


def show_line(text: str) -> None:
    """One line of a command's result."""
    print(printable(text), flush=True)


def show_json(value: Any) -> None:
    """A command's result for programs, on one line: read back, every name is as it was."""
    print(printable(json.dumps(value, ensure_ascii=False)), flush=True)


def show_found(found: Any, as_json: bool) -> None:
    """What a command found: an object that can tell itself as JSON (``to_dict``) and to people (``render``)."""
    if as_json:
        show_json(found.to_dict())
    else:
        show(found.render())


def complain(message: str) -> None:
    """One thing that went wrong, while the command goes on."""
    print(f"fastlift: {printable(message)}", file=sys.stderr)


class Bar(Protocol):
    """Progress of one piece of work."""

    def update(self, done: int, note: str | None = None) -> None:
        """``done`` of the total, and what to say beside it; None leaves what stands there."""


class Ui(Protocol):
    """Somewhere to tell how it goes."""

    def say(self, message: str) -> None:
        """One sentence."""

    def bar(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar for work of ``total`` units, of which ``done`` were made before (a resumed run)."""


class Quiet:
    """Says nothing."""

    def say(self, message: str) -> None:
        pass

    def update(self, done: int, note: str | None = None) -> None:
        pass

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield self


class Terminal:
    """Bars on a terminal; where there is none, a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or PrintableConsole(stderr=True)

    def say(self, message: str) -> None:
        # No markup: messages hold paths, and a path may hold brackets.
        self.console.print(printable(message), highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield _Lines(self, label, total, done)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}", markup=False)
        # The time left is that of the last ten minutes' pace: rich's own half minute is shorter than a step can be.
        progress = Progress(*columns, TimeRemainingColumn(), note, console=self.console, speed_estimate_period=600)
        with progress:
            yield _RichBar(progress, progress.add_task(label, total=total, completed=done, note=""))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, done: int, note: str | None = None) -> None:
        self.progress.update(self.task, completed=done)
        if note is not None:
            self.progress.update(self.task, note=note)


class _Lines:
    """A line at most every few seconds: logs of batch jobs stay readable."""

    def __init__(self, ui: Terminal, label: str, total: int, before: int) -> None:
        self.ui, self.label, self.total, self.before = ui, label, total, before
        self.start = self.last = time.monotonic()
        self.note = ""

    def update(self, done: int, note: str | None = None) -> None:
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES or done <= self.before:
            return
        self.last = now
        left = (now - self.start) * (self.total - done) / (done - self.before)
        left_hms = datetime.timedelta(seconds=round(left))
        self.ui.say(f"{self.label} {done}/{self.total}, {left_hms} left  {self.note}".rstrip())
