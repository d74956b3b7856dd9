"""Weights & Biases (https://docs.wandb.ai): a run of fastlift is a run there, by the same id when it goes on."""

from __future__ import annotations

import os
from typing import Any

from fastlift.callbacks.callback import Callback, Event, RunEnd, RunStart, scalars


class WandbClient(Callback):
    """Logs numbers over ``step``. Project, entity, offline mode ... are taken from the client's own WANDB_ variables."""

    def __init__(self) -> None:
        self._run: Any = None

    def on_start(self, run: RunStart) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastlift"),
            name=os.environ.get("WANDB_NAME", run.folder.resolve().name),
            id=run.run,
            resume="allow",
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            settings=wandb.Settings(console="off"),  # stdout is fastlift's results
        )
        # Its own step may not go back, as that of a run which goes on from a checkpoint does.
        self._run.define_metric("*", step_metric="step")

    def on_step(self, step: int, values: Event) -> None:
        self._run.log({"step": step, **scalars("step", values)})

    def on_epoch(self, step: int, values: Event) -> None:
        self._run.log({"step": step, **scalars("epoch", values)})

    def on_evaluation(self, step: int, values: Event) -> None:
        self._run.log({"step": step, **scalars("evaluation", values)})
        self._run.summary.update(scalars("evaluation", values))

    def on_end(self, end: RunEnd) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if end.status == "finished" else 1)
