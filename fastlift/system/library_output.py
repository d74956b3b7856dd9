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
from contextlib import contextmanager, suppress

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
def native_output_shut(*descriptors: int) -> Iterator[None]:
    """Meanwhile what native code prints on stdout (1) or stderr (2) goes nowhere. Python's own streams are not to be used.

    gloo tells on stdout, which is for results that programs read, how many processes it has connected (torch 2.9).
    """
    kept = {}
    for number in descriptors:
        stream = sys.stdout if number == 1 else sys.stderr
        if stream is not None:
            stream.flush()
        with suppress(OSError):  # it is closed
            kept[number] = os.dup(number)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, own in kept.items():
            os.dup2(own, number)
            os.close(own)
        os.close(nowhere)


def _show(message: Warning | str, category: type[Warning], *place: object, **named: object) -> None:
    if issubclass(category, FastliftWarning):
        print(f"fastlift: {printable(str(message), lines=True)}", file=sys.stderr)
