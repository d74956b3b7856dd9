"""A callback in a thread of its own: a service that is slow, or not there, never holds a training up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart

END_S = 60.0  # for what is left to be sent when the training has ended


class Background(Callback):
    """Calls ``inner`` in a thread, in the order of the events; its first error is raised at the event after it.

    Args:
        inner: called by that thread alone.
        end_s: seconds that ``on_end`` waits for it.
    """

    def __init__(self, inner: Callback, name: str, end_s: float = END_S) -> None:
        self.name = name
        self._inner, self._end_s = inner, end_s
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name=f"fastlift-{name}", daemon=True)

    def on_start(self, run: RunStart) -> None:
        self._thread.start()
        self._call(lambda: self._inner.on_start(run))

    def on_step(self, step: int, values: Event) -> None:
        self._call(lambda: self._inner.on_step(step, values))

    def on_epoch(self, step: int, values: Event) -> None:
        self._call(lambda: self._inner.on_epoch(step, values))

    def on_evaluation(self, step: int, values: Event) -> None:
        self._call(lambda: self._inner.on_evaluation(step, values))

    def on_end(self, end: RunEnd) -> None:
        self._calls.put(lambda: self._inner.on_end(end))
        self._calls.put(None)
        self._thread.join(self._end_s)
        if self._thread.is_alive():
            raise TimeoutError(f"not done after {self._end_s:g} s: what it has not sent by then is lost")
        self._raise()

    def _call(self, call: Callable[[], None]) -> None:
        self._raise()
        self._calls.put(call)

    def _raise(self) -> None:
        if self._error is not None and not self._is_told:
            self._is_told = True
            raise self._error

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                self._error = self._error or error
