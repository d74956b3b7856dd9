"""Loggers by name: ``--log csv wandb``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Literal

from fastlift.callbacks.background import Background
from fastlift.callbacks.callback import Callback
from fastlift.callbacks.csv_file import CsvFile
from fastlift.callbacks.mlflow_client import MlflowClient
from fastlift.callbacks.trackio_client import TrackioClient
from fastlift.callbacks.wandb_client import WandbClient
from fastlift.errors import UserError
from fastlift.settings import Acts, May, Settings

LogName = Literal["csv", "wandb", "mlflow", "trackio"]
_CLIENTS: dict[str, Callable[[], Callback]] = {"wandb": WandbClient, "mlflow": MlflowClient, "trackio": TrackioClient}


@dataclass(frozen=True)
class LogSettings(Settings):
    """Where else than in the run folder's log the figures go."""

    log: Annotated[
        tuple[LogName, ...], Acts("who is told of a training (epochs 1 or more)", lambda epochs: epochs > 0), May.CHANGE
    ] = ()
    """Log to metrics.csv in the run folder (csv), Weights & Biases (wandb), MLflow (mlflow) or Trackio (trackio) too, by
    their own clients and environment variables."""

    def build(self) -> list[Callback]:
        """The loggers; clients, which may wait for a network, in threads of their own.

        Raises:
            UserError: a client is not installed.
        """
        made: list[Callback] = []
        for name in dict.fromkeys(self.log):
            if name == "csv":
                made.append(CsvFile())
                continue
            if find_spec(name) is None:
                raise UserError(f"--log {name}: {name} is not installed here: pip install 'fastlift[{name}]'")
            made.append(Background(_CLIENTS[name](), name))
        return made
