"""What a user sees while something runs: sentences and progress bars, on stderr, so that stdout holds results alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class Bar(Protocol):
    """Progress of one piece of work."""

    def update(self, done: int, note: str = "") -> None:
        """``done`` of the total, and what to say beside it."""


class Ui(Protocol):
    """Somewhere to tell how it goes."""

    def say(self, message: str) -> None:
        """One sentence."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """A bar for work of ``total`` units."""


class Quiet:
    """Says nothing."""

    def say(self, message: str) -> None:
        pass

    def update(self, done: int, note: str = "") -> None:
        pass

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        yield self


class Terminal:
    """Bars on a terminal; where there is none, a line now and then."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield _Lines(self, label, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console)
        with progress:
            yield _RichBar(progress, progress.add_task(label, total=total, note=""))


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, done: int, note: str = "") -> None:
        self.progress.update(self.task, completed=done, note=note)


class _Lines:
    """A line at most every few seconds: logs of batch jobs stay readable."""

    def __init__(self, ui: Terminal, label: str, total: int) -> None:
        self.ui, self.label, self.total = ui, label, total
        self.start = self.last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES or not done:
            return
        self.last = now
        left = (now - self.start) * (self.total - done) / done
        self.ui.say(f"{self.label} {done}/{self.total}, {left:.0f} s left  {note}".rstrip())
