"""Where work tells how far it is: what every room may be handed. ``reporting.console`` shows it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


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
        """Say nothing."""

    def update(self, done: int, note: str | None = None) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar that nobody sees."""
        yield self
