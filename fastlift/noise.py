"""What libraries say on stderr: at the command line their warnings are for fastlift's authors, not for its users.

Only the command uses this. ``import fastlift`` leaves Python's warnings as they are, and so does the command where ``-W`` or
PYTHONWARNINGS says what is to be shown.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from fastlift.errors import FastliftWarning
from fastlift.naming import printable


@contextmanager
def own_warnings_alone() -> Iterator[None]:
    """Meanwhile our own warnings are shown as sentences, and nothing is of libraries' warnings and logged remarks.

    What libraries log as errors is shown still. A filter would not do: some libraries put their own before it.
    """
    if sys.warnoptions:
        yield
        return
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    with warnings.catch_warnings():
        warnings.showwarning = _show
        yield


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, FastliftWarning):
        print(f"fastlift: {printable(str(message), lines=True)}", file=file or sys.stderr)
