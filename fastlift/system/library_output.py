"""What libraries say: at the command line their warnings are for fastlift's authors, not for its users.

Of warnings, only the command uses this. ``import fastlift`` leaves Python's warnings as they are, and so does the command where ``-W`` or
PYTHONWARNINGS says what is to be shown.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fastlift.errors import FastliftWarning
from fastlift.system.printing import printable


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


@contextmanager
def native_stdout_shut() -> Iterator[None]:
    """Meanwhile what native code prints on stdout goes nowhere: stdout is for results, which programs read.

    gloo tells there how many processes it has connected (torch 2.9). Python's own ``sys.stdout`` is not to be used meanwhile.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _show(message: Warning | str, category: type[Warning], *place: object, **named: object) -> None:
    if issubclass(category, FastliftWarning):
        print(f"fastlift: {printable(str(message), lines=True)}", file=sys.stderr)
