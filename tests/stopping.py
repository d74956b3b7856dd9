"""A training that a signal stops at a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastlift.training.step import Learner


@contextmanager
def signal_in_step(number: int, sent: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """This process gets a signal in the step of that number, of those taken inside, from 1: it ends after the step."""
    step, taken = Learner.step, 0

    def stop_after(self: Learner, *given: Any) -> bool:
        nonlocal taken
        taken += 1
        if taken == number:
            os.kill(os.getpid(), sent)
        return step(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", stop_after)
        yield
