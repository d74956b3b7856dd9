"""Signals that ask a process to stop: noted between two steps of training, where the state is whole, and raised elsewhere.

Ctrl-C (SIGINT), a scheduler's or container's SIGTERM, a lost connection (SIGHUP) and a scheduler's notice of the time limit
(SIGUSR1). What was ignored when the process started stays ignored, as SIGHUP under nohup. A second signal acts as
if there were nothing here, unless it is the first one's echo: a scheduler that signals every process of a job signals
torchrun too, which passes it on, and so does many a wrapper around a command. Outside the main thread, where Python allows no
handlers, signals work as always.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, SimpleNamespace
from typing import Any

from fastlift.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
ALWAYS_STOP = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 1.0  # after a signal: others in this time are the same request, on another way


class Interrupted(UserError):
    """A signal stopped the work; the message names it and the way on, the exit code is the shell's: 128 + its number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, exit_code=128 + number)


class Signalled(KeyboardInterrupt):
    """A signal came; like Ctrl-C's exception it passes every ``except Exception``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Handlers:
    """While entered, the first of the signals calls ``arrived``, its echoes nothing; the next finds the handlers from before."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        # When the last signal came that was no echo; shared by handlers inside each other.
        self._heard = SimpleNamespace(at=-math.inf)
        self._arrived = False

    def __enter__(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                now = signal.getsignal(number)
                outer = getattr(now, "__self__", None)
                if isinstance(outer, _Handlers):
                    self._heard = outer._heard
                # A program around this one may use SIGHUP and SIGUSR1 for something else: its handlers stay.
                ours = now is signal.SIG_DFL or isinstance(outer, _Handlers)
                if ours or (number in ALWAYS_STOP and now not in (signal.SIG_IGN, None)):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._heard.at < ECHO_S:
            return
        if self._arrived:
            self._restore()
            signal.raise_signal(number)
            return
        self._arrived, self._heard.at = True, now
        self.arrived(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def arrived(self, number: int) -> None:
        raise NotImplementedError


class StopSignals(_Handlers):
    """While entered, a signal raises ``Signalled``."""

    def arrived(self, number: int) -> None:
        raise Signalled(number)


class StopRequest(_Handlers):
    """While entered, the first signal is noted, to be asked for where stopping leaves the state whole.

    Attributes:
        number: of the signal, None where none came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number: int | None = None

    def arrived(self, number: int) -> None:
        self.number = number

    @property
    def asked(self) -> bool:
        """Whether one has come."""
        return self.number is not None


class Outlasting(_Handlers):
    """While entered, the first signal that nothing inside waits for is ignored.

    For the end of one of several processes: torchrun sends SIGTERM to the others as soon as one has failed, which would keep
    them from telling why.
    """

    def arrived(self, number: int) -> None:
        """Let it pass."""
