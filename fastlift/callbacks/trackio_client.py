"""Trackio (https://github.com/gradio-app/trackio): runs in a local database, shown by ``trackio show``."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from typing import Any

from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart, scalars


class TrackioClient(Callback):
    """Logs numbers over steps. Project (default: fastlift), folder, space ... are taken from its TRACKIO_ variables."""

    def __init__(self) -> None:
        self._run: Any = None

    def on_start(self, run: RunStart) -> None:
        import trackio

        with redirect_stdout(sys.stderr):  # stdout is fastlift's results
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "fastlift"),
                name=f"{run.folder.resolve().name}-{run.run[:8]}",  # by which it is found again
                config=dict(run.config),
                resume="allow",
                embed=False,
            )

    def on_step(self, step: int, values: Event) -> None:
        self._run.log(scalars("step", values), step=step)

    def on_epoch(self, step: int, values: Event) -> None:
        self._run.log(scalars("epoch", values), step=step)

    def on_evaluation(self, step: int, values: Event) -> None:
        self._run.log(scalars("evaluation", values), step=step)

    def on_end(self, end: RunEnd) -> None:
        if self._run is not None:
            with redirect_stdout(sys.stderr):
                self._run.finish()
