"""Where work tells how far it is: what every room may be handed. ``reporting.console`` shows it on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

SILENT_S = 2.0


class Bar(Protocol):
    """Progress of one piece of work."""

    def update(self, done: int, note: str | None = None) -> None:
        """``done`` of the total, and what to say beside it; None leaves what stands there."""


class Ui(Protocol):
    """Somewhere to tell how it goes."""

    def say(self, message: str) -> None:
        """One sentence."""

    def bar(self, label: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar for work of ``total`` units (None: nobody knows), of which ``done`` were made before (a resumed run)."""


class Quiet:
    """Says nothing."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def update(self, done: int, note: str | None = None) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, label: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """A bar that nobody sees."""
        yield self


def now_and_then(say: Callable[[str], object]) -> Callable[[str, int, int], None]:
    """What scans call with (what, done, total): says how far one is every two seconds, of one that is quicker nothing."""
    last: dict[str, float] = {}

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - last.setdefault(what, now) > SILENT_S:
            last[what] = now
            say(f"{what}: {done:,} of {total:,}")

    return progress
