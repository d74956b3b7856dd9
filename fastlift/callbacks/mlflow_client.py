"""MLflow (https://mlflow.org): a run of fastlift is a run there, found by a tag when it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart, scalars

_TAG = "fastlift.run"
_LONGEST = 500  # characters of a parameter that every store takes
_AT_ONCE = 100  # parameters
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowClient(Callback):
    """Logs numbers and settings. Where to is taken from MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME (default: fastlift)."""

    def __init__(self) -> None:
        self._id = ""

    def on_start(self, run: RunStart) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient as Client

        self._client = Client()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastlift")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        before = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.run}'", max_results=1)
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        made = self._client.create_run(experiment, run_name=run.folder.resolve().name, tags={_TAG: run.run})
        self._id = made.info.run_id
        params = [Param(key, value[:_LONGEST]) for key, value in _flat(run.config)]
        for start in range(0, len(params), _AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + _AT_ONCE])

    def on_step(self, step: int, values: Event) -> None:
        self._log("step", step, values)

    def on_epoch(self, step: int, values: Event) -> None:
        self._log("epoch", step, values)

    def on_evaluation(self, step: int, values: Event) -> None:
        self._log("evaluation", step, values)

    def on_end(self, end: RunEnd) -> None:
        if self._id:
            self._client.set_terminated(self._id, _STATUS[end.status])

    def _log(self, event: str, step: int, values: Event) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        numbers = [Metric(name, float(value), now, step) for name, value in scalars(event, values).items()]
        self._client.log_batch(self._id, metrics=numbers)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and text."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
