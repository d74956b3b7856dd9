"""Progress where people look: the bars of a terminal, a notebook's cell, or plain lines in a log."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

from fastlift.errors import UserError
from fastlift.reporting.console import Pace, Terminal
from fastlift.system.printing import printable
from fastlift.system.progress import Bar, Quiet, Ui

SECONDS_BETWEEN_UPDATES = 0.2


def ui_for(ui: Ui | Literal["auto"] | None) -> Ui:
    """Where progress is told.

    Args:
        ui: "auto": a bar in a notebook's cell or on a terminal, else a line on stderr every quarter of a minute; None: nowhere;
            or an object with ``say`` and ``bar``.

    Raises:
        UserError: another word.
    """
    if ui is None:
        return Quiet()
    if isinstance(ui, str):
        if ui != "auto":
            raise UserError(f"ui: expected 'auto', None, or an object with say and bar, not {ui!r}")
        return Notebook() if in_notebook() else Terminal()
    return ui


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel: IPython is there, and its shell belongs to one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Notebook:
    """Sentences as lines of the cell's output, a bar as one element of it that is updated in place."""

    def say(self, message: str) -> None:
        print(printable(message, lines=True), flush=True)

    @contextmanager
    def bar(self, label: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        bar = _CellBar(label, total, done)
        try:
            yield bar
        finally:
            bar.show()


class _CellBar:
    def __init__(self, label: str, total: int | None, done: int) -> None:
        shown: Any = import_module("IPython.display")  # which every notebook brings
        self.label, self.total, self.done, self.note = label, total, done, ""
        self.pace, self.left, self.last = Pace(), "", time.monotonic()
        self._html: Any = shown.HTML
        self._handle: Any = shown.display(shown.HTML(self.to_html()), display_id=True)

    def update(self, done: int, note: str | None = None) -> None:
        now = time.monotonic()
        left = self.pace.left(now, done, self.total)
        self.done, self.left = done, "" if left is None else f"{left} left"
        self.note = self.note if note is None else note
        if now - self.last >= SECONDS_BETWEEN_UPDATES:
            self.last = now
            self.show()

    def show(self) -> None:
        self._handle.update(self._html(self.to_html()))

    def to_html(self) -> str:
        of_all = "" if self.total is None else f"/{self.total:,}"
        left = "" if self.done == self.total else self.left
        text = html.escape(printable("  ".join(part for part in (f"{self.done:,}{of_all}", left, self.note) if part)))
        reached = "" if self.total is None else f' value="{self.done}" max="{max(self.total, 1)}"'
        label = html.escape(printable(self.label))
        return f'<div>{label} <progress aria-label="{label}"{reached}></progress> {text}</div>'
